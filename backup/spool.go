package backup

import (
	"io"
	"net/http"
	"os"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A spooled body waits in a file without a name until its digest is known.
type spooled struct {
	digest digest.Digest
	file   *os.File
	h      *handler
	taken  int64
}

// spool receives the body. All bodies that wait share the room of the largest one.
func (q *request) spool() (*spooled, error) {
	if q.r.ContentLength > q.MaxBlobSize {
		return nil, refusal.New(http.StatusRequestEntityTooLarge, "the file has more than the %d bytes that are taken; raise --max-size", q.MaxBlobSize)
	}
	if err := os.MkdirAll(q.SpoolDir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(q.SpoolDir, "spool-*")
	if err != nil {
		return nil, err
	}
	s := &spooled{file: f, h: q.handler}
	if err := os.Remove(f.Name()); err != nil {
		s.close()
		return nil, err
	}
	sum := digest.SHA256.NewHash()
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(s, sum)}, struct{ io.Reader }{bodyReader{q.r.Body}}, buf[:])
	if err != nil {
		s.close()
		return nil, err
	}
	s.digest = digest.Digest{Function: digest.SHA256, Hash: [32]byte(sum.Sum(nil)), Size: n}
	return s, nil
}

// Write implements io.Writer.
func (s *spooled) Write(p []byte) (int, error) {
	s.taken += int64(len(p))
	if s.h.spoolTaken.Add(int64(len(p))) > s.h.MaxBlobSize {
		return 0, refusal.New(http.StatusInsufficientStorage, "uploads that are under way fill the room that they share")
	}
	return s.file.Write(p)
}

// all reads what came.
func (s *spooled) all() io.Reader { return io.NewSectionReader(s.file, 0, s.taken) }

// close gives the room back.
func (s *spooled) close() {
	_ = s.file.Close() // nobody will read it
	s.h.spoolTaken.Add(-s.taken)
}
