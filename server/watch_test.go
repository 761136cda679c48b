package server

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// bubble runs test in a synctest bubble with a server whose network is memory, so that five minutes
// pass as soon as nobody has anything to do.
func bubble(t *testing.T, store func(*model.Store) blob.Store, test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, ctx: t.Context(), store: model.New(time.Hour)}
		r.server = New(Options{Store: store(r.store), Actions: action.New(r.store, r.store)})
		l := bufconn.Listen(1 << 20)
		go r.server.Serve(l)
		conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		r.bs = bytestream.NewByteStreamClient(conn)
		test(t, r)
		r.server.Stop(t.Context())
		conn.Close()
	})
}

func asItIs(s *model.Store) blob.Store { return s }

// TestStalledUpload checks that an upload whose client is silent ends though its connection lives, and
// can be gone on with.
func TestStalledUpload(t *testing.T) {
	bubble(t, asItIs, func(t *testing.T, r *rig) {
		data := pattern(100, 1)
		name := resource{upload: "u", digest: digest.SHA256.Of(data)}.String()
		stream, err := r.bs.Write(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&bytestream.WriteRequest{ResourceName: name, Data: data[:40]}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(stall - time.Second) // slow is not stalled
		if err := stream.Send(&bytestream.WriteRequest{WriteOffset: 40, Data: data[40:50]}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		wantStatus(t, stream.RecvMsg(new(bytestream.WriteResponse)), codes.Unavailable, "5m0s")
		if got := time.Since(began); got != stall {
			t.Errorf("ended after %v, want %v", got, stall)
		}
		synctest.Wait()
		if count, _ := r.server.uploads.kept(); count != 1 {
			t.Errorf("got %d uploads that can be gone on with, want 1", count)
		}
		if got, err := r.writeFrom(name, data, 50, 50); err != nil || got != 100 {
			t.Errorf("going on: got %d, %v, want 100", got, err)
		}
	})
}

// TestStalledDownload checks that a client which takes nothing does not hold a blob for ever, and that
// one which takes a little now and then is served.
func TestStalledDownload(t *testing.T) {
	bubble(t, asItIs, func(t *testing.T, r *rig) {
		data := pattern(8<<20, 1)
		name := resource{digest: digest.SHA256.Of(data)}.String()
		r.put(digest.SHA256, data)
		stream, err := r.bs.Read(r.ctx, &bytestream.ReadRequest{ResourceName: name})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := r.store.Pins(); got != 1 {
			t.Fatalf("got %d open blobs, want 1", got)
		}
		for range 2 {
			time.Sleep(stall - time.Second)
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(stall)
		synctest.Wait()
		if got := r.store.Pins(); got != 0 {
			t.Errorf("got %d open blobs after %v, want none", got, stall)
		}
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		wantStatus(t, err, codes.Unavailable, "5m0s")
	})
}

// TestSlowStore checks that the time which the store takes is not the client's.
func TestSlowStore(t *testing.T) {
	slow := func(s *model.Store) blob.Store {
		gate := make(chan struct{})
		time.AfterFunc(10*stall, func() { close(gate) })
		return gatedStore{s, gate}
	}
	bubble(t, slow, func(t *testing.T, r *rig) {
		data := pattern(100, 1)
		name := resource{upload: "u", digest: digest.SHA256.Of(data)}.String()
		if got, err := r.write(name, data, 100); err != nil || got != 100 {
			t.Errorf("got %d, %v, want 100", got, err)
		}
	})
}

// A lingeringStore's writers take their time to close.
type lingeringStore struct {
	*model.Store
	closed atomic.Int64 // writers
}

type lingeringWriter struct {
	blob.Writer
	store *lingeringStore
}

func (s *lingeringStore) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	w, err := s.Store.Create(ctx, d)
	return &lingeringWriter{w, s}, err
}

func (w *lingeringWriter) Close() error {
	time.Sleep(time.Hour)
	w.store.closed.Add(1)
	return w.Writer.Close()
}

// TestStopAfterStall checks that Stop waits for a call which its client has given up, but which still
// uses the store.
func TestStopAfterStall(t *testing.T) {
	var store *lingeringStore
	lingering := func(s *model.Store) blob.Store {
		store = &lingeringStore{Store: s}
		return store
	}
	bubble(t, lingering, func(t *testing.T, r *rig) {
		name := resource{upload: "u", compressed: true, digest: digest.SHA256.Of([]byte("x"))}.String()
		stream, err := r.bs.Write(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&bytestream.WriteRequest{ResourceName: name}); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, stream.RecvMsg(new(bytestream.WriteResponse)), codes.Unavailable)
		r.server.Stop(r.ctx)
		if got := store.closed.Load(); got != 1 {
			t.Errorf("after Stop: got %d closed writers, want 1", got)
		}
	})
}
