package httpcache

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A buffer is what bytes are moved through. The size is a compromise: a blob of a few KiB should not
// need much, and one of many MiB not many writes.
type buffer [128 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// copyPooled is io.Copy through a buffer of the pool. Neither side's own way to copy is used.
func copyPooled(dst io.Writer, src io.Reader) (int64, error) {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	return copyThrough(buf, dst, src)
}

func copyThrough(buf *buffer, dst io.Writer, src io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
}

// A response counts what is sent, and cuts the connection of a client that takes nothing.
type response struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	body    *body // of the request
	// form makes the body of a failure, where that is not plain text. It may be nil.
	form func(code int, what string) (contentType string, body []byte)
	code int   // of the final header, 0 before it
	sent int64 // bytes of the response's body
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(code int) {
	if code >= 200 && w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	// Not every ResponseWriter has deadlines; net/http's servers do.
	_ = w.control.SetWriteDeadline(time.Now().Add(w.stall))
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, so that copies to w use a buffer of the pool.
func (w *response) ReadFrom(src io.Reader) (int64, error) { return copyPooled(w, src) }

// Unwrap lets http.ResponseController find what is inside.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// whole answers 200 with data, whose length the client is told.
func whole(w *response, data []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(data) // the client is gone; net/http closes the connection
}

// text answers with plain text, or in w's form.
func text(w *response, code int, what string) {
	contentType, body := "text/plain; charset=utf-8", []byte(what+"\n")
	if w.form != nil {
		contentType, body = w.form(code, what)
	}
	head := w.Header()
	head.Set("Content-Type", contentType)
	head.Set("X-Content-Type-Options", "nosniff")
	// What was said about a blob is not true of the text.
	head.Del("ETag")
	head.Del("Content-Encoding")
	head.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // the client is gone; net/http closes the connection
}

// A body is a request's body. It counts what is received, marks errors as the client's, and ends the
// wait for a client that sends nothing. Nothing is read before the first Read, so an
// 'Expect: 100-continue' is answered only then.
type body struct {
	io.Reader
	response *response
	received int64 // bytes
	ended    bool  // or failed
}

func (b *body) Read(p []byte) (int, error) {
	b.arm()
	n, err := b.Reader.Read(p)
	b.received += int64(n)
	if b.ended = err != nil; b.ended {
		// From here net/http itself waits on the connection, to see whether the client leaves.
		_ = b.response.control.SetReadDeadline(time.Time{})
	}
	if err != nil && err != io.EOF {
		err = &refusal.BodyError{Err: err}
	}
	return n, err
}

// arm limits the wait for the next bytes. net/http lifts the limit before the next request.
func (b *body) arm() {
	_ = b.response.control.SetReadDeadline(time.Now().Add(b.response.stall))
}

const (
	// What is taken of a body that was refused: bytes, and time.
	lingerBytes = 64 << 20
	lingerTime  = 5 * time.Second
	// keptBytes is how much of a body net/http itself reads after the answer, to keep the connection.
	keptBytes = 256 << 10
)

// coming reports whether the client of r is sending more of the body than net/http takes. One that
// waits to be asked for it is not.
func (b *body) coming(r *http.Request) bool {
	waits := b.received == 0 && r.Header.Get("Expect") != ""
	return !waits && !b.ended && (r.ContentLength < 0 || r.ContentLength-b.received > keptBytes)
}

// linger takes what is coming of a body that was refused, within bounds. Many clients send all of it
// before they look for an answer, and would lose that to the reset of a connection closed on them.
func (b *body) linger() {
	_ = b.response.control.Flush()
	_ = b.response.control.SetReadDeadline(time.Now().Add(lingerTime))
	n, _ := io.CopyN(io.Discard, b.Reader, lingerBytes)
	b.received += n
}

// fill reads until buf is full or r ends or fails. Unlike io.ReadFull it returns r's own error, so
// that a body's clean end (io.EOF) and one that was cut off stay two things.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
