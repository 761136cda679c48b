package httpcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// chunked hides the length of a body from the client, which then sends it chunked.
func chunked(data []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(data)} }

func casPath(d digest.Digest) string {
	d.Size = digest.AnySize
	return name{route: routeCAS, digest: d}.String()
}

// Every way to say how long a body is, or not to, stores the same blob.
func TestPut(t *testing.T) {
	for _, fn := range digest.Functions {
		for _, size := range []int{0, 1, 4096, 128<<10 - 1, 128 << 10, 128<<10 + 1, 3 << 20} {
			data := noise(7, size)
			frame := zstd.Encode(data)
			if size == 0 {
				frame = nil
			}
			n := fmt.Sprint(size)
			for _, way := range []struct {
				what   string
				body   io.Reader
				header []string
			}{
				{"length", bytes.NewReader(data), nil},
				{"length and header", bytes.NewReader(data), []string{sizeHeader, n}},
				{"identity", bytes.NewReader(data), []string{"Content-Encoding", "identity"}},
				{"chunked", chunked(data), nil},
				{"chunked and header", chunked(data), []string{sizeHeader, n}},
				{"zstd and header", bytes.NewReader(frame), []string{"Content-Encoding", "zstd", sizeHeader, n}},
				{"zstd, chunked, header", chunked(frame), []string{"Content-Encoding", "zstd", sizeHeader, n}},
				{"zstd without a size", chunked(frame), []string{"Content-Encoding", "zstd"}},
			} {
				f := newFixture(t, nil)
				d := fn.Of(data)
				if got := f.do("PUT", casPath(d), way.body, way.header...); got.code != 200 || got.body != "" {
					t.Fatalf("%s, %v, %s: got code %d, %q", n, fn, way.what, got.code, got.body)
				}
				got, err := blob.Get(context.Background(), f.model, d)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, %v, %s: got %d bytes, %v", n, fn, way.what, len(got), err)
				}
				f.noSpoolFiles()
				f.server.Close()
			}
		}
	}
}

// A PUT of what is there already succeeds, and an instance prefix changes nothing.
func TestPutTwice(t *testing.T) {
	f := newFixture(t, nil)
	data := noise(8, 5000)
	path := casPath(digest.SHA256.Of(data))
	f.put(path, data).must(t, 200)
	f.put("/a/b"+path, data).must(t, 200)
	f.do("PUT", path, chunked(data)).must(t, 200)
	f.get("/c"+path).must(t, 200, string(data))
}

// moon puts the empty blob without any header that says how long it is.
func TestPutEmptyWithoutLength(t *testing.T) {
	f := newFixture(t, nil)
	c, r := f.wire("PUT " + casPath(digest.SHA256.Empty()) + " HTTP/1.1")
	receive(t, r).must(t, 200)
	c.Close()
}

func TestPutMismatch(t *testing.T) {
	for _, size := range []int{1, 4096, 128 << 10, 300 << 10} {
		data, other := noise(9, size), noise(10, size)
		for _, fn := range digest.Functions {
			want, got := fn.Of(data), fn.Of(other)
			for _, body := range []io.Reader{bytes.NewReader(other), chunked(other)} {
				f := newFixture(t, nil)
				f.do("PUT", casPath(want), body).must(t, 400, want.Hex(), got.Hex())
				f.absent(want, got)
				f.noSpoolFiles()
				f.server.Close()
			}
		}
	}
}

// Bazel with --digest_function=BLAKE3 sends plain hashes over HTTP.
func TestPutBLAKE3AsPlainHash(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 128 << 10, 128<<10 + 1, 3 << 20} {
		data := noise(11, size)
		d := digest.BLAKE3.Of(data)
		for _, body := range []io.Reader{bytes.NewReader(data), chunked(data)} {
			f := newFixture(t, nil)
			f.do("PUT", "/cas/"+d.Hex(), body).must(t, 400, d.Hex(), "BLAKE3", "SHA-256", "gRPC", "127.0.0.1:8980", "/cas/blake3/"+d.Hex())
			f.get("/cas/"+d.Hex()).must(t, 404)
			if size > 0 {
				f.absent(d)
			}
			f.server.Close()
		}
	}
	f := newFixture(t, func(o *Options) { o.GRPCAddr = nil })
	data := []byte("x")
	f.put("/cas/"+digest.BLAKE3.Of(data).Hex(), data).must(t, 400, "gRPC", "/cas/blake3/")
	f.put("/cas/blake3/"+digest.SHA256.Of(data).Hex(), data).must(t, 400, digest.SHA256.Of(data).Hex(), digest.BLAKE3.Of(data).Hex())
}

func TestPutWrongSize(t *testing.T) {
	data := noise(12, 1000)
	frame := zstd.Encode(data)
	d := digest.SHA256.Of(data)
	for _, test := range []struct {
		body   io.Reader
		header []string
		want   string
	}{
		{bytes.NewReader(data), []string{sizeHeader, "999"}, "999"},
		{bytes.NewReader(data), []string{sizeHeader, "-1"}, sizeHeader},
		{bytes.NewReader(data), []string{sizeHeader, "many"}, "many"},
		{bytes.NewReader(data), []string{sizeHeader, "+1000"}, sizeHeader},
		{chunked(data), []string{sizeHeader, "999"}, "999"},
		{chunked(data), []string{sizeHeader, "1001"}, "1001"},
		{chunked(data), []string{sizeHeader, "0"}, "0 bytes"},
		{bytes.NewReader(frame), []string{"Content-Encoding", "zstd", sizeHeader, "999"}, "999"},
		{bytes.NewReader(frame), []string{"Content-Encoding", "zstd", sizeHeader, "1001"}, "1001"},
	} {
		f := newFixture(t, nil)
		f.do("PUT", casPath(d), test.body, test.header...).must(t, 400, test.want)
		f.absent(d)
		f.server.Close()
	}
	// The store has the hash with another size, so one of the two is wrong.
	f := newFixture(t, nil)
	f.put(casPath(d), data).must(t, 200)
	f.put(casPath(d), data[:999]).must(t, 400, d.Hex())
	f.get(casPath(d)).must(t, 200, string(data))
}

func TestPutEncodings(t *testing.T) {
	f := newFixture(t, nil)
	data := noise(13, 1000)
	d := digest.SHA256.Of(data)
	for _, encoding := range []string{"gzip", "br", "deflate", "zstd, zstd", "zstd,gzip", "x"} {
		f.put(casPath(d), data, "Content-Encoding", encoding).must(t, 415, encoding)
	}
	for _, header := range [][]string{{sizeHeader, "1000"}, nil} {
		header = append(header, "Content-Encoding", "zstd")
		f.put(casPath(d), data, header...).must(t, 400, "reading the body") // not zstd at all
		frame := zstd.Encode(bytes.Repeat(data, 100))
		f.put(casPath(d), frame[:len(frame)/2], header...).must(t, 400)
	}
	f.absent(d)
	f.noSpoolFiles()
	f.put(casPath(d), zstd.Encode(data), "Content-Encoding", "ZSTD", sizeHeader, "1000").must(t, 200)
}

// What decompresses to more than was declared, or to endless nothing, is cut off.
func TestPutZstdBombs(t *testing.T) {
	f := newFixture(t, nil) // takes 8 MiB
	d := digest.SHA256.Of([]byte("bomb"))
	bomb := zstd.Encode(make([]byte, 64<<20))
	f.put(casPath(d), bomb, "Content-Encoding", "zstd", sizeHeader, "4").must(t, 400, "declared")
	f.put(casPath(d), bomb, "Content-Encoding", "zstd").must(t, 413)
	// Skippable frames: 16 bytes of content each, which all decode to nothing.
	frame := append([]byte{0x50, 0x2a, 0x4d, 0x18, 16, 0, 0, 0}, make([]byte, 16)...)
	endless := bytes.Repeat(frame, 1<<20)
	f.put(casPath(d), endless, "Content-Encoding", "zstd", sizeHeader, "4").must(t, 413)
	f.do("PUT", casPath(d), chunked(endless), "Content-Encoding", "zstd", sizeHeader, "4").must(t, 400, "declared")
	f.put(casPath(d), endless, "Content-Encoding", "zstd").must(t, 413)
	f.do("PUT", casPath(d), chunked(endless), "Content-Encoding", "zstd").must(t, 413)
	f.absent(d)
	f.noSpoolFiles()
}

// What says that it is too large is refused while its body is still with the client.
func TestPutTooLargeUnread(t *testing.T) {
	f := newFixture(t, nil) // takes 8 MiB
	line := "PUT " + casPath(digest.SHA256.Of([]byte("large"))) + " HTTP/1.1"
	for _, head := range [][]string{
		{"Content-Length: 8388609"},
		{"Content-Length: 9999999999999"},
		{"Content-Length: 8388609", "Expect: 100-continue"},
		{"Content-Length: 10", "Content-Encoding: zstd", sizeHeader + ": 8388609"},
		{"Transfer-Encoding: chunked", sizeHeader + ": 8388609"},
		{"Content-Length: 9999999999", "Content-Encoding: zstd"},
	} {
		c, r := f.wire(append([]string{line}, head...)...)
		receive(t, r).must(t, 413, "8388608")
		c.Close()
	}
	f.noSpoolFiles()
}

func TestPutTooLargeChunked(t *testing.T) {
	f := newFixture(t, nil) // takes 8 MiB
	data := noise(14, 8<<20+1)
	f.do("PUT", casPath(digest.SHA256.Of(data)), chunked(data)).must(t, 413, "8388608")
	f.absent(digest.SHA256.Of(data))
	f.noSpoolFiles()
	fits := data[:8<<20]
	f.do("PUT", casPath(digest.SHA256.Of(fits)), chunked(fits)).must(t, 200)
	f.put(casPath(digest.SHA256.Of(fits)), fits).must(t, 200)
}

// Bodies of unknown size share the room of the largest blob. Those that say their size need none of it.
func TestPutChunkedShareRoom(t *testing.T) {
	f := newFixture(t, nil) // takes 8 MiB
	first, second := noise(18, 6<<20), noise(19, 4<<20)
	c, r := f.wire("PUT "+casPath(digest.SHA256.Of(first))+" HTTP/1.1", "Transfer-Encoding: chunked")
	send(t, c, fmt.Sprintf("%x\r\n%s\r\n", len(first), first))
	for f.handler.spoolLeft.Load() != 2<<20 {
		runtime.Gosched()
	}
	path := casPath(digest.SHA256.Of(second))
	f.do("PUT", path, chunked(second)).must(t, 507, "Content-Length", sizeHeader)
	f.absent(digest.SHA256.Of(second))
	f.put(path, second).must(t, 200)
	f.do("PUT", path, chunked(second), sizeHeader, fmt.Sprint(len(second))).must(t, 200)
	small := noise(20, 1<<20)
	f.do("PUT", casPath(digest.SHA256.Of(small)), chunked(small)).must(t, 200)
	send(t, c, "0\r\n\r\n")
	receive(t, r).must(t, 200)
	f.do("PUT", path, chunked(second)).must(t, 200)
	if got, want := f.handler.spoolLeft.Load(), int64(8<<20); got != want {
		t.Errorf("room left: got %d, want all %d", got, want)
	}
	f.noSpoolFiles()
}

// errFull is how a store says that it is full.
var errFull = fmt.Errorf("%w of blobs that are still leased; raise --max-size or shorten --lease", blob.ErrFull)

func TestExpectContinue(t *testing.T) {
	f := newFixture(t, nil)
	data := "after the go-ahead"
	d := digest.SHA256.Of([]byte(data))
	for _, framing := range []struct{ header, body string }{
		{fmt.Sprintf("Content-Length: %d", len(data)), data},
		{"Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(data), data)},
	} {
		c, r := f.wire("PUT "+casPath(d)+" HTTP/1.1", "Expect: 100-continue", framing.header)
		receive(t, r).must(t, 100)
		send(t, c, framing.body)
		receive(t, r).must(t, 200)
		// The connection goes on.
		send(t, c, "GET "+casPath(d)+" HTTP/1.1\r\nHost: test\r\n\r\n")
		receive(t, r).must(t, 200, data)
		c.Close()
	}
	// What will not be taken is not asked for.
	full := newFixture(t, func(o *Options) { o.Store = &strict{Store: o.Store, createErr: errFull} })
	_, r := full.wire("PUT "+casPath(d)+" HTTP/1.1", "Expect: 100-continue", "Content-Length: 18")
	receive(t, r).must(t, 507, "--max-size")
	_, r = f.wire("PUT /cas/xyz HTTP/1.1", "Expect: 100-continue", "Content-Length: 18")
	receive(t, r).must(t, 400)
}

// Clients that send all of a body before they look for an answer get it though the body is refused.
func TestRefusedBodyIsTaken(t *testing.T) {
	data := noise(21, 15<<20)
	path := casPath(digest.SHA256.Of(data))
	full := newFixture(t, func(o *Options) {
		o.MaxBlobSize, o.Store = 1<<30, &strict{Store: o.Store, createErr: errFull}
	})
	small := newFixture(t, nil) // takes 8 MiB
	for _, test := range []struct {
		name string
		f    *fixture
		path string
		code int
	}{{"full store", full, path, 507}, {"too large", small, path, 413}, {"no such path", full, "/nothing/here", 404}, {"no such digest", full, "/cas/x", 400}} {
		length := fmt.Sprintf("Content-Length: %d", len(data))
		c, r := test.f.wire("PUT "+test.path+" HTTP/1.1", length)
		send(t, c, string(data))
		receive(t, r).must(t, test.code)
		c, r = test.f.wire("PUT "+test.path+" HTTP/1.1", "Transfer-Encoding: chunked")
		send(t, c, fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(data), data))
		receive(t, r).must(t, test.code)
		test.f.put(test.path, data).must(t, test.code) // Go's own client
		curl, err := exec.LookPath("curl")
		if err != nil {
			continue
		}
		cmd := exec.Command(curl, "-sS", "-X", "PUT", "-H", "Expect:", "--data-binary", "@-", "-o", os.DevNull, "-w", "%{http_code}", test.f.server.URL+test.path)
		cmd.Stdin = bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != fmt.Sprint(test.code) {
			t.Errorf("%s: curl: got %s, %v, want %d", test.name, out, err, test.code)
		}
	}
}

// The store gets the first bytes while the last ones are still with the client.
func TestPutStreams(t *testing.T) {
	writers := make(chan *tracked, 1)
	f := newFixture(t, func(o *Options) { o.Store = &strict{Store: o.Store, writers: writers} })
	data := noise(15, 1<<20)
	c, r := f.wire("PUT "+casPath(digest.SHA256.Of(data))+" HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(data)))
	send(t, c, string(data[:512<<10]))
	w := <-writers
	for got := 0; got < 512<<10; {
		got += <-w.written
	}
	send(t, c, string(data[512<<10:]))
	receive(t, r).must(t, 200)
	if !<-w.closed {
		t.Error("got no commit")
	}
}

// A body that is cut off leaves nothing, however its length was told.
func TestPutAborted(t *testing.T) {
	data := noise(16, 600<<10)
	half := string(data[:300<<10])
	d := digest.SHA256.Of(data)
	frame := string(zstd.Encode(data))
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(half), half)
	for _, test := range []struct {
		what, body string
		head       []string
		spooled    bool
	}{
		{"length", half, []string{"Content-Length: 614400"}, false},
		{"chunked, in a chunk", chunk[:200<<10], []string{"Transfer-Encoding: chunked"}, true},
		{"chunked, between chunks", chunk, []string{"Transfer-Encoding: chunked"}, true},
		{"chunked, header", chunk, []string{"Transfer-Encoding: chunked", sizeHeader + ": 614400"}, false},
		{"zstd", frame[:300<<10], []string{"Content-Encoding: zstd", sizeHeader + ": 614400", fmt.Sprintf("Content-Length: %d", len(frame))}, false},
	} {
		for _, reset := range []bool{false, true} {
			writers := make(chan *tracked, 1)
			f := newFixture(t, func(o *Options) { o.Store = &strict{Store: o.Store, writers: writers} })
			c, r := f.wire(append([]string{"PUT " + casPath(d) + " HTTP/1.1"}, test.head...)...)
			send(t, c, test.body)
			var w *tracked
			if !test.spooled {
				w = <-writers
			}
			if reset {
				_ = c.SetLinger(0)
				c.Close()
			} else {
				_ = c.CloseWrite() // so that the answer can be read
				receive(t, r).must(t, 400)
			}
			f.server.Close() // waits for the handler
			if w != nil && <-w.closed {
				t.Errorf("%s: got a commit", test.what)
			}
			if len(writers) > 0 {
				t.Errorf("%s: got a writer for a body that never ended", test.what)
			}
			f.absent(d, digest.SHA256.Of([]byte(half)))
			f.noSpoolFiles()
		}
	}
}

// A client that falls silent doesn't hold its upload for ever.
func TestPutStalls(t *testing.T) {
	for _, head := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		f := newFixture(t, nil)
		f.handler.stall = 50 * time.Millisecond
		_, r := f.wire("PUT "+casPath(digest.SHA256.Of([]byte("slow")))+" HTTP/1.1", head)
		receive(t, r).must(t, 408)
		f.noSpoolFiles()
	}
}

func TestStoreRefuses(t *testing.T) {
	data := []byte("no room")
	d := digest.SHA256.Of(data)
	for _, test := range []struct {
		err  error
		code int
		want string
	}{
		{errFull, 507, "raise --max-size or shorten --lease"},
		{fmt.Errorf("%w: the limit is 1 GiB", blob.ErrTooLarge), 413, "the limit is 1 GiB"},
		{blob.ErrAborted, 503, "try again"},
		{blob.ErrClosed, 503, "closed"},
		{blob.ErrInvalid, 400, "invalid"},
		{errors.New("broken disk"), 500, "broken disk"},
	} {
		f := newFixture(t, func(o *Options) { o.Store = &strict{Store: o.Store, createErr: test.err} })
		f.put(casPath(d), data).must(t, test.code, test.want)
		f.do("PUT", casPath(d), chunked(data)).must(t, test.code, test.want)
		f.noSpoolFiles()
	}
}

func TestSpoolFolder(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.SpoolDir = filepath.Join(o.SpoolDir, "made", "when needed") })
	data := noise(17, 10_000)
	f.do("PUT", casPath(digest.SHA256.Of(data)), chunked(data)).must(t, 200)

	f = newFixture(t, func(o *Options) {
		o.SpoolDir = filepath.Join(o.SpoolDir, "file")
		if err := os.WriteFile(o.SpoolDir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	f.do("PUT", casPath(digest.SHA256.Of(data)), chunked(data)).must(t, 500)
	f.put(casPath(digest.SHA256.Of(data)), data).must(t, 200) // needs no file
}

// Where the file system has no unnamed files, the name is gone before the first byte is written.
func TestBriefFile(t *testing.T) {
	dir := t.TempDir()
	f, err := briefFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v, want nothing", entries, err)
	}
	if _, err := f.WriteString("still usable"); err != nil {
		t.Error(err)
	}
}

func TestStatusOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{&blob.Error{Op: "open", Err: blob.ErrCorrupt}, 500},
		{&refusal.BodyError{Err: io.ErrUnexpectedEOF}, 400},
		{&refusal.BodyError{Err: os.ErrDeadlineExceeded}, 408},
		{context.Canceled, 499},
		{context.DeadlineExceeded, 503},
		{&os.PathError{Op: "write", Err: os.ErrPermission}, 500},
	} {
		if got := statusOf(test.err); got != test.want {
			t.Errorf("%v: got %d, want %d", test.err, got, test.want)
		}
	}
	if got := (&refusal.BodyError{Err: io.ErrUnexpectedEOF}).Error(); !strings.Contains(got, "reading the body") {
		t.Errorf("got %q", got)
	}
}
