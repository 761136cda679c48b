package tier

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
)

const (
	// pieceSize is how much a fetch reads at a time.
	pieceSize = 256 << 10
	// windowPieces is how many pieces stay in memory for readers that are a little behind. One that is further
	// behind waits until the blob is near.
	windowPieces = 16
	// waitAtMost is how long a reader waits for a fetch that has its turn. Then it reads from the far store itself.
	waitAtMost = 10 * time.Second
	// turnAtMost is how long it waits for one that has not: those before it may take hours.
	turnAtMost = 30 * time.Second
	// ahead is how far before the fetch a reader may be to wait for it. One that is further ahead wants a
	// part, and reads that from the far store.
	ahead = 4 << 20
	// smallSize is up to what size the far store has a blob in memory when it is open.
	smallSize = 1 << 20
	// largeFetches is how many blobs larger than that come near at once: each takes some tens of MiB of memory.
	largeFetches = 16
)

// A fetch opens a blob of the far store once for all who want it, reads it once, writes it to the near store, and
// lets readers read along.
type fetch struct {
	opened chan struct{} // closed when what follows is set
	far    blob.Reader
	d      digest.Digest
	err    error

	mu      sync.Mutex
	users   int // the fetch itself, and its readers; the last one closes far
	moved   sync.Cond
	hasTurn bool
	first   int64 // the offset of window[0]
	window  [][]byte
	end     int64 // the offset behind the window
	state   state
}

type state uint8

const (
	flying state = iota
	near         // the blob was committed to the near store
	failed       // it was not
)

// fetch returns the fetch of d that is under way, or begins one. The caller must release it.
func (s *Store) fetch(d digest.Digest) (f *fetch, leads bool) {
	d.Size = digest.AnySize // who knows the size, and who doesn't, want the same bytes
	for {
		f, leads := s.fetches.join(d, func() *fetch {
			f := &fetch{opened: make(chan struct{}), users: 2}
			f.moved.L = &f.mu
			return f
		})
		if !leads {
			if f.use() {
				return f, false
			}
			continue // it is over, and off the list
		}
		// Nobody's own context: who began it may go while others read along.
		go func() {
			defer s.fetches.done()
			s.run(s.ctx, d, f)
			s.fetches.forget(d) // before it may be closed
			f.release()
		}()
		return f, true
	}
}

// use adds a user, unless there is none any more.
func (f *fetch) use() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users == 0 {
		return false
	}
	f.users++
	return true
}

func (f *fetch) release() {
	f.mu.Lock()
	f.users--
	last := f.users == 0
	f.mu.Unlock()
	if last && f.far != nil {
		_ = f.far.Close() // it was only read
	}
}

// run opens d, fills the near store, and tells the readers what became of it.
func (s *Store) run(ctx context.Context, d digest.Digest, f *fetch) {
	if f.far, f.err = s.far.Open(ctx, d); f.err == nil {
		f.d = sized(d, f.far)
	}
	close(f.opened)
	err := f.err
	if err == nil {
		s.counts.fetched.Add(1)
		if err = s.fill(ctx, f); err != nil {
			s.counts.unfilled.Add(1)
			s.log.Debug("a blob was not taken by the near store", "digest", f.d, "error", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = near
	if err != nil {
		f.state = failed
	}
	f.window = nil
	f.moved.Broadcast()
}

// fill moves the blob from the far store to the near one, through f.
func (s *Store) fill(ctx context.Context, f *fetch) error {
	if f.d.Size > smallSize {
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.takeTurn()
	var first []byte
	if f.d.Size <= smallSize {
		// Readers need not wait for room in the near store.
		if first = make([]byte, f.d.Size); len(first) > 0 {
			if n, err := f.far.ReadAt(first, 0); n < len(first) {
				return errors.Join(io.ErrUnexpectedEOF, err)
			}
			f.push(first)
			sim.Point("tier: read a small blob")
		}
	}
	w, err := s.near.Create(ctx, f.d)
	if err != nil {
		return err // readers read from the far store themselves
	}
	defer w.Close()
	if _, err := w.Write(first); err != nil {
		return err
	}
	for off := int64(len(first)); off < f.d.Size; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		piece := make([]byte, min(pieceSize, f.d.Size-off))
		n, err := f.far.ReadAt(piece, off)
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
	return w.Commit()
}

// takeTurn notes that the fetch has its turn: from here on readers wait for waitAtMost at most.
func (f *fetch) takeTurn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hasTurn = true
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
func (f *fetch) read(p []byte, off int64, wait bool) (int, state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	late := !wait
	var timer *time.Timer
	for f.state == flying && (off < f.first || f.end <= off) {
		if off > f.end+ahead || late {
			return 0, failed
		}
		if timer == nil {
			limit := turnAtMost
			if f.hasTurn {
				limit = waitAtMost
			}
			timer = time.AfterFunc(limit, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				late = true
				f.moved.Broadcast()
			})
			defer timer.Stop()
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
