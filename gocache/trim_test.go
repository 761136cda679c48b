package gocache

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"

	"github.com/sarsen-build/sarsen/internal/storetest"
)

// running is a go command that began two hours ago, and was given an output one hour ago.
func running(t *testing.T, dir string) (g *goCommand, name string) {
	t.Helper()
	g = run(t, Options{Dir: dir, MaxSize: 1 << 30})
	d := g.cache.near
	d.start = time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(d.alive.Name(), d.start, d.start); err != nil {
		t.Fatal(err)
	}
	name = g.put(1, []byte("x"))
	age(t, name, time.Hour)
	return g, name
}

// TestTrimSparesRunning wants the directory empty while a go command runs: what that was given stays, and goes then.
func TestTrimSparesRunning(t *testing.T) {
	dir := t.TempDir()
	g, name := running(t, dir)
	run(t, Options{Dir: dir, MaxSize: 1}).close()
	g.wantFile(1, name, []byte("x"))
	g.close()
	age(t, name, time.Hour)
	run(t, Options{Dir: dir, MaxSize: 1}).close()
	if _, err := os.Stat(name); err == nil {
		t.Error("what no go command was given stays")
	}
}

// TestVictimUsed uses an output between the choice of a trimmer and its removal.
func TestVictimUsed(t *testing.T) {
	g := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30})
	name := g.put(1, []byte("x"))
	age(t, name, time.Hour)
	d := g.cache.near
	chosen, _ := d.outputs()
	g.hit(1, []byte("x"))
	if gone, err := d.removeAll(chosen, time.Now().Add(-grace), time.Now().Add(trimTime)); gone != 0 || err != nil {
		t.Errorf("got %d bytes removed, %v, want none", gone, err)
	}
	g.wantFile(1, name, []byte("x"))
	g.close()
}

// TestBuryDeadOnly closes a cache while another one is writing.
func TestBuryDeadOnly(t *testing.T) {
	dir := t.TempDir()
	g := run(t, Options{Dir: dir, MaxSize: 1 << 30})
	p, err := g.cache.near.begin()
	if err != nil {
		t.Fatal(err)
	}
	run(t, Options{Dir: dir, MaxSize: 1 << 30}).close()
	if _, err := os.Stat(p.file.Name()); err != nil {
		t.Errorf("the part: %v", err)
	}
	p.discard()
	g.close()
}

// TestLyingServer has a server that sends other bytes inside a result than the result names. What it has under their
// digest is right, or not there.
func TestLyingServer(t *testing.T) {
	store, conn := newServer(t, time.Hour)
	body := storetest.Bytes(1, 1000)
	one := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn})
	one.put(1, body)
	one.close()
	lying := dial(t, conn.Target(), grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
		err := call(ctx, method, req, reply, cc, o...)
		if result, ok := reply.(*repb.ActionResult); ok && err == nil {
			result.OutputFiles[0].Contents = make([]byte, 1000)
		}
		return err
	}), grpc.WithStreamInterceptor(func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
		return nil, io.ErrUnexpectedEOF
	}))
	two := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: lying})
	two.miss(1)
	two.close()
	if pins := store.Pins(); pins != 0 {
		t.Errorf("%d pins left", pins)
	}
}
