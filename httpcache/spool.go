package httpcache

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// spool stores a body of unknown size as d: a store must know the size before it takes the first
// byte. The body itself fails when it gets too long.
func (h *handler) spool(ctx context.Context, d digest.Digest, body io.Reader) error {
	full := refusal.New(http.StatusInsufficientStorage, "bodies of unknown size fill the room that they share; send a Content-Length, or %s with a compressed body, and the blob needs none of it", sizeHeader)
	f, err := h.newSpool(full)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := d.Function.NewHash()
	if d.Size, err = copyPooled(io.MultiWriter(f, sum), body); err != nil {
		return err
	}
	got := digest.Digest{Function: d.Function, Hash: [32]byte(sum.Sum(nil)), Size: d.Size}
	if got != d {
		return h.advise(d, blob.Mismatch(d, got))
	}
	return h.stream(ctx, d, f.all())
}

// A spooled body waits in a file for its end. It takes from the room that all of them share.
type spooled struct {
	file  *os.File
	left  *atomic.Int64
	taken int64 // bytes
	full  error
}

// newSpool returns an empty one, whose Write fails with full when there is no room. The caller must close it.
func (h *handler) newSpool(full error) (*spooled, error) {
	if err := os.MkdirAll(h.SpoolDir, 0o700); err != nil {
		return nil, err
	}
	f, err := unnamedFile(h.SpoolDir)
	if err != nil {
		return nil, err
	}
	return &spooled{file: f, left: &h.spoolLeft, full: full}, nil
}

func (s *spooled) Write(p []byte) (int, error) {
	n := int64(len(p))
	s.taken += n
	if s.left.Add(-n) < 0 {
		return 0, s.full
	}
	return s.file.Write(p)
}

// all reads what was written from its beginning.
func (s *spooled) all() io.Reader { return io.NewSectionReader(s.file, 0, s.taken) }

// Close removes the file and gives its room back.
func (s *spooled) Close() error {
	err := s.file.Close()
	s.left.Add(s.taken)
	return err
}

// briefFile returns a new file in dir that has lost its name already.
func briefFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
