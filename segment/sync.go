package segment

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// A syncer groups commits: callers join the round that has not begun, and whoever holds the turn
// syncs for all of them.
type syncer struct {
	turn chan struct{}
	mu   sync.Mutex
	next *round // the round that has not begun, if somebody waits for it
}

// A round is one pass of syncs. It covers everything that was written before it began.
type round struct {
	done chan struct{}
	err  error
}

// sync makes durable everything that was written before the call.
func (r *Ring) sync() error {
	y := &r.synced
	y.mu.Lock()
	if y.next == nil {
		y.next = &round{done: make(chan struct{})}
	}
	mine := y.next
	y.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case y.turn <- struct{}{}:
	}
	defer func() { <-y.turn }()
	y.mu.Lock()
	begin := y.next == mine
	if begin {
		y.next = nil
	}
	y.mu.Unlock()
	if begin {
		mine.err = r.syncDirty()
		close(mine.done)
	}
	<-mine.done // ended before the turn was free, if it was not ours to begin
	return mine.err
}

var errBadSegment = errors.New("bytes could not be synced to the disk, so nothing can be called durable until they lie elsewhere; try again, and check the disk")

// syncDirty syncs every segment that has unsynced bytes. One that could not be synced makes every round
// fail until the cleaner has copied elsewhere what the ledger names in it: its blobs were acknowledged
// and may be gone after a power cut, so no result that names them may be called durable.
func (r *Ring) syncDirty() error {
	var errs []error
	table := *r.table.Load()
	for _, generation := range slices.Sorted(maps.Keys(table)) { // in order, so that a seed replays
		if s := table[generation]; s.bad.Load() && !s.rescued.Load() || !s.bad.Load() && s.dirty() {
			errs = append(errs, s.syncHeld())
		}
	}
	return errors.Join(errs...)
}

// syncHeld syncs a segment that may be evicted at the same time.
func (s *segment) syncHeld() error {
	if !s.tryRef() {
		return nil
	}
	defer s.unref()
	return s.sync()
}
