package backup

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// bodyTime is how long a body that is held in memory may take.
const bodyTime = 2 * time.Minute

// A timely reader fails once its time is over.
type timely struct {
	io.Reader
	end time.Time
}

// Read implements io.Reader.
func (r timely) Read(p []byte) (int, error) {
	if time.Now().After(r.end) {
		return 0, os.ErrDeadlineExceeded
	}
	return r.Reader.Read(p)
}

// body returns a small body whole.
func (q *request) body(most int64) ([]byte, error) {
	tooLarge := refusal.New(http.StatusRequestEntityTooLarge, "the body has more than the %d bytes that are taken here", most)
	if q.r.ContentLength > most {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(timely{q.r.Body, time.Now().Add(bodyTime)}, most+1))
	if err != nil {
		return nil, &refusal.BodyError{Err: err}
	}
	if int64(len(data)) > most {
		return nil, tooLarge
	}
	return data, nil
}

// bodyReader marks errors as the client's.
type bodyReader struct{ io.Reader }

// Read implements io.Reader.
func (r bodyReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = &refusal.BodyError{Err: err}
	}
	return n, err
}

// A buffer is what bytes are moved through.
type buffer [128 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// A largeBuffer is for packs: file systems take half the time for bytes that come in a few large writes. Only maxWhole are in
// use at once, whoever else uploads, so that slow clients do not hold much memory.
type largeBuffer [1 << 20]byte

var largeBuffers = sync.Pool{New: func() any { return new(largeBuffer) }}

// bufferFor returns a buffer for an upload of that size, and what gives it back.
func (h *handler) bufferFor(size int64) (b []byte, done func()) {
	if size > int64(len(buffer{})) {
		select {
		case h.large <- struct{}{}:
			large := largeBuffers.Get().(*largeBuffer)
			return large[:], func() {
				largeBuffers.Put(large)
				<-h.large
			}
		default:
		}
	}
	small := buffers.Get().(*buffer)
	return small[:], func() { buffers.Put(small) }
}

// stream stores what r reads as d, verified.
func (q *request) stream(d digest.Digest, r io.Reader) error {
	w, err := q.Store.Create(q.r.Context(), d)
	if err != nil {
		return err
	}
	defer w.Close()
	buf, done := q.bufferFor(d.Size)
	defer done()
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return w.Commit() // which knows whether that was all
		} else if err != nil {
			return err
		}
	}
}
