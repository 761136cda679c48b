package httpcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

const kuraQuery = "?tenant_id=acme&namespace_id=app"

// ccacheHash is a key of ccache.
const ccacheHash = "0123456789abcdef0123456789abcdef01234567"

// oldCcacheHash is the same key as older versions write it.
const oldCcacheHash = "01238ljojaudts0i6hb7h6lsrro14d2me"

// surfaces has an entry of each dialect, and what its client must be told.
var surfaces = []struct {
	name, put                      string // the method that stores
	path, other                    string // of an entry, and of one of that name in another namespace
	stored, again                  int    // a PUT, and a second one
	kept                           bool   // whether the first PUT's entry stays
	failing, unstored, full, large int
	limited                        bool // by less than the store takes
	clean                          string
}{
	{"gradle", "PUT", "/gradle/team/0123abcd", "/gradle/other/0123abcd", 200, 200, false, 404, 413, 413, 413, false, "/gradle/team/"},
	{"nx", "PUT", "/nx/team/v1/cache/123", "/nx/other/v1/cache/123", 200, 409, true, 404, 409, 409, 409, false, "/nx/team"},
	{"turbo", "PUT", "/turbo/team/v8/artifacts/0123?slug=x", "/turbo/other/v8/artifacts/0123", 202, 202, false, 404, 403, 403, 413, false, "/turbo/team/"},
	{"ccache", "PUT", "/ccache/team/" + ccacheHash, "/ccache/other/" + ccacheHash, 200, 200, false, 404, 503, 507, 413, false, "/ccache/team/"},
	{"sccache", "PUT", "/sccache/team/prefix/0/1/2/0123", "/sccache/other/prefix/0/1/2/0123", 201, 201, false, 404, 507, 507, 413, false, "/sccache/team/"},
	{"maven", "PUT", "/maven/team/v1.1/g/a/0123/buildinfo.xml", "/maven/other/v1.1/g/a/0123/buildinfo.xml", 201, 201, false, 404, 503, 507, 413, false, "/maven/team/"},
	{"metro", "PUT", "/metro/team/0123", "/metro/other/0123", 200, 200, false, 404, 200, 200, 200, false, "/metro/team/"},
	{"nix", "PUT", "/nix/team/nar/0123.nar.xz", "/nix/other/nar/0123.nar.xz", 201, 201, false, 404, 503, 507, 413, false, "/nix/team/"},
	{"kura cas", "POST", "/api/cache/cas/0~ab" + kuraQuery, "/api/cache/cas/0~ab?tenant_id=acme&namespace_id=b", 204, 204, true, 429, 429, 429, 413, true, "/api/cache/clean" + kuraQuery},
	{"kura gradle", "PUT", "/api/cache/gradle/ab" + kuraQuery, "/api/cache/gradle/ab?account_handle=b&project_handle=app", 201, 200, true, 404, 413, 413, 413, true, "/api/cache/clean?account_handle=acme&project_handle=app"},
	{"kura nx", "PUT", "/v1/cache/123", "/nx/team/v1/cache/123", 200, 409, true, 404, 409, 409, 409, false, "/nx/nx/"},
	{"kura metro", "PUT", "/api/metro/cache/0123", "/metro/team/0123", 200, 200, false, 404, 200, 200, 200, false, "/metro/metro/"},
}

func (f *fixture) send(method, path string, data []byte, header ...string) answer {
	f.t.Helper()
	return f.do(method, path, bytes.NewReader(data), header...)
}

// TestSurfaces takes an entry of each dialect through its life on a ring, over a restart too.
func TestSurfaces(t *testing.T) {
	for _, s := range surfaces {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			files := new(vfs.Mem)
			serve := func() (*fixture, *segment.Ring) {
				ring, err := segment.Open(t.Context(), files, "ring", segment.Options{MaxSize: segment.MinSize, Lease: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				return newFixture(t, func(o *Options) { o.Store, o.Actions = ring, action.New(ring, ring) }), ring
			}
			f, ring := serve()
			small, large := noise(1, 1000), noise(2, 300_000)
			f.get(s.path).must(t, 404)
			f.do("HEAD", s.path, nil).must(t, 404)
			f.send(s.put, s.path, small, "Authorization", "Basic dXNlcjpzZWNyZXR-Pw==").must(t, s.stored)
			f.get(s.path, "Authorization", "Bearer secret").must(t, 200).wantHeader(t, "Etag", etag(digest.SHA256.Of(small)))
			if got := f.do("HEAD", s.path, nil).must(t, 200); got.length != int64(len(small)) {
				t.Errorf("HEAD: got length %d, want %d", got.length, len(small))
			}
			want := large
			if s.kept {
				want = small
			}
			f.send(s.put, s.path, large, "Authorization", "Basic dXNlcjpzZWNyZXR+Pw==").must(t, s.again)
			f.get(s.other).must(t, 404)
			wantEntry(t, f, s.path, want)

			f.server.Close()
			if err := ring.Close(); err != nil {
				t.Fatal(err)
			}
			f, ring = serve()
			defer ring.Close()
			defer f.server.Close()
			wantEntry(t, f, s.path, want)
			f.do("DELETE", s.clean, nil).must(t, 204)
			f.get(s.path).must(t, 404)
			f.send(s.put, s.path, small).must(t, s.stored)
			wantEntry(t, f, s.path, small)
			f.noSpoolFiles()
		})
	}
}

// wantEntry reads the entry at path whole, in part, and on conditions.
func wantEntry(t *testing.T, f *fixture, path string, want []byte) {
	t.Helper()
	got := f.get(path).must(t, 200)
	if got.body != string(want) {
		t.Fatalf("%s: got %d bytes that differ from the %d wanted", path, len(got.body), len(want))
	}
	if part := f.get(path, "Range", "bytes=5-9").must(t, 206); part.body != string(want[5:10]) {
		t.Errorf("%s: bytes 5 to 9 differ", path)
	}
	f.get(path, "Range", "bytes=9999999-").must(t, 416).wantHeader(t, "Content-Range", fmt.Sprintf("bytes */%d", len(want)))
	f.get(path, "If-None-Match", got.header.Get("Etag")).must(t, 304)
	f.get(path, "Range", "bytes=5-9", "If-Range", `"another"`).must(t, 200)
	f.get(path, "Accept-Encoding", "zstd").must(t, 200).wantHeader(t, "Content-Encoding", "")
}

// TestDelete deletes single entries, where the dialect has that.
func TestDelete(t *testing.T) {
	for _, s := range surfaces[:8] {
		t.Run(s.name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.do("DELETE", s.path, nil).must(t, 204)
			f.send(s.put, s.path, []byte("entry")).must(t, s.stored)
			f.do("DELETE", s.path, nil).must(t, 204)
			f.get(s.path).must(t, 404)
			f.send(s.put, s.path, []byte("another")).must(t, s.stored)
			f.get(s.path).must(t, 200, "another")
		})
	}
}

// A broken store fails or hangs in everything that is asked of it.
type broken struct {
	*model.Store
	err  error         // what each verb returns
	hang chan struct{} // if not nil, each verb waits until it is closed
}

func (b *broken) fail() error {
	if b.hang != nil {
		<-b.hang
	}
	return b.err
}

func (b *broken) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	if err := b.fail(); err != nil {
		return digest.Set{}, err
	}
	return b.Store.Missing(ctx, ds)
}

func (b *broken) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if err := b.fail(); err != nil {
		return nil, err
	}
	return b.Store.Open(ctx, d)
}

// newBroken returns a server whose store is well until break is called.
func newBroken(t *testing.T) (f *fixture, b *broken) {
	b = new(broken)
	f = newFixture(t, func(o *Options) {
		b.Store = o.Store.(*model.Store)
		o.Store = b
	})
	return f, b
}

func TestFailing(t *testing.T) {
	for _, s := range surfaces {
		t.Run(s.name, func(t *testing.T) {
			f, b := newBroken(t)
			f.send(s.put, s.path, []byte("entry")).must(t, s.stored)
			b.err = errors.New("the disk fails")
			f.get(s.path).must(t, s.failing)
			f.do("HEAD", s.path, nil).must(t, s.failing)
			f.send(s.put, s.path, []byte("another")).must(t, s.unstored)
			f.do("DELETE", s.clean, nil).must(t, 500)
			b.err = nil
			f.get(s.path).must(t, 200, "entry")
		})
	}
}

// TestHanging has a store that answers nothing until the test is over.
func TestHanging(t *testing.T) {
	for _, s := range surfaces {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f, b := newBroken(t)
			f.send(s.put, s.path, []byte("entry")).must(t, s.stored)
			b.hang = make(chan struct{})
			f.handler.hurry = 50
			f.get(s.path).must(t, s.failing)
			f.send(s.put, s.path, noise(1, 300_000)).must(t, s.unstored)
			close(b.hang)
			f.handler.hurry = 1
			f.get(s.path).must(t, 200)
			f.server.Close()
			for range cap(f.handler.calls) { // what hung has ended
				f.handler.calls <- struct{}{}
			}
			f.noSpoolFiles()
			if got, want := f.handler.spoolLeft.Load(), f.handler.MaxBlobSize; got != want {
				t.Errorf("room for uploads: got %d, want %d", got, want)
			}
			if pins := f.model.Pins(); pins != 0 {
				t.Errorf("%d pins left", pins)
			}
		})
	}
}

func TestFull(t *testing.T) {
	for _, s := range surfaces {
		t.Run(s.name, func(t *testing.T) {
			store := &strict{}
			f := newFixture(t, func(o *Options) {
				store.Store = o.Store
				o.Store = store
			})
			f.send(s.put, s.path, []byte("entry")).must(t, s.stored)
			store.createErr = errFull
			f.send(s.put, s.other, []byte("another")).must(t, s.full)
			f.get(s.other).must(t, 404)
			f.get(s.path).must(t, 200, "entry")
		})
	}
}

// TestLarge sends more than is taken: refused unread where the length says so.
func TestLarge(t *testing.T) {
	for _, s := range surfaces {
		t.Run(s.name, func(t *testing.T) {
			f := newFixture(t, nil)
			_, r := f.wire(s.put+" "+s.path+" HTTP/1.1", "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", 1<<40))
			receive(t, r).must(t, s.large)
			f.get(s.path).must(t, 404)
			if s.name == "kura gradle" {
				f.do(s.put, s.path, chunked([]byte("x"))).must(t, 422)
				return
			}
			f.do(s.put, s.path, chunked(noise(1, 8<<20+1))).must(t, s.large)
			f.get(s.path).must(t, 404)
			f.do(s.put, s.path, chunked(noise(1, 200_000))).must(t, s.stored)
			f.do("HEAD", s.path, nil).must(t, 200)
			f.noSpoolFiles()
		})
	}
	f := newFixture(t, func(o *Options) { o.MaxBlobSize = math.MaxInt64 })
	for path, limit := range map[string]int{"/api/cache/cas/x": 25 << 20, "/api/cache/gradle/x": 100 << 20} {
		method := map[bool]string{true: "POST", false: "PUT"}[strings.Contains(path, "cas")]
		_, r := f.wire(method+" "+path+kuraQuery+" HTTP/1.1", "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", limit+1))
		receive(t, r).must(t, 413)
		_, r = f.wire(method+" "+path+kuraQuery+" HTTP/1.1", "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", limit))
		receive(t, r).must(t, 100)
	}
}

// TestAborted cuts uploads off: they leave nothing.
func TestAborted(t *testing.T) {
	half := string(noise(1, 300_000))
	for _, s := range surfaces {
		t.Run(s.name, func(t *testing.T) {
			for _, head := range []string{"Content-Length: 600000", "Transfer-Encoding: chunked"} {
				if s.name == "kura gradle" && head[0] == 'T' {
					continue
				}
				body := half
				if head[0] == 'T' {
					body = fmt.Sprintf("%x\r\n%s\r\n", len(half), half)
				}
				f := newFixture(t, nil)
				c, r := f.wire(s.put+" "+s.path+" HTTP/1.1", head)
				send(t, c, body)
				_ = c.CloseWrite() // so that the answer can be read
				receive(t, r).must(t, 400)
				f.get(s.path).must(t, 404)
				f.absent(digest.SHA256.Of([]byte(half)))
				f.noSpoolFiles()
				if got, want := f.handler.spoolLeft.Load(), f.handler.MaxBlobSize; got != want {
					t.Errorf("room for uploads: got %d, want %d", got, want)
				}
			}
		})
	}
}

// TestFirstStays lets many put one entry at once: where the first stays, one of them stored it, and that is what all get.
func TestFirstStays(t *testing.T) {
	f := newFixture(t, nil)
	const path, n = "/nx/team/v1/cache/1", 16
	codes := make([]int, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { codes[i] = f.put(path, noise(uint64(i), 1000)).code })
	}
	wg.Wait()
	winner := -1
	for i, code := range codes {
		switch {
		case code == 200 && winner < 0:
			winner = i
		case code != 409:
			t.Fatalf("got %v, want one 200 and else 409", codes)
		}
	}
	wantEntry(t, f, path, noise(uint64(winner), 1000))
}

// TestFirstInNamespace lets many put the first entries of a namespace at once: each that was acknowledged is there.
func TestFirstInNamespace(t *testing.T) {
	f := newFixture(t, nil)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			path := fmt.Sprintf("/gradle/team/%x", i)
			f.put(path, noise(uint64(i), 1000)).must(t, 200)
			wantEntry(t, f, path, noise(uint64(i), 1000))
		})
	}
	wg.Wait()
}

// TestDamagedEntry turns a bit over in an entry that is small, and in a large one.
func TestDamagedEntry(t *testing.T) {
	f, _, files := newRing(t)
	for _, size := range []int{1000, 300_000} {
		path, data := fmt.Sprintf("/gradle/team/%d", size), noise(uint64(size), size)
		f.put(path, data).must(t, 200)
		flip(t, files, data)
		got := f.get(path)
		if size == 1000 {
			got.must(t, 404)
		} else if got.err == nil && got.body == string(data) {
			t.Errorf("%d bytes that are damaged were served", size)
		}
		f.get(path).must(t, 404)
		f.put(path, data).must(t, 200)
		wantEntry(t, f, path, data)
	}
}

func TestDialectPaths(t *testing.T) {
	f := newFixture(t, nil)
	for path, code := range map[string]int{
		"/gradle":          404,
		"/gradle/team":     404,
		"/gradle/team/a/b": 404,
		"/gradle/../x":     400,
		"/gradle/team/..":  400,
		"/gradle/" + strings.Repeat("x", 513) + "/a":  400,
		"/maven/team/" + strings.Repeat("x/", 2049):   400,
		"/nx/team/v2/cache/1":                         404,
		"/nx/team/v1/cache":                           404,
		"/turbo/team/v8/artifacts/a/b":                404,
		"/ccache/team/" + ccacheHash[1:]:              404,
		"/ccache/team/" + oldCcacheHash[:32] + "v":    404,
		"/ccache/team/" + oldCcacheHash[:32] + "w":    404,
		"/ccache/team/" + strings.ToUpper(ccacheHash): 404,
		"/api/cache":                                   422,
		"/api/cache/cas/x":                             422,
		"/api/cache/cas/x?tenant_id=a":                 422,
		"/api/cache/cas/x?tenant_id=a&namespace_id=..": 422,
		"/api/cache/other/x" + kuraQuery:               404,
		"/kura/team/x":                                 404,
	} {
		f.get(path).must(t, code)
	}
	f.do("POST", "/gradle/team/a", nil).must(t, 405).wantHeader(t, "Allow", "GET, HEAD, PUT, DELETE")
	// What a web page of somebody else's makes a browser send is not taken.
	f.send("POST", "/api/cache/cas/x"+kuraQuery, []byte("x"), "Sec-Fetch-Site", "cross-site").must(t, 403)
	f.put("/gradle/team/a", []byte("x"), "Content-Encoding", "gzip").must(t, 415)
	// Bazel's caches lie beside them, and one below a reserved name that has another instance before it.
	hash := digest.SHA256.Of([]byte("x")).Hex()
	f.put("/bazel/gradle/cas/"+hash, []byte("x")).must(t, 200)
	f.get("/cas/"+hash).must(t, 200)
}

// TestConnectionGoesOn checks that answers that are no success leave the connection usable.
func TestConnectionGoesOn(t *testing.T) {
	f := newFixture(t, nil)
	f.put("/nx/team/v1/cache/1", []byte("first")).must(t, 200)
	c, r := f.wire("PUT /nx/team/v1/cache/1 HTTP/1.1", "Content-Length: 6")
	send(t, c, "second")
	receive(t, r).must(t, 409)
	send(t, c, "GET /nx/team/v1/cache/1 HTTP/1.1\r\nHost: test\r\n\r\n")
	receive(t, r).must(t, 200, "first")
	// Who waits to be asked for the body is told at once.
	_, r = f.wire("PUT /nx/team/v1/cache/1 HTTP/1.1", "Expect: 100-continue", "Content-Length: 6")
	receive(t, r).must(t, 409)
}

// TestEvictedEntries turns a ring round while leases end. Each entry is there whole or not at all, and namespaces that are in
// use stay in their epochs: what was put lately is there.
func TestEvictedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lease = time.Minute
		ring, err := segment.Open(t.Context(), new(vfs.Mem), "ring", segment.Options{MaxSize: segment.MinSize, Lease: lease})
		if err != nil {
			t.Fatal(err)
		}
		defer ring.Close()
		h := newHandler(Options{Store: ring, Actions: action.New(ring, ring), SpoolDir: t.TempDir()})
		do := func(method, path string, data []byte) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(data)))
			return w
		}
		const n, namespaces, size = 1000, 20, 200_000
		team := func(i int) space { return space{routeGradle, fmt.Sprint(i % namespaces)} }
		path := func(i int) string { return fmt.Sprintf("/gradle/%d/%d", i%namespaces, i) }
		epochs := map[space]string{}
		for i := range n {
			if w := do("PUT", path(i), noise(uint64(i), size)); w.Code != 200 {
				t.Fatalf("PUT: got %d: %s", w.Code, w.Body)
			}
			g, err := h.epoch(t.Context(), team(i))
			if was := epochs[team(i)]; err != nil || was != "" && g != was {
				t.Fatalf("after %d puts: got epoch %s, %v, want %s", i+1, g, err, was)
			}
			epochs[team(i)] = g
			time.Sleep(lease / 100)
		}
		gone := 0
		for i := range n {
			w := do("GET", path(i), nil)
			if w.Code == 404 {
				gone++
			} else if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), noise(uint64(i), size)) {
				t.Errorf("%s: got %d with %d bytes", path(i), w.Code, w.Body.Len())
			}
		}
		if gone < n/2 || gone == n {
			t.Errorf("gone: got %d of %d", gone, n)
		}
		synctest.Wait()
	})
}
