package gocache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/internal/breaker"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/server"
)

// A goCommand speaks the protocol as the go command does, one request at a time.
type goCommand struct {
	t     testing.TB
	cache *Cache
	in    *io.PipeWriter
	out   *json.Decoder
	last  int64
	trim  chan func()
}

func run(t testing.TB, o Options) *goCommand {
	t.Helper()
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	g := &goCommand{t: t, cache: Open(o), in: in, out: json.NewDecoder(out), trim: make(chan func(), 1)}
	go func() {
		trim, err := g.cache.Serve(context.Background(), stdin, stdout)
		if err != nil {
			t.Errorf("serve: %v", err)
		}
		stdout.Close()
		g.trim <- trim
	}()
	var hello response
	if err := g.out.Decode(&hello); err != nil || hello.ID != 0 || len(hello.KnownCommands) != 3 {
		t.Fatalf("the first answer: got %+v, %v", hello, err)
	}
	return g
}

func (g *goCommand) ask(r request, body []byte) response {
	g.t.Helper()
	g.last++
	r.ID = g.last
	// Only what the go command would send.
	fields := map[string]any{"ID": r.ID, "Command": r.Command}
	if r.ActionID != nil {
		fields["ActionID"] = r.ActionID
	}
	if r.OutputID != nil {
		fields["OutputID"] = r.OutputID
	}
	if len(body) > 0 {
		fields["BodySize"] = len(body)
	}
	line, err := json.Marshal(fields)
	if err != nil {
		g.t.Fatal(err)
	}
	text := string(line) + "\n\n"
	if len(body) > 0 {
		text += `"` + base64.StdEncoding.EncodeToString(body) + "\"\n"
	}
	if _, err := io.WriteString(g.in, text); err != nil {
		g.t.Fatal(err)
	}
	var a response
	if err := g.out.Decode(&a); err != nil || a.ID != r.ID {
		g.t.Fatalf("%s: got %+v, %v, want the answer to %d", r.Command, a, err, r.ID)
	}
	return a
}

func actionOf(n int) []byte {
	h := sha256.Sum256(fmt.Append(nil, "action ", n))
	return h[:]
}

func (g *goCommand) put(n int, body []byte) string {
	g.t.Helper()
	output := sha256.Sum256(body)
	a := g.ask(request{Command: "put", ActionID: actionOf(n), OutputID: output[:]}, body)
	if a.Err != "" {
		g.t.Fatalf("put %d: %s", n, a.Err)
	}
	g.wantFile(n, a.DiskPath, body)
	return a.DiskPath
}

func (g *goCommand) wantFile(n int, name string, body []byte) {
	g.t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, body) || !filepath.IsAbs(name) {
		g.t.Fatalf("action %d: %s has %d bytes, %v; want the %d that were put", n, name, len(got), err, len(body))
	}
}

// hit wants the entry n to be body.
func (g *goCommand) hit(n int, body []byte) response {
	g.t.Helper()
	a := g.ask(request{Command: "get", ActionID: actionOf(n)}, nil)
	output := sha256.Sum256(body)
	if a.Err != "" || a.Miss || !bytes.Equal(a.OutputID, output[:]) || a.Size != int64(len(body)) || a.Time == nil {
		g.t.Fatalf("get %d: got %+v, want a hit of %d bytes", n, a, len(body))
	}
	g.wantFile(n, a.DiskPath, body)
	return a
}

func (g *goCommand) miss(n int) {
	g.t.Helper()
	if a := g.ask(request{Command: "get", ActionID: actionOf(n)}, nil); !a.Miss || a.Err != "" || a.DiskPath != "" {
		g.t.Fatalf("get %d: got %+v, want a miss", n, a)
	}
}

func (g *goCommand) close() Stats {
	g.t.Helper()
	if a := g.ask(request{Command: "close"}, nil); a.Err != "" {
		g.t.Fatalf("close: %s", a.Err)
	}
	(<-g.trim)()
	return g.cache.Stats()
}

// newServer starts the real server on a store in memory.
func newServer(t testing.TB, lease time.Duration) (*model.Store, *grpc.ClientConn) {
	store := model.New(lease)
	s := server.New(server.Options{Store: store, Actions: action.New(store, store)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Stop(ctx)
	})
	return store, dial(t, l.Addr().String())
}

func dial(t testing.TB, addr string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// bodies are outputs of every size that is treated in a way of its own.
func bodies() [][]byte {
	all := [][]byte{nil, []byte("x")}
	for i, n := range []int{4096, 300_000, small, small + 1, 5 << 20} {
		all = append(all, storetest.Bytes(uint64(i), n))
	}
	return all
}

func TestTwoMachines(t *testing.T) {
	_, conn := newServer(t, time.Hour)
	one := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn, Instance: "go"})
	times := map[int]time.Time{}
	for i, body := range bodies() {
		one.miss(i)
		one.put(i, body)
		times[i] = *one.hit(i, body).Time
	}
	n := int64(len(bodies()))
	if got, want := one.close(), (Stats{Local: n, Misses: n, Puts: n, Uploaded: n}); got != want {
		t.Errorf("first machine: got %+v, want %+v", got, want)
	}
	two := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn, Instance: "go"})
	for i, body := range bodies() {
		if got := *two.hit(i, body).Time; !got.Equal(times[i]) {
			t.Errorf("entry %d: got time %v, want %v, when it was made", i, got, times[i])
		}
	}
	two.hit(1, bodies()[1])
	if got, want := two.close(), (Stats{Local: 1, Remote: n}); got != want {
		t.Errorf("second machine: got %+v, want %+v", got, want)
	}
	other := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn, Instance: "another"})
	other.miss(1)
	other.close()
}

func TestAgain(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxSize: 1 << 30}
	one := run(t, o)
	for i, body := range bodies() {
		one.put(i, body)
	}
	name := one.put(1, []byte("x"))
	one.put(1, []byte("another output of the same action"))
	one.close()
	two := run(t, o)
	two.hit(1, []byte("another output of the same action"))
	if got := two.put(100, []byte("x")); got != name {
		t.Errorf("the same output again: got %s, want %s", got, name)
	}
	two.close()
}

// TestGoMovesFiles has the names that the go command would otherwise take for its own, and move away.
func TestGoMovesFiles(t *testing.T) {
	base := t.TempDir()
	goCache := filepath.Join(base, "go-build")
	for dir, want := range map[string]string{
		filepath.Join(base, "elsewhere"):       filepath.Join(goCache, "sarsen-"),
		filepath.Join(base, "go-build-sarsen"): filepath.Join(base, "go-build-sarsen", outputDir),
	} {
		for range 2 { // the second finds the link
			g := run(t, Options{Dir: dir, GoCache: goCache, MaxSize: 1 << 30})
			g.put(1, []byte("x"))
			if got := g.hit(1, []byte("x")).DiskPath; !strings.HasPrefix(got, want) {
				t.Errorf("got %s, want %s...", got, want)
			}
			g.close()
		}
	}
	// A link that leads elsewhere is not used.
	other := run(t, Options{Dir: filepath.Join(base, "other"), MaxSize: 1 << 30})
	other.cache.near.link(goCache)
	alias := other.cache.near.alias
	if err := errors.Join(os.Remove(alias), os.Symlink(base, alias)); err != nil {
		t.Fatal(err)
	}
	other.cache.near.alias = other.cache.near.name
	other.cache.near.link(goCache)
	if got := other.put(1, []byte("x")); !strings.HasPrefix(got, other.cache.near.name) {
		t.Errorf("got %s, want it below %s", got, other.cache.near.name)
	}
	other.close()
}

func TestReadOnly(t *testing.T) {
	_, conn := newServer(t, time.Hour)
	one := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn, ReadOnly: true})
	one.put(1, []byte("x"))
	one.close()
	two := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn})
	two.miss(1)
	two.close()
}

// TestServerForgets has a result whose output went: the server says that there is no such result.
func TestServerForgets(t *testing.T) {
	store, conn := newServer(t, time.Nanosecond)
	body := storetest.Bytes(1, 100_000)
	one := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn})
	one.put(1, body)
	one.close()
	store.Evict()
	two := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn})
	two.miss(1)
	two.put(1, body)
	two.close()
	three := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: conn})
	three.hit(1, body)
	three.close()
}

// TestServerIsAway has servers that refuse, and that never answer.
func TestServerIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it accepts, as the kernel does, and says nothing
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, addr := range map[string]string{"silent": l.Addr().String(), "gone": closed.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := run(t, Options{Dir: dir, MaxSize: 1 << 30, Conn: dial(t, addr), Timeout: 100 * time.Millisecond, Flush: time.Second})
			for i := range 50 {
				g.miss(i)
				g.put(i, []byte("x"))
				g.hit(i, []byte("x"))
			}
			if s := g.close(); s.Uploaded != 0 || s.Dropped != 50 {
				t.Errorf("got %d uploaded and %d dropped, want 0 and 50", s.Uploaded, s.Dropped)
			}
		})
	}
}

// TestServerIsSlow has a server that answers each lookup, but late: soon it is asked no more.
func TestServerIsSlow(t *testing.T) {
	_, conn := newServer(t, time.Hour)
	var asked atomic.Int64
	late := dial(t, conn.Target(), grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
		if strings.HasSuffix(method, "/GetActionResult") {
			asked.Add(1)
			time.Sleep(50 * time.Millisecond)
		}
		return call(ctx, method, req, reply, cc, o...)
	}))
	g := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: late, Timeout: 100 * time.Millisecond})
	for i := range 4 * breaker.Strikes {
		g.miss(i)
	}
	if got := asked.Load(); got == 0 || got > breaker.Strikes {
		t.Errorf("the server was asked %d times, want %d at most", got, breaker.Strikes)
	}
	g.close()
}

func TestDirectoryCannotBeUsed(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	temporary := filepath.Join(base, "temporary")
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", temporary)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, spoil := range []func(dir string){
		func(dir string) { os.RemoveAll(dir) },
		func(dir string) {
			os.RemoveAll(filepath.Join(dir, outputDir))
			os.WriteFile(filepath.Join(dir, outputDir), nil, 0o600)
		},
		func(dir string) {
			// A trimmer that was stopped.
			unlock, ok := (&directory{name: dir}).lock(true)
			if !ok {
				t.Error("the lock can't be had")
			}
			t.Cleanup(unlock)
		},
		nil,
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir := filepath.Join(base, fmt.Sprint(i))
			if spoil == nil {
				dir = filepath.Join(file, "dir") // below a file
			}
			g := run(t, Options{Dir: dir, MaxSize: 1 << 30})
			if spoil != nil {
				spoil(dir)
			}
			for i, body := range bodies() {
				g.put(i, body)
				g.hit(i, body)
			}
			g.close()
			if left, _ := os.ReadDir(temporary); len(left) > 0 {
				t.Errorf("temporary files stay: %v", left)
			}
		})
	}
}

// TestManyProcesses lets caches share a directory, with trimmers among them that want it empty.
func TestManyProcesses(t *testing.T) {
	dir := t.TempDir()
	body := func(n int) []byte { return storetest.Bytes(uint64(n), 1000+n) }
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for range 5 {
				g := run(t, Options{Dir: dir, MaxSize: 1})
				names := map[int]string{}
				for i := range 20 {
					n := (p*7 + i) % 30
					a := g.ask(request{Command: "get", ActionID: actionOf(n)}, nil)
					if names[n] = a.DiskPath; a.Miss {
						names[n] = g.put(n, body(n))
					}
				}
				for n, name := range names {
					g.wantFile(n, name, body(n))
				}
				g.close()
			}
		})
	}
	wg.Wait()
	if left, _ := os.ReadDir(filepath.Join(dir, partDir)); len(left) > 0 {
		t.Errorf("parts stay: %v", left)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, runDir)); len(left) > 0 {
		t.Errorf("processes stay: %v", left)
	}
}

// TestServerRefuses has a server that wants a token. It is asked once, and not for each action of the build.
func TestServerRefuses(t *testing.T) {
	var asked atomic.Int64
	refusing := dial(t, "127.0.0.1:1", grpc.WithUnaryInterceptor(func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
		asked.Add(1)
		return status.Error(codes.Unauthenticated, "a token is needed")
	}))
	g := run(t, Options{Dir: t.TempDir(), MaxSize: 1 << 30, Conn: refusing})
	for i := range 20 {
		g.miss(i)
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("the server was asked %d times, want once", got)
	}
	g.close()
}

// TestTemporaryStays has a temporary directory of a process that was killed, and one of a process that lives: who needs one
// next removes the first.
func TestTemporaryStays(t *testing.T) {
	base := t.TempDir()
	t.Setenv("TMPDIR", base)
	goCache := filepath.Join(base, "go-build")
	open := func() *directory {
		d, err := openTemporary(goCache)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	dead, live := open(), open()
	dead.alive.Close() // as the kernel does
	other := filepath.Join(base, temporaryPrefix+"other")
	if err := errors.Join(os.Mkdir(other, 0o700), os.Symlink(base, filepath.Join(base, temporaryPrefix+"link"))); err != nil {
		t.Fatal(err)
	}
	last := open()
	for name, want := range map[string]bool{dead.name: false, dead.alias: false, live.name: true, live.alias: true, last.name: true, other: true} {
		if _, err := os.Lstat(name); want != (err == nil) {
			t.Errorf("%s: got %v, want it to stay: %t", name, err, want)
		}
	}
	live.remove()
	last.remove()
}
