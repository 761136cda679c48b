package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// block is what a file system gives to a file at least, in bytes.
const block = 4096

// charge is what a file of size bytes takes of the disk.
func charge(size int64) int64 { return (size + block - 1) / block * block }

// slack is the part of a store that the cleaner keeps free, so that writers need not wait for it.
const slack = 16

// A room counts bytes, and knows all incarnations in the order in which the cleaner looks at them.
type room struct {
	max int64

	mu     sync.Mutex
	used   int64
	wanted int64         // bytes that somebody waits for
	pass   chan struct{} // closed when the cleaner's next pass ends
	clock  []incarnation // from hand on, oldest first
	hand   int
}

func newRoom(size int64) *room { return &room{max: size, pass: make(chan struct{})} }

func (r *room) inUse() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// take takes n bytes if they are there. If not, it returns what is closed after the next pass. low says
// that the cleaner should be woken.
func (r *room) take(n int64) (ok, low bool, pass <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used+n <= r.max {
		r.used += n
		return true, r.used > r.max-r.max/slack, nil
	}
	r.wanted = max(r.wanted, n)
	return false, true, r.pass
}

func (r *room) giveBack(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
}

// add puts a published incarnation, whose bytes are taken, behind all others.
func (r *room) add(n incarnation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hand > 1024 && r.hand > len(r.clock)/2 {
		r.clock = append(r.clock[:0], r.clock[r.hand:]...)
		r.hand = 0
	}
	r.clock = append(r.clock, n)
}

// next returns the incarnation under the hand.
func (r *room) next() (n incarnation, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hand == len(r.clock) {
		return n, false
	}
	n = r.clock[r.hand]
	r.hand++
	return n, true
}

// goal returns how much may be in use after a pass, and how many incarnations there are.
func (r *room) goal() (used int64, count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, r.max-max(r.max/slack, r.wanted)), len(r.clock) - r.hand
}

// endPass wakes all who wait for room.
func (r *room) endPass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = 0
	close(r.pass)
	r.pass = make(chan struct{})
}

// passes is how many of the cleaner's a writer waits for: others may take what the first ones made free.
const passes = 4

// reserve takes n bytes of room, and waits for the cleaner if it must.
func (s *Store) reserve(ctx context.Context, n int64) error {
	for range passes {
		ok, low, pass := s.room.take(n)
		if low {
			s.wakeCleaner()
		}
		if ok {
			return nil
		}
		select {
		case <-pass:
		case <-s.stop:
			return blob.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if ok, _, _ := s.room.take(n); ok {
		return nil
	}
	return fmt.Errorf("%w: all of the file store's %s are pinned or leased", blob.ErrFull, humanize.IBytes(uint64(s.room.max)))
}

func (s *Store) wakeCleaner() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// clean is the cleaner.
func (s *Store) clean() {
	defer close(s.cleaned)
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
			s.sweep(false)
		}
	}
}

// sweep evicts until enough is free, or everything that may go if all is set.
func (s *Store) sweep(all bool) {
	s.broom <- struct{}{}
	defer func() { <-s.broom }()
	goal, count := s.room.goal()
	// In the first turn of the clock what was used gets its second chance; after the second one, what is
	// left is pinned or leased.
	for range 2 * count {
		if !all && s.room.inUse() <= goal {
			break
		}
		n, ok := s.room.next()
		if !ok {
			break
		}
		s.judge(n, all)
	}
	s.room.endPass()
}

// judge evicts one incarnation or puts it behind all others.
func (s *Store) judge(n incarnation, force bool) {
	switch s.ledger.Condemn(n.key, n.place, force) {
	case ledger.Held, ledger.Warm:
		s.room.add(n)
	case ledger.Condemned:
		sim.Point("condemned")
		s.counts.evicted.Add(1)
		if err := s.dir.Remove(n.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			// It counts no more, though it is there: the next start removes it or takes it in again.
			s.log.Error("an evicted file can't be removed", "file", n.name(), "error", err)
		}
		s.room.giveBack(charge(n.size))
	}
}

var _ blob.Batcher = (*Store)(nil)
