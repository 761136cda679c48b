package tier

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

const (
	// pieceSize is how much a fetch reads at a time.
	pieceSize = 256 << 10
	// windowPieces is how many pieces stay in memory for readers that are a little behind. One that is further
	// behind waits until the blob is near.
	windowPieces = 16
	// ahead is how far before the fetch a reader may be to wait for it. One that is further ahead wants a
	// part, and reads that from the far store.
	ahead = 4 << 20
)

// A fetch reads a blob from the far store, writes it to the near one, and lets readers read along.
type fetch struct {
	mu     sync.Mutex
	moved  sync.Cond
	first  int64 // the offset of window[0]
	window [][]byte
	end    int64 // the offset behind the window
	state  state
}

type state uint8

const (
	flying state = iota
	near         // the blob was committed to the near store
	failed       // it was not
)

// fetch returns the fetch of d that is under way, or begins one.
func (s *Store) fetch(d digest.Digest) *fetch {
	f, leads := s.fetches.join(d, func() *fetch {
		f := &fetch{}
		f.moved.L = &f.mu
		return f
	})
	if leads {
		// Nobody's own context: who began it may go while others read along.
		go func() {
			defer s.fetches.land(d)
			f.finish(s.fill(context.Background(), d, f), s.log, d)
		}()
	}
	return f
}

// finish tells the readers what became of the fetch.
func (f *fetch) finish(err error, log *slog.Logger, d digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = near
	if err != nil {
		f.state = failed
		log.Debug("a blob was not taken by the near store", "digest", d, "error", err)
	}
	f.window = nil
	f.moved.Broadcast()
}

// fill moves d from the far store to the near one, through f.
func (s *Store) fill(ctx context.Context, d digest.Digest, f *fetch) error {
	w, err := s.near.Create(ctx, d)
	if err != nil {
		return err // readers read from the far store themselves
	}
	defer w.Close()
	r, err := s.far.Open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	s.counts.fetched.Add(1)
	for off := int64(0); off < d.Size; {
		piece := make([]byte, min(pieceSize, d.Size-off))
		n, err := r.ReadAt(piece, off)
		if n < len(piece) {
			return errors.Join(io.ErrUnexpectedEOF, err)
		}
		f.push(piece)
		sim.Point("tier: read a piece")
		if _, err := w.Write(piece); err != nil {
			return err
		}
		off += int64(n)
	}
	if err := w.Commit(); err != nil {
		return err
	}
	s.counts.filled.Add(1)
	return nil
}

// push shows piece to the readers.
func (f *fetch) push(piece []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.window) == windowPieces {
		f.first += int64(len(f.window[0]))
		f.window = f.window[1:]
	}
	f.window = append(f.window, piece)
	f.end += int64(len(piece))
	f.moved.Broadcast()
}

// read copies what the window has at off, and waits for it if that is not long. If it returns nothing, state
// says where to read.
func (f *fetch) read(p []byte, off int64) (int, state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.state == flying && (off < f.first || f.end <= off) {
		if off > f.end+ahead {
			return 0, failed
		}
		f.moved.Wait()
	}
	if f.state != flying {
		return 0, f.state
	}
	n := 0
	at := f.first
	for _, piece := range f.window {
		if n == len(p) {
			break
		}
		if off < at+int64(len(piece)) {
			m := copy(p[n:], piece[off-at:])
			n, off = n+m, off+int64(m)
		}
		at += int64(len(piece))
	}
	return n, flying
}

// A reader reads along with a fetch, then from the near store, or from the far one if there is no other way.
type reader struct {
	store *Store
	d     digest.Digest
	fetch *fetch

	mu   sync.Mutex
	near blob.Reader // nil until the fetch has ended well
	far  blob.Reader // nil after Close
}

func (r *reader) Size() int64 { return r.d.Size }

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off+int64(n) < r.d.Size && off >= 0 {
		m, where := r.fetch.read(p[n:], off+int64(n))
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
	if off < 0 {
		return 0, &blob.Error{Op: "read", Digest: r.d, Err: blob.ErrInvalid}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// source returns the store's reader to read from now.
func (r *reader) source(where state) (blob.Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.near != nil:
		return r.near, nil
	case r.far == nil:
		return nil, &blob.Error{Op: "read", Digest: r.d, Err: blob.ErrClosed}
	case where != near:
		return r.far, nil
	}
	sim.Point("tier: filled")
	n, err := r.store.near.Open(context.Background(), r.d)
	if mutant.FilledBlind {
		return n, err
	}
	if err != nil {
		return r.far, nil // evicted already
	}
	r.near = n
	return n, nil
}

// Close gives the pins back.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, held := range []*blob.Reader{&r.near, &r.far} {
		if *held != nil {
			errs = append(errs, (*held).Close())
			*held = nil
		}
	}
	return errors.Join(errs...)
}
