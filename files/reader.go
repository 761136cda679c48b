package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// A held blob can't be evicted.
type held struct {
	incarnation
	pin ledger.Pin
}

// pin looks a blob up and pins it in one section.
func (s *Store) pin(d digest.Digest, executable bool) (held, bool) {
	h := held{incarnation: incarnation{key: keyOf(d, executable)}}
	var ok bool
	h.pin, ok = s.ledger.Pin(h.key, d.Size, func(p ledger.Place, size int64) { h.place, h.size = p, size })
	return h, ok
}

// openFile opens the file of a blob that is pinned.
func (s *Store) openFile(h held) (vfs.File, error) {
	f, err := s.dir.OpenRead(h.name())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.drop(h, err)
	}
	return f, err
}

// drop forgets a blob whose file is gone or has other bytes, which nobody but a meddler can bring about.
// The blob is then not found, so that it is fetched again.
func (s *Store) drop(h held, cause error) error {
	// COMMIT: the blob is absent from here on.
	if s.ledger.Drop(h.key, h.place) {
		s.counts.corrupt.Add(1)
		s.log.Error("a stored file is damaged and was dropped", "file", h.name(), "error", cause)
		if err := s.dir.Remove(h.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("the damaged file can't be removed", "error", err)
		}
		s.room.giveBack(charge(h.size))
	}
	return fmt.Errorf("%w: its file was damaged: %w", blob.ErrNotFound, cause)
}

// A reader reads one file. Its pin holds the blob, and its descriptor the bytes.
type reader struct {
	file   vfs.File
	size   int64
	pin    ledger.Pin
	closed atomic.Bool
}

// Size implements blob.Reader.
func (r *reader) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt. A file that ends early is an error, and never the end of the blob.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.size || off < 0 {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.size-off)]
	n, err := r.file.ReadAt(want, off)
	switch {
	case n == len(want) && n < len(p):
		return n, io.EOF
	case n == len(want):
		return n, nil
	case err == io.EOF:
		return n, fmt.Errorf("%w: %d bytes at %d where there should be %d", blob.ErrCorrupt, n, off, len(want))
	}
	return n, err
}

// Close implements io.Closer. It may be called again, to no effect.
func (r *reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.pin.Release()
	return r.file.Close()
}

// emptyReader reads the blob of no bytes, which is nowhere.
type emptyReader struct{}

func (emptyReader) Size() int64                       { return 0 }
func (emptyReader) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (emptyReader) Close() error                      { return nil }
