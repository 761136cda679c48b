package httpcache

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// A fixture is a server over a model store.
type fixture struct {
	t       *testing.T
	model   *model.Store
	handler *handler
	server  *httptest.Server
	spool   string
}

// newFixture starts a server. change may alter its options before.
func newFixture(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, model: model.New(time.Hour), spool: t.TempDir()}
	o := Options{
		Store:       f.model,
		SpoolDir:    f.spool,
		MaxBlobSize: 8 << 20,
		GRPCAddr:    func() string { return "127.0.0.1:8980" },
		Version:     "v1.2.3",
		Metrics:     prometheus.NewRegistry(),
	}
	if change != nil {
		change(&o)
	}
	if o.Actions == nil {
		o.Actions = action.New(o.Store, f.model)
	}
	f.handler = newHandler(o)
	f.server = httptest.NewServer(f.handler)
	t.Cleanup(f.server.Close)
	return f
}

// An answer is a response whose body was read.
type answer struct {
	code   int
	header http.Header
	body   string
	err    error // of reading the body
	length int64
}

// do sends a request whose header is given as KEY, VALUE, ...
func (f *fixture) do(method, path string, body io.Reader, header ...string) answer {
	f.t.Helper()
	r, err := http.NewRequest(method, f.server.URL+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	// Without this the client asks for gzip by itself.
	r.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := f.server.Client().Do(r)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data), err, resp.ContentLength}
}

func (f *fixture) get(path string, header ...string) answer {
	f.t.Helper()
	return f.do("GET", path, nil, header...)
}

func (f *fixture) put(path string, data []byte, header ...string) answer {
	f.t.Helper()
	return f.do("PUT", path, bytes.NewReader(data), header...)
}

// must checks the code, and that the body contains all of parts.
func (a answer) must(t *testing.T, code int, parts ...string) answer {
	t.Helper()
	if a.code != code {
		t.Fatalf("code: got %d, want %d; the body is %.300q", a.code, code, a.body)
	}
	for _, part := range parts {
		if !strings.Contains(a.body, part) {
			t.Errorf("body: got %.500q, want it to contain %q", a.body, part)
		}
	}
	return a
}

func (a answer) wantHeader(t *testing.T, key, want string) {
	t.Helper()
	if got := a.header.Get(key); got != want {
		t.Errorf("%s: got %q, want %q", key, got, want)
	}
}

// absent checks that the server has no blob d, in the store's own words.
func (f *fixture) absent(ds ...digest.Digest) {
	f.t.Helper()
	missing, err := f.model.Missing(context.Background(), digest.SetOf(ds...))
	if err != nil {
		f.t.Fatal(err)
	}
	if got, want := missing.Len(), len(ds); got != want {
		f.t.Errorf("absent blobs: got %d, want %d of %v", got, want, ds)
	}
}

// noSpoolFiles checks that nothing is left in the spool folder.
func (f *fixture) noSpoolFiles() {
	f.t.Helper()
	entries, err := os.ReadDir(f.spool)
	if err != nil {
		f.t.Fatal(err)
	}
	if len(entries) > 0 {
		f.t.Errorf("spool folder: got %v, want nothing", entries)
	}
}

// wire opens a connection and writes head, each line ended as HTTP wants it, and an empty line.
func (f *fixture) wire(head ...string) (*net.TCPConn, *bufio.Reader) {
	f.t.Helper()
	c, err := net.Dial("tcp", f.server.Listener.Addr().String())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	send(f.t, c, strings.Join(append(head, "Host: test", "", ""), "\r\n"))
	return c.(*net.TCPConn), bufio.NewReader(c)
}

func send(t *testing.T, c net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(c, data); err != nil {
		t.Fatal(err)
	}
}

// receive reads one response.
func receive(t *testing.T, r *bufio.Reader) answer {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data), err, resp.ContentLength}
}

// noise returns n bytes that don't compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(data) // never fails
	return data
}

// A strict store fails in one verb, or reports what becomes of its writers.
type strict struct {
	blob.Store
	createErr error
	writers   chan *tracked // if not nil, gets every new writer
}

func (s *strict) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	if s.createErr != nil {
		return nil, &blob.Error{Op: "create", Digest: d, Err: s.createErr}
	}
	w, err := s.Store.Create(ctx, d)
	if err != nil || s.writers == nil {
		return w, err
	}
	t := &tracked{Writer: w, written: make(chan int, 1000), closed: make(chan bool, 1)}
	s.writers <- t
	return t, nil
}

type tracked struct {
	blob.Writer
	committed bool
	written   chan int  // gets the length of each Write
	closed    chan bool // gets whether it was committed, on Close
}

func (w *tracked) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.written <- n
	return n, err
}

func (w *tracked) Commit() error {
	w.committed = true
	return w.Writer.Commit()
}

func (w *tracked) Close() error {
	w.closed <- w.committed
	return w.Writer.Close()
}

func TestHealthz(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{"/healthz", "//healthz", "/healthz/"} {
		if got, want := f.get(path).must(t, 200).body, "ok\n"; got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if got := f.do("HEAD", "/healthz", nil).must(t, 200).body; got != "" {
		t.Errorf("HEAD: got %q, want no body", got)
	}
}

func TestStatus(t *testing.T) {
	type ring struct {
		Used int64 `json:"used_bytes"`
	}
	f := newFixture(t, func(o *Options) { o.Status = func() any { return ring{42} } })
	a := f.get("/status").must(t, 200)
	a.wantHeader(t, "Content-Type", "application/json")
	var got struct {
		Version string   `json:"version"`
		Uptime  *float64 `json:"uptime_seconds"`
		GRPC    string   `json:"grpc"`
		Status  ring     `json:"status"`
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != "v1.2.3" || got.Uptime == nil || *got.Uptime < 0 || got.GRPC != "127.0.0.1:8980" || got.Status.Used != 42 {
		t.Errorf("got %+v from %s", got, a.body)
	}
	newFixture(t, func(o *Options) { o.Status = func() any { return func() {} } }).get("/status").must(t, 500)
}

func TestOtherPaths(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{"/", "/cas", "/cas/", "/ac/", "/favicon.ico", "/v8/artifacts/1", "/cas/a/b/c/d"} {
		f.get(path).must(t, 404, "/cas/HASH", "/ac/HASH", "/cas/blake3/HASH", "/healthz", "/metrics", "/status")
	}
}

func TestMethods(t *testing.T) {
	f := newFixture(t, nil)
	hash := digest.SHA256.Of([]byte("x")).Hex()
	for _, test := range []struct{ method, path, allow string }{
		{"DELETE", "/cas/" + hash, "GET, HEAD, PUT"},
		{"POST", "/cas/" + hash, "GET, HEAD, PUT"},
		{"OPTIONS", "/i/ac/" + hash, "GET, HEAD, PUT"},
		{"PATCH", "/ac/blake3/" + hash, "GET, HEAD, PUT"},
		{"PUT", "/healthz", "GET, HEAD"},
		{"PUT", "/status", "GET, HEAD"},
		{"POST", "/metrics", "GET, HEAD"},
	} {
		f.do(test.method, test.path, nil).must(t, 405, test.method).wantHeader(t, "Allow", test.allow)
	}
}

// Credentials are for an issue to come: until then they are neither asked for nor an obstacle.
func TestAuthorizationIsIgnored(t *testing.T) {
	f := newFixture(t, nil)
	data := []byte("secret")
	path := "/cas/" + digest.SHA256.Of(data).Hex()
	for _, value := range []string{"Basic dXNlcjpwYXNz", "Bearer token", "nonsense"} {
		f.put(path, data, "Authorization", value).must(t, 200)
		f.get(path, "Authorization", value).must(t, 200, "secret")
	}
}

func TestLog(t *testing.T) {
	data := []byte("logged")
	path := "/cas/" + digest.SHA256.Of(data).Hex()
	for _, test := range []struct {
		level slog.Level
		want  int
	}{{slog.LevelInfo, 0}, {slog.LevelDebug, 1}} {
		var log bytes.Buffer
		h := New(Options{Store: model.New(time.Hour), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: test.level}))})
		for _, r := range []*http.Request{
			httptest.NewRequest("PUT", path, bytes.NewReader(data)),
			httptest.NewRequest("GET", path, nil),
			httptest.NewRequest("GET", "/cas/zz", nil),
			httptest.NewRequest("GET", "/", nil),
		} {
			log.Reset()
			h.ServeHTTP(httptest.NewRecorder(), r)
			if got := strings.Count(log.String(), "\n"); got != test.want {
				t.Errorf("%v, %s %s: got %d lines, want %d: %s", test.level, r.Method, r.URL, got, test.want, log.String())
			}
		}
	}
}
