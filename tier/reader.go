package tier

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := s.near.Open(ctx, d)
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	leads := false
	// What was not there for somebody else may have come since that one asked, and be promised by now. The second fetch was
	// begun after this call.
	for try := 0; try == 0 || try == 1 && !leads && errors.Is(err, blob.ErrNotFound); try++ {
		if r, leads, err = s.share(ctx, d); err == nil || ctx.Err() != nil {
			return r, err
		}
	}
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return s.near.Open(ctx, d) // it may have been evicted far, after it came near
	case leads || mutant.LeaderPoisons:
		return nil, err
	}
	return s.far.Open(ctx, d)
}

// share opens d with all others who want it from the far store. leads says that nobody else had begun.
func (s *Store) share(ctx context.Context, d digest.Digest) (r blob.Reader, leads bool, err error) {
	f, leads := s.fetch(d)
	select {
	case <-f.opened:
	case <-ctx.Done():
		f.release()
		return nil, leads, &blob.Error{Op: "open", Digest: d, Err: ctx.Err()}
	}
	if f.err == nil && d.Fits(f.d.Size) {
		return &reader{store: s, d: f.d, fetch: f}, leads, nil
	}
	if err = f.err; err == nil {
		err, leads = &blob.Error{Op: "open", Digest: d, Err: blob.ErrNotFound}, true // that can't change
	}
	f.release()
	return nil, leads, err
}

// sized is d with the size that r has.
func sized(d digest.Digest, r blob.Reader) digest.Digest {
	d.Size = r.Size()
	return d
}

// whole is d with the size of data.
func whole(d digest.Digest, data []byte) digest.Digest {
	d.Size = int64(len(data))
	return d
}

// A reader reads along with a fetch, then from the near store, or from the far one if there is no other way. Until
// Close it holds the fetch's pin of the far store.
type reader struct {
	store *Store
	d     digest.Digest
	fetch *fetch

	mu     sync.Mutex
	near   blob.Reader // nil until the fetch has ended well
	own    blob.Reader // of the far store, of a reader that goes on by itself
	left   bool        // it does not wait for the fetch any more
	closed bool
}

func (r *reader) Size() int64 { return r.d.Size }

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &blob.Error{Op: "read", Digest: r.d, Err: blob.ErrInvalid}
	}
	for n < len(p) && off+int64(n) < r.d.Size {
		m, where := r.fetch.read(p[n:], off+int64(n), !r.goesAlone())
		n += m
		if m > 0 {
			continue
		}
		from, err := r.source(where)
		if err != nil {
			return n, err
		}
		m, err = from.ReadAt(p[n:], off+int64(n))
		return n + m, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *reader) goesAlone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// source returns the store's reader to read from now.
func (r *reader) source(where state) (blob.Reader, error) {
	r.mu.Lock()
	closed, has, own := r.closed, r.near, r.own
	r.left = r.left || where != near
	r.mu.Unlock()
	switch {
	case closed:
		return nil, &blob.Error{Op: "read", Digest: r.d, Err: blob.ErrClosed}
	case has != nil:
		return has, nil
	case where == near:
		sim.Point("tier: filled")
		n, err := r.store.near.Open(context.Background(), r.d)
		if err == nil {
			return r.hold(&r.near, n)
		}
		if mutant.FilledBlind {
			return nil, err
		}
		// It was evicted already.
	}
	if own != nil {
		return own, nil
	}
	// What many read in different places through one Reader would be read again and again.
	if r.d.Size > smallSize {
		if f, err := r.store.far.Open(context.Background(), r.d); err == nil {
			return r.hold(&r.own, f)
		}
	}
	return r.fetch.far, nil
}

// hold keeps opened in its place until Close, unless another call was first.
func (r *reader) hold(place *blob.Reader, opened blob.Reader) (blob.Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || *place != nil {
		defer opened.Close()
	}
	switch {
	case r.closed:
		return nil, &blob.Error{Op: "read", Digest: r.d, Err: blob.ErrClosed}
	case *place == nil:
		*place = opened
	}
	return *place, nil
}

// Close gives the pins back. It may be called again, to no effect.
func (r *reader) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	held := []blob.Reader{r.near, r.own}
	r.mu.Unlock()
	var errs []error
	for _, h := range held {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	r.fetch.release()
	return errors.Join(errs...)
}
