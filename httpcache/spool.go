package httpcache

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// spool stores a body of unknown size as d: a store must know the size before it takes the first
// byte. The body itself fails when it gets too long.
func (h *handler) spool(ctx context.Context, d digest.Digest, body io.Reader) error {
	if err := os.MkdirAll(h.SpoolDir, 0o700); err != nil {
		return err
	}
	f, err := unnamedFile(h.SpoolDir)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, out := d.Function.NewHash(), &spoolFile{file: f, left: &h.spoolLeft}
	defer out.release()
	if d.Size, err = copyPooled(io.MultiWriter(out, sum), body); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got := digest.Digest{Function: d.Function, Hash: [32]byte(sum.Sum(nil)), Size: d.Size}
	if got == d {
		return h.stream(ctx, d, f)
	}
	return h.advise(d, blob.Mismatch(d, got))
}

// A spoolFile takes what is written to it from the room that all spooled bodies share.
type spoolFile struct {
	file  *os.File
	left  *atomic.Int64
	taken int64
}

func (f *spoolFile) Write(p []byte) (int, error) {
	n := int64(len(p))
	f.taken += n
	if f.left.Add(-n) < 0 {
		return 0, refuse(http.StatusInsufficientStorage, "bodies of unknown size fill the room that they share; send a Content-Length, or %s with a compressed body, and the blob needs none of it", sizeHeader)
	}
	return f.file.Write(p)
}

// release gives the room back. The file is closed right after.
func (f *spoolFile) release() { f.left.Add(f.taken) }

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
