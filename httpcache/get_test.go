package httpcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// store puts data into the store behind the server's back and returns its path.
func (f *fixture) store(fn digest.Function, data []byte) string {
	f.t.Helper()
	d := fn.Of(data)
	if err := blob.Put(context.Background(), f.model, d, data); err != nil {
		f.t.Fatal(err)
	}
	return name{route: routeCAS, digest: digest.Digest{Function: fn, Hash: d.Hash, Size: digest.AnySize}}.String()
}

func TestGet(t *testing.T) {
	f := newFixture(t, nil)
	for _, fn := range digest.Functions {
		for _, size := range []int{0, 1, 4096, 128 << 10, 1<<20 + 1} {
			data := noise(1, size)
			path := f.store(fn, data)
			for _, method := range []string{"GET", "HEAD"} {
				// Bazel asks for gzip; nobody makes it.
				a := f.do(method, "/some/instance"+path, nil, "Accept-Encoding", "gzip").must(t, 200)
				want := string(data)
				if method == "HEAD" {
					want = ""
				}
				if a.body != want || a.err != nil {
					t.Errorf("%s %s: got %d bytes (%v), want %d", method, path, len(a.body), a.err, len(want))
				}
				a.wantHeader(t, "Content-Length", fmt.Sprint(size))
				a.wantHeader(t, "Content-Type", "application/octet-stream")
				a.wantHeader(t, "Content-Encoding", "")
				a.wantHeader(t, "Accept-Ranges", "bytes")
				a.wantHeader(t, "Vary", "Accept-Encoding")
				a.wantHeader(t, "ETag", `"`+fn.Of(data).Hex()+`"`)
			}
		}
	}
}

func TestGetMiss(t *testing.T) {
	f := newFixture(t, nil)
	path := f.store(digest.SHA256, []byte("x"))
	f.get("/cas/"+digest.SHA256.Of([]byte("y")).Hex()).must(t, 404, "blob "+digest.SHA256.Of([]byte("y")).Hex()+" is not here")
	f.do("HEAD", "/cas/"+digest.SHA256.Of([]byte("y")).Hex(), nil).must(t, 404)
	// The functions' names don't meet.
	f.get("/cas/blake3/"+path[len("/cas/"):]).must(t, 404, "is not here")
	f.get("/cas/xyz").must(t, 400, "64 lower-case hexadecimal digits")
}

func TestRanges(t *testing.T) {
	f := newFixture(t, nil)
	data := noise(2, 1000)
	path := f.store(digest.SHA256, data)
	etag := `"` + digest.SHA256.Of(data).Hex() + `"`
	for _, test := range []struct {
		ranges, ifRange string
		code            int
		contentRange    string
		want            []byte
	}{
		{"bytes=0-99", "", 206, "bytes 0-99/1000", data[:100]},
		{"bytes=900-", "", 206, "bytes 900-999/1000", data[900:]},
		{"bytes=-1", "", 206, "bytes 999-999/1000", data[999:]},
		{"bytes=990-5000", "", 206, "bytes 990-999/1000", data[990:]},
		{"bytes=0-99", etag, 206, "bytes 0-99/1000", data[:100]},
		{"bytes=0-99", `"other"`, 200, "", data},
		{"bytes=0-99", "W/" + etag, 200, "", data},
		{"bytes=0-1,5-6", "", 200, "", data},
		{"bytes=1000-", "", 416, "bytes */1000", nil},
		{"bytes=9-1", "", 416, "", nil},
		{"lines=1-2", "", 200, "", data},
	} {
		// A range is about the blob's own bytes, so nothing is compressed.
		header := []string{"Range", test.ranges, "Accept-Encoding", "zstd"}
		if test.ifRange != "" {
			header = append(header, "If-Range", test.ifRange)
		}
		a := f.get(path, header...).must(t, test.code)
		a.wantHeader(t, "Content-Range", test.contentRange)
		a.wantHeader(t, "Content-Encoding", "")
		if test.want != nil && a.body != string(test.want) {
			t.Errorf("%v: got %d bytes, want %d", header, len(a.body), len(test.want))
		}
	}
	empty := f.store(digest.SHA256, nil)
	f.get(empty, "Range", "bytes=0-").must(t, 200)
}

func TestConditions(t *testing.T) {
	f := newFixture(t, nil)
	data := []byte("conditional")
	path := f.store(digest.SHA256, data)
	etag := `"` + digest.SHA256.Of(data).Hex() + `"`
	f.get(path, "If-None-Match", etag).must(t, 304)
	f.get(path, "If-None-Match", "W/"+etag, "Accept-Encoding", "zstd").must(t, 304)
	f.get(path, "If-None-Match", `"other"`).must(t, 200, "conditional")
	f.get(path, "If-Match", `"other"`).must(t, 412)
	// A blob that is gone is a miss, whatever the client still has.
	f.get("/cas/"+digest.SHA256.Of([]byte("gone")).Hex(), "If-None-Match", etag).must(t, 404)
}

func TestGetZstd(t *testing.T) {
	f := newFixture(t, nil)
	data := bytes.Repeat([]byte("compressible "), 100_000)
	path := f.store(digest.SHA256, data)
	for _, test := range []struct {
		accept string
		want   bool
	}{
		{"zstd", true},
		{"ZSTD", true},
		{"zstd,gzip", true}, // what moon sends
		{"gzip, deflate, br, zstd", true},
		{"zstd;q=0.5", true},
		{"zstd;q=0.5, identity;q=0.5", true},
		{"zstd ; q=0.001", true},
		{"gzip;q=1.0, zstd;q=0.1", true},
		{"zstd;q=0.5, identity", false},
		{"zstd;q=0", false},
		{"zstd;q=0.0, *", false},
		{"zstd;q=2", false},
		{"zstd;q=nan", false},
		{"zstd;q=", false},
		{"gzip", false},
		{"identity", false},
		{"*", false},
		{"zstdx", false},
	} {
		a := f.get(path, "Accept-Encoding", test.accept).must(t, 200)
		a.wantHeader(t, "Vary", "Accept-Encoding")
		got := []byte(a.body)
		if test.want {
			a.wantHeader(t, "Content-Encoding", "zstd")
			a.wantHeader(t, "ETag", `W/"`+digest.SHA256.Of(data).Hex()+`"`)
			if len(got) > len(data)/10 {
				t.Errorf("%q: got %d bytes, want far less than %d", test.accept, len(got), len(data))
			}
			var err error
			if got, err = zstd.Decode(got, int64(len(data))); err != nil {
				t.Fatal(err)
			}
		} else {
			a.wantHeader(t, "Content-Encoding", "")
			a.wantHeader(t, "Content-Length", fmt.Sprint(len(data)))
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%q: got other bytes", test.accept)
		}
	}
	// HEAD is asked for the blob's size; nothing is a whole frame already.
	f.do("HEAD", path, nil, "Accept-Encoding", "zstd").must(t, 200).wantHeader(t, "Content-Length", fmt.Sprint(len(data)))
	f.get(f.store(digest.SHA256, nil), "Accept-Encoding", "zstd").must(t, 200).wantHeader(t, "Content-Length", "0")
}

// A gate is a store of one blob, whose readers wait or fail at an offset.
type gate struct {
	blob.Store
	at   int64         // offset
	open chan struct{} // readers wait there until it is closed
	err  error         // and then return this, if not nil
}

func (g *gate) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := g.Store.Open(ctx, d)
	return &gatedReader{r, g}, err
}

type gatedReader struct {
	blob.Reader
	gate *gate
}

func (r *gatedReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.gate.at {
		<-r.gate.open
		if r.gate.err != nil {
			return 0, r.gate.err
		}
	}
	return r.Reader.ReadAt(p, off)
}

// The first bytes arrive while the store still holds back the last ones.
func TestGetStreams(t *testing.T) {
	for _, encoding := range []string{"identity", "zstd"} {
		g := &gate{at: 4 << 20, open: make(chan struct{})}
		f := newFixture(t, func(o *Options) { g.Store, o.Store = o.Store, g })
		data := noise(3, 6<<20)
		r, err := http.NewRequest("GET", f.server.URL+f.store(digest.SHA256, data), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", encoding)
		resp, err := f.server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first := make([]byte, 1<<20)
		if _, err := io.ReadFull(resp.Body, first); err != nil {
			t.Fatal(err)
		}
		close(g.open)
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		got = append(first, got...)
		if encoding == "zstd" {
			if got, err = zstd.Decode(got, int64(len(data))); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%s: got other bytes", encoding)
		}
	}
}

// A client that takes nothing doesn't hold a blob open for ever.
func TestGetStalls(t *testing.T) {
	for _, encoding := range []string{"identity", "zstd"} {
		closed := make(chan bool, 1)
		f := newFixture(t, func(o *Options) { o.Store = &watched{o.Store, closed} })
		f.handler.stall = 50 * time.Millisecond
		path := f.store(digest.SHA256, noise(18, 64<<20)) // more than the system's buffers take
		f.wire("GET "+path+" HTTP/1.1", "Accept-Encoding: "+encoding)
		<-closed
	}
}

// A watched store tells when a reader is closed.
type watched struct {
	blob.Store
	closed chan bool
}

func (s *watched) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := s.Store.Open(ctx, d)
	return &watchedReader{r, s.closed}, err
}

type watchedReader struct {
	blob.Reader
	closed chan bool
}

func (r *watchedReader) Close() error {
	r.closed <- true
	return r.Reader.Close()
}

// A blob that can't be read to its end never looks whole, even to a client that doesn't decode.
func TestGetFails(t *testing.T) {
	for _, at := range []int64{0, 4 << 20} {
		for _, encoding := range []string{"identity", "zstd"} {
			g := &gate{at: at, open: make(chan struct{}), err: blob.ErrCorrupt}
			close(g.open)
			f := newFixture(t, func(o *Options) { g.Store, o.Store = o.Store, g })
			c, r := f.wire("GET "+f.store(digest.SHA256, noise(4, 6<<20))+" HTTP/1.1", "Accept-Encoding: "+encoding)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				continue // cut before the first byte, which is as clear
			}
			if _, err := io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode == 200 {
				t.Errorf("%s, %d: got a whole body, want it cut off", encoding, at)
			}
			if resp.StatusCode != 200 && (resp.StatusCode != 500 || resp.Header.Get("Content-Encoding") != "") {
				t.Errorf("%s, %d: got code %d and header %v", encoding, at, resp.StatusCode, resp.Header)
			}
			c.Close()
		}
	}
}

// Every yes leases: the blob is there until the lease ends, and may go then.
func TestYesLeases(t *testing.T) {
	for _, ask := range []string{"PUT", "HEAD"} {
		synctest.Test(t, func(t *testing.T) {
			s := model.New(time.Hour)
			h := New(Options{Store: s})
			data := []byte("leased")
			d := digest.SHA256.Of(data)
			do := func(method string) int {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(method, "/cas/"+d.Hex(), bytes.NewReader(data)))
				return w.Code
			}
			present := func() bool {
				s.Evict()
				_, err := s.Open(t.Context(), digest.SHA256.Of([]byte("other")))
				if !errors.Is(err, blob.ErrNotFound) {
					t.Fatal(err)
				}
				return do("HEAD") == 200
			}
			do("PUT")
			time.Sleep(50 * time.Minute)
			if got := do(ask); got != 200 {
				t.Fatalf("%s: got code %d, want 200", ask, got)
			}
			time.Sleep(50 * time.Minute)
			if !present() {
				t.Errorf("%s gave no lease", ask)
			}
			time.Sleep(70 * time.Minute)
			if present() {
				t.Errorf("%s: got a yes after the lease and an eviction", ask)
			}
		})
	}
}

func TestManyClients(t *testing.T) {
	f := newFixture(t, nil)
	data := noise(5, 300<<10)
	path := "/cas/" + digest.SHA256.Of(data).Hex()
	var clients sync.WaitGroup
	for i := range 16 {
		clients.Go(func() {
			body, code := data, 200
			if i%4 == 3 { // a client whose bytes are not what it says harms nobody
				body, code = noise(6, len(data)), 400
			}
			r, _ := http.NewRequest("PUT", f.server.URL+path, bytes.NewReader(body))
			resp, err := f.server.Client().Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != code {
				t.Errorf("PUT: got code %d, want %d", resp.StatusCode, code)
			}
			if code != 200 {
				return
			}
			// After its own yes, every client can read.
			resp, err = f.server.Client().Get(f.server.URL + path)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, data) {
				t.Errorf("GET: got code %d, %d bytes (%v), want %d", resp.StatusCode, len(got), err, len(data))
			}
		})
	}
	clients.Wait()
}
