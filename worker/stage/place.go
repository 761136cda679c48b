package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

const (
	// chunk is how much of a large blob is read at once, in bytes, in ranges of piece.
	chunk = 16 << 20
	piece = 4 << 20
)

// settle links w, which the store has or had just now, at all its places, and reports whether it did. With
// data, a place that can't be linked is written instead.
func (f *fetch) settle(w *want, data []byte) bool {
	for {
		f.mu.Lock()
		if len(w.places) == 0 {
			delete(f.wants, w.digest.Key()) // from now on the store is asked again
			f.mu.Unlock()
			return true
		}
		at := w.places[len(w.places)-1]
		w.places = w.places[:len(w.places)-1]
		f.mu.Unlock()
		err := f.stager.o.Files.LinkAt(f.ctx, w.digest, at.executable, f.top, at.path)
		if err != nil && wantsBytes(err) {
			if data == nil {
				f.mu.Lock()
				w.places = append(w.places, at)
				f.mu.Unlock()
				return false
			}
			err = f.write(w.digest, at, func(file vfs.ModeFile) error {
				_, err := file.WriteAt(data, 0)
				return err
			})
		}
		if err != nil {
			f.fail(err)
			return false
		}
	}
}

// write makes a file of its own at a place. It is the caller's to write the right bytes.
func (f *fetch) write(d digest.Digest, at place, fill func(vfs.ModeFile) error) error {
	file, err := f.top.Create(at.path, d.Size)
	if err != nil {
		return err
	}
	err = fill(file)
	if err == nil {
		mode := fs.FileMode(0o444)
		if at.executable {
			mode = 0o555
		}
		err = file.Chmod(mode)
	}
	f.mu.Lock()
	f.stats.Private++
	f.mu.Unlock()
	return errors.Join(err, file.Close())
}

// fetchLarge fetches a blob in pieces.
func (f *fetch) fetchLarge(w *want) error {
	n, err := f.stager.budget.take(f.ctx, min(w.digest.Size, chunk))
	if err != nil {
		return err
	}
	defer f.stager.budget.giveBack(n)
	buf := make([]byte, min(w.digest.Size, chunk))
	wait := pause
	for try := 1; ; try++ {
		err = f.store(w.digest, buf)
		if err == nil || wantsBytes(err) || try == attempts || !f.sleep(wait) {
			break
		}
		wait *= 4
	}
	switch {
	case err == nil:
		f.mu.Lock()
		f.stats.Fetched++
		f.stats.FetchedBytes += w.digest.Size
		f.mu.Unlock()
		if f.settle(w, nil) || f.ctx.Err() != nil {
			return nil
		}
	case errors.Is(err, blob.ErrNotFound):
		f.lose(w.digest)
		return nil
	case !wantsBytes(err):
		return err
	}
	return f.writeLarge(w, buf) // there is no room for it
}

// sleep waits, and reports whether there is still a reason to go on.
func (f *fetch) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-f.ctx.Done():
		return false
	}
}

// store copies a blob from the source to the store.
func (f *fetch) store(d digest.Digest, buf []byte) error {
	to, err := f.stager.o.Files.Create(f.ctx, d)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := f.read(d, buf, func(p []byte, _ int64) error {
		_, err := to.Write(p)
		return err
	}); err != nil {
		return err
	}
	return to.Commit()
}

// read reads a blob from the source, in order, and asks again for a piece that failed.
func (f *fetch) read(d digest.Digest, buf []byte, each func(p []byte, off int64) error) error {
	from, err := f.stager.o.Source.Open(f.ctx, d)
	if err != nil {
		return err
	}
	defer from.Close()
	for off := int64(0); off < d.Size; {
		p := buf[:min(int64(len(buf)), d.Size-off)]
		if err := readRanges(from, p, off); err != nil {
			return fmt.Errorf("read %s at %d: %w", d, off, err)
		}
		if err := each(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
	}
	return nil
}

// readRanges fills p with what lies at off, by several ranges at once.
func readRanges(from io.ReaderAt, p []byte, off int64) error {
	errs := make([]error, (len(p)+piece-1)/piece)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			part := p[i*piece : min(len(p), (i+1)*piece)]
			n, err := from.ReadAt(part, off+int64(i)*piece)
			if n < len(part) {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return firstError(errs...)
}

// writeLarge writes a blob that the store has no room for at each of its places.
func (f *fetch) writeLarge(w *want, buf []byte) error {
	for {
		f.mu.Lock()
		if len(w.places) == 0 {
			delete(f.wants, w.digest.Key())
			f.mu.Unlock()
			return nil
		}
		at := w.places[len(w.places)-1]
		w.places = w.places[:len(w.places)-1]
		f.mu.Unlock()
		hash := w.digest.Function.NewHash()
		err := f.write(w.digest, at, func(file vfs.ModeFile) error {
			return f.read(w.digest, buf, func(p []byte, off int64) error {
				_, _ = hash.Write(p) // hashes never fail
				_, err := file.WriteAt(p, off)
				return err
			})
		})
		if errors.Is(err, blob.ErrNotFound) {
			f.lose(w.digest)
			return nil
		}
		if err != nil {
			return err
		}
		if [32]byte(hash.Sum(nil)) != w.digest.Hash {
			return &blob.Error{Op: "get", Digest: w.digest, Err: fmt.Errorf("%w: hash", blob.ErrMismatch)}
		}
	}
}
