package httpcache

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A buffer is what bytes are moved through. The size is a compromise: a blob of a few KiB should not
// need much, and one of many MiB not many writes.
type buffer [128 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// copyPooled is io.Copy through a buffer of the pool. Neither side's own way to copy is used.
func copyPooled(dst io.Writer, src io.Reader) (int64, error) {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
}

// A response counts what is sent, and cuts the connection of a client that takes nothing.
type response struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	body    *body // of the request
	code    int   // of the final header, 0 before it
	sent    int64 // bytes of the response's body
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

// text answers with plain text.
func text(w http.ResponseWriter, code int, what string) {
	http.Error(w, what, code) // sets the headers that keep browsers from guessing
}

// A body is a request's body. It counts what is received, marks errors as the client's, and ends the
// wait for a client that sends nothing. Nothing is read before the first Read, so an
// 'Expect: 100-continue' is answered only then.
type body struct {
	io.Reader
	response *response
	received int64 // bytes
}

func (b *body) Read(p []byte) (int, error) {
	b.arm()
	n, err := b.Reader.Read(p)
	b.received += int64(n)
	if err != nil {
		// From here net/http itself waits on the connection, to see whether the client leaves.
		_ = b.response.control.SetReadDeadline(time.Time{})
	}
	if err != nil && err != io.EOF {
		err = &bodyError{err}
	}
	return n, err
}

// arm limits the wait for the next bytes. net/http lifts the limit before the next request.
func (b *body) arm() {
	_ = b.response.control.SetReadDeadline(time.Now().Add(b.response.stall))
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
