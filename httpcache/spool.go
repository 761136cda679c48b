package httpcache

import (
	"context"
	"io"
	"os"

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
	sum := d.Function.NewHash()
	if d.Size, err = copyPooled(io.MultiWriter(f, sum), body); err != nil {
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
