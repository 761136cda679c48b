package ccachestorage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/storetest"
)

// A cache is an HTTP server that keeps what is put, and misbehaves as it is told.
type cache struct {
	mu      sync.Mutex
	values  map[string][]byte
	headers http.Header // of the last request
	calls   int
	answer  func(w http.ResponseWriter, r *http.Request) bool // true if that was the answer
}

func (c *cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.headers = r.Header
	c.calls++
	answer := c.answer
	c.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	var body []byte
	if r.Method == http.MethodPut {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil || int64(len(body)) != r.ContentLength {
			http.Error(w, "not whole", http.StatusBadRequest)
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.values[r.URL.Path]
	switch {
	case r.Method == http.MethodPut:
		c.values[r.URL.Path] = body
	case !ok:
		http.NotFound(w, r)
	case r.Method == http.MethodDelete:
		delete(c.values, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Length", fmt.Sprint(len(value)))
		w.Write(value)
	}
}

// seen returns what was asked so far, and the last request's headers.
func (c *cache) seen() (calls int, last http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.headers
}

func (c *cache) has(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values[name] != nil
}

func (c *cache) misbehave(answer func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// A rig is a Server before a cache.
type rig struct {
	t      testing.TB
	cache  *cache
	url    string
	socket string
	ended  chan error
}

func newRig(t testing.TB, o Options, attributes ...Attribute) *rig {
	t.Helper()
	c := &cache{values: map[string][]byte{}}
	web := httptest.NewTLSServer(c)
	t.Cleanup(web.Close)
	r := &rig{t: t, cache: c, url: web.URL, socket: filepath.Join(t.TempDir(), "s"), ended: make(chan error, 1)}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	remote, err := NewRemote(strings.Replace(web.URL, "//", "//user:pass~%3F@", 1)+"/ccache/team/", append(attributes, Attribute{"tls-ca", ca}))
	if err != nil {
		t.Fatal(err)
	}
	o.Remote, o.Socket, o.Identity = remote, r.socket, "a test"
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- s.Serve(ctx) }()
	t.Cleanup(cancel)
	return r
}

// A client speaks as ccache does.
type client struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func (r *rig) connect() *client {
	r.t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	c := &client{r.t, conn, bufio.NewReader(conn)}
	if got, want := string(c.read(4)), "\x01\x02\x00\x01"; got != want {
		r.t.Fatalf("greeting: got %q, want %q", got, want)
	}
	return c
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Fatalf("the server hung up: %v", err)
	}
	return b
}

func (c *client) send(b ...byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("the server hung up: %v", err)
	}
}

func keyOf(n int) []byte { return storetest.Bytes(uint64(n), 20) }

func message(kind byte, key []byte) []byte {
	return append([]byte{kind, byte(len(key))}, key...)
}

// outcome reads an answer without a value.
func (c *client) outcome() string {
	c.t.Helper()
	switch b := c.read(1)[0]; b {
	case answerOK:
		return "ok"
	case answerNoop:
		return "noop"
	case answerError:
		return "error: " + string(c.read(int(c.read(1)[0])))
	default:
		c.t.Fatalf("answer %#x", b)
		return ""
	}
}

func (c *client) put(n int, value []byte, flags byte) string {
	c.t.Helper()
	b := append(message(requestPut, keyOf(n)), flags)
	c.send(append(binary.NativeEndian.AppendUint64(b, uint64(len(value))), value...)...)
	return c.outcome()
}

func (c *client) get(n int) (string, []byte) {
	c.t.Helper()
	c.send(message(requestGet, keyOf(n))...)
	is := c.outcome()
	if is != "ok" {
		return is, nil
	}
	return is, c.read(int(binary.NativeEndian.Uint64(c.read(8))))
}

func (c *client) want(what, got, want string) {
	c.t.Helper()
	if got != want && (want != "error" || !strings.HasPrefix(got, "error: ")) {
		c.t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func TestStorage(t *testing.T) {
	r := newRig(t, Options{}, Attribute{"header", "X-Extra=a=b"})
	c := r.connect()
	for i, size := range []int{1, 100, 70_000, 3 << 20} {
		value := storetest.Bytes(uint64(i), size)
		is, _ := c.get(i)
		c.want("get before", is, "noop")
		c.want("put", c.put(i, value, 0), "ok")
		c.want("put again", c.put(i, []byte("other"), 0), "noop")
		is, got := c.get(i)
		if c.want("get", is, "ok"); !bytes.Equal(got, value) {
			t.Errorf("get %d: got %d bytes, want the %d that were put", i, len(got), len(value))
		}
		c.want("overwrite", c.put(i, []byte("other"), flagOverwrite), "ok")
		if _, got := r.connect().get(i); string(got) != "other" {
			t.Errorf("get %d: got %q, want what it was overwritten with", i, got)
		}
	}
	key := hex.EncodeToString(keyOf(1))
	if name := "/ccache/team/" + key[:2] + "/" + key[2:]; !r.cache.has(name) {
		t.Errorf("got no value at %s", name)
	}
	_, headers := r.cache.seen()
	user, pass, _ := (&http.Request{Header: headers}).BasicAuth()
	if user != "user" || pass != "pass~?" || headers.Get("X-Extra") != "a=b" {
		t.Errorf("headers: got user %q, password %q, X-Extra %q", user, pass, headers.Get("X-Extra"))
	}
	c.send(message(requestRemove, keyOf(1))...)
	c.want("remove", c.outcome(), "ok")
	c.send(message(requestRemove, keyOf(1))...)
	c.want("remove again", c.outcome(), "noop")
	c.send(requestInfo)
	if got := string(c.read(int(c.read(1)[0]))); got != "a test" || c.read(1)[0] != 0 {
		t.Errorf("info: got %q", got)
	}
}

func TestLayouts(t *testing.T) {
	key := hex.EncodeToString(keyOf(1))
	for layout, want := range map[string]string{"flat": key, "subdirs": key[:2] + "/" + key[2:], "bazel": "ac/" + key + key[:24]} {
		r := newRig(t, Options{}, Attribute{"layout", layout}, Attribute{"bearer-token", "secret"})
		r.connect().put(1, []byte("x"), flagOverwrite)
		_, headers := r.cache.seen()
		if got := headers.Get("Authorization"); !r.cache.has("/ccache/team/"+want) || got != "Bearer secret" {
			t.Errorf("%s: got authorization %q, and want a value at %s", layout, got, want)
		}
	}
}

func TestNonsense(t *testing.T) {
	for _, test := range []struct {
		url        string
		attributes []Attribute
	}{
		{"", nil}, {"ftp://host/", nil}, {"https://", nil}, {"https://host:port:1/%zz", nil},
		{"https://host/", []Attribute{{"layout", "round"}}}, {"https://host/", []Attribute{{"header", "none"}}}, {"https://host/", []Attribute{{"what", "ever"}}},
		{"https://host/", []Attribute{{"tls-ca", "/none"}}}, {"https://host/", []Attribute{{"tls-cert", "/none"}}},
	} {
		if _, err := NewRemote(test.url, test.attributes); err == nil {
			t.Errorf("%s %v: got no error", test.url, test.attributes)
		}
	}
	r := newRig(t, Options{})
	r.connect().put(1, []byte("x"), flagOverwrite)
	for name, text := range map[string]string{
		"unknown request": "\x09", "a key cut": "\x00\x14abc", "a value cut": "\x01\x14" + string(keyOf(2)) + "\x01\x05\x00\x00\x00\x00\x00\x00\x00ab",
		"a length of all ones": "\x01\x14" + string(keyOf(2)) + "\x01\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		c := r.connect()
		c.send([]byte(text)...)
		c.conn.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c.in); err != nil && !errors.Is(err, net.ErrClosed) || len(got) > 0 {
			t.Errorf("%s: got %q, %v, want the end", name, got, err)
		}
	}
	c := r.connect()
	for _, n := range []int{0, 1, 15} {
		c.send(message(requestGet, keyOf(1)[:n])...)
		c.want("a short key", c.outcome(), "error")
	}
	c.send(message(requestGet, storetest.Bytes(1, 255))...)
	c.want("a long key", c.outcome(), "noop")
	c.want("a value of no bytes", c.put(3, nil, flagOverwrite), "ok")
	is, _ := c.get(3)
	c.want("a value of no bytes", is, "noop")
	is, _ = c.get(2)
	c.want("the value that was cut", is, "noop")
	is, _ = c.get(1)
	c.want("after all that", is, "ok")
}

// TestServerMisbehaves has statuses and answers that are none. The client is answered, and served afterwards.
func TestServerMisbehaves(t *testing.T) {
	big := storetest.Bytes(9, 3<<20)
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	for _, test := range []struct {
		name     string
		answer   func(w http.ResponseWriter, r *http.Request) bool
		get, put string
	}{
		{"forbidden", status(403), "error", "noop"},
		{"too large", status(413), "error", "error"},
		{"no room", status(507), "error", "error"},
		{"broken", status(500), "error", "error"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
			return true
		}, "error", "error"},
		{"an empty answer", status(200), "noop", "ok"},
		{"no length", func(w http.ResponseWriter, r *http.Request) bool {
			w.Write([]byte("chunk"))
			w.(http.Flusher).Flush()
			return r.Method == http.MethodGet
		}, "ok", "ok"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Options{})
			c := r.connect()
			r.cache.misbehave(test.answer)
			is, _ := c.get(1)
			c.want("get", is, test.get)
			c.want("put", c.put(2, big, flagOverwrite), test.put)
			r.cache.misbehave(nil)
			c.want("put afterwards", c.put(3, big, flagOverwrite), "ok")
			if _, got := c.get(3); !bytes.Equal(got, big) {
				t.Errorf("get afterwards: got %d bytes", len(got))
			}
		})
	}
}

// TestServerIsSilent has a server that takes requests and says nothing. After the first, nobody waits for it.
func TestServerIsSilent(t *testing.T) {
	r := newRig(t, Options{Timeout: 100 * time.Millisecond})
	c := r.connect()
	c.put(1, []byte("x"), flagOverwrite)
	over := make(chan struct{})
	defer close(over)
	r.cache.misbehave(func(http.ResponseWriter, *http.Request) bool { <-over; return true })
	is, _ := c.get(1)
	c.want("get", is, "error")
	before, _ := r.cache.seen()
	for i := range 20 {
		is, _ := c.get(i)
		c.want("get", is, "error")
		c.want("put", c.put(i, []byte("x"), 0), "error")
	}
	if got, _ := r.cache.seen(); got != before {
		t.Errorf("the server was asked %d times more", got-before)
	}
	c.send(requestInfo)
	c.read(int(c.read(1)[0]))
	if n := c.read(1)[0]; n != 1 {
		t.Fatalf("got %d diagnostics, want 1", n)
	}
	if got := string(c.read(int(c.read(1)[0]))); !strings.Contains(got, "does not answer") || strings.Contains(got, "pass~") {
		t.Errorf("diagnostic: got %q", got)
	}
}

// TestServerBreaksOff has values that end in the middle: the client sees the connection end, and no short value.
func TestServerBreaksOff(t *testing.T) {
	for name, after := range map[string]func(*http.Request){
		"ends":   func(*http.Request) { panic(http.ErrAbortHandler) },
		"stalls": func(req *http.Request) { <-req.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{Timeout: 200 * time.Millisecond})
			r.cache.misbehave(func(w http.ResponseWriter, req *http.Request) bool {
				w.Header().Set("Content-Length", "200000")
				w.Write(make([]byte, 100_000))
				w.(http.Flusher).Flush()
				after(req)
				return true
			})
			c := r.connect()
			c.send(message(requestGet, keyOf(1))...)
			if got, err := io.ReadAll(c.in); err != nil || len(got) >= 200_000 {
				t.Errorf("got %d bytes, %v, want fewer than the value has", len(got), err)
			}
		})
	}
}

func TestUnusable(t *testing.T) {
	s, err := Listen(Options{Socket: filepath.Join(t.TempDir(), "s"), Remote: Unusable(errors.New("told nonsense"))})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(t.Context())
	c := (&rig{t: t, socket: s.o.Socket}).connect()
	is, _ := c.get(1)
	c.want("get", is, "error: told nonsense")
}

func TestSocket(t *testing.T) {
	r := newRig(t, Options{})
	info, err := os.Stat(r.socket)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket: got %v, %v, want it for its owner alone", info.Mode(), err)
	}
	if _, err := Listen(Options{Socket: r.socket}); err == nil {
		t.Error("a second server on the socket: got no error")
	}
	c := r.connect()
	c.send(requestStop)
	c.want("stop", c.outcome(), "ok")
	if err := <-r.ended; err != nil {
		t.Errorf("stopped: got %v", err)
	}
	if _, err := os.Stat(r.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stopped: the socket: got %v, want it gone", err)
	}
	// What a kill leaves: a socket on which nobody listens.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	s, err := Listen(Options{Socket: r.socket, IdleTimeout: time.Millisecond})
	if err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	if err := s.Serve(t.Context()); err != nil {
		t.Errorf("idle: got %v", err)
	}
	if err := os.WriteFile(r.socket, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Options{Socket: r.socket}); err == nil {
		t.Error("a file in the socket's place: got no error")
	}
}

func TestManyClients(t *testing.T) {
	r := newRig(t, Options{})
	var wg sync.WaitGroup
	for n := range 32 {
		c := r.connect()
		wg.Go(func() {
			value := storetest.Bytes(uint64(n), 1000*n+1)
			for range 5 {
				if is := c.put(n, value, flagOverwrite); is != "ok" {
					t.Errorf("put %d: %s", n, is)
				}
				if is, got := c.get(n); is != "ok" || !bytes.Equal(got, value) {
					t.Errorf("get %d: %s, %d bytes, want %d", n, is, len(got), len(value))
				}
			}
		})
	}
	wg.Wait()
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("\x00\x02ab"))
	f.Add([]byte("\x01\x02ab\x01\x05\x00\x00\x00\x00\x00\x00\x00value"))
	f.Add([]byte("\x03"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		req, err := readRequest(r)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		again := []byte{req.kind}
		if req.kind <= requestRemove {
			again = message(req.kind, req.key)
		}
		if req.kind == requestPut {
			again = append(again, in[len(again)])
			if req.overwrite != (again[len(again)-1]&1 == 1) {
				t.Error("overwrite is not the flags' lowest bit")
			}
			again = binary.NativeEndian.AppendUint64(again, req.size)
		}
		if got := append(again, rest...); !bytes.Equal(got, in) {
			t.Errorf("got %q, want %q", got, in)
		}
	})
}
