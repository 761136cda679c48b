// Package ledger knows who holds what: the state machine behind every yes.
//
// For each key the ledger says where its one present incarnation lies, until when it is leased and
// how many pins hold it. It keeps no bytes and does no I/O; a medium (package segment) does.
//
//	absent ──Publish──▶ present{place, size, lease, pins} ──Condemn: no pins, lease over──▶ absent
//
// # Invariants
//
//   - A name is used once: a Place that was published is never published again (the medium's duty).
//   - Bytes first: a medium publishes only what is complete and verified, and condemns before it
//     removes. What the ledger names can be read.
//   - First wins: Publish never replaces a blob; only Supersede, for records, does.
//   - A yes is a pin or a lease: Lease, Pin and Publish answer in the same critical section in which
//     they stamp or pin, and Condemn refuses in that section what is pinned or leased.
//
// # Concurrency
//
// A key belongs to one of 256 shards, each under its own mutex. No method does I/O, calls out (but
// for the hooks of Pin and Publish, which must not block) or takes a second mutex, so nothing can
// deadlock.
//
// # Crashes
//
// The ledger is memory. At start-up the medium tells it what it found, with Restore.
package ledger

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A Kind tells keys of different things apart: a digest function's number for blobs, Record for
// records.
type Kind uint8

// Record is the kind of small values that may be superseded. No digest function has this number.
const Record Kind = 0xff

// A Key names a blob or a record.
type Key struct {
	Kind Kind
	Hash [32]byte
}

// A Place says where a medium keeps an incarnation. Only the medium reads it. It is never zero and
// never means two incarnations.
type Place uint64

// A Ledger is safe for concurrent use.
type Ledger struct {
	start   time.Time     // leases are monotonic time since here
	quarter time.Duration // a quarter of a lease
	shards  [shardCount]shard
}

const shardCount = 256

// unleased is the stamp of an entry whose lease is over. Quarters are counted from firstQuarter, so
// that a stamp of zero is in the past at once.
const (
	unleased     = 0
	leaseSpan    = 5 // quarters, see leased
	firstQuarter = unleased + leaseSpan
)

// An Outcome is what became of a Publish.
type Outcome int

// The outcomes of Publish.
const (
	Won     Outcome = iota // the place is the incarnation now
	Lost                   // another incarnation was there, and is leased; the place is the caller's to give back
	Refused                // the hook said no; nothing changed
)

// New returns an empty ledger whose yes holds for lease.
func New(lease time.Duration) *Ledger {
	l := &Ledger{start: time.Now(), quarter: max((lease+3)/4, 1)}
	for i := range l.shards {
		l.shards[i].grow()
	}
	return l
}

// now returns the current quarter of a lease.
func (l *Ledger) now() uint32 {
	return firstQuarter + uint32(time.Since(l.start)/l.quarter)
}

// leased reports whether a yes that was stamped in quarter stamp may still stand in quarter now. The
// yes may have come at the very end of its quarter, so a lease of four quarters needs five.
func leased(stamp, now uint32) bool { return now < stamp+leaseSpan }

// fits says whether an asker for size (negative: any) means a blob of have bytes.
func fits(size, have int64) bool { return size < 0 || size == have }

// Lease reports whether k is present with that size (negative: any), and leases it if it is.
func (l *Ledger) Lease(k Key, size int64) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || !fits(size, e.size) {
		return false
	}
	if !mutant.YesStands {
		e.stamp = l.stamp(e.stamp)
	}
	return true
}

// SizeOf returns the size of k if it is present. It is no yes: nothing is leased.
func (l *Ledger) SizeOf(k Key) (int64, bool) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(k); e != nil {
		return e.size, true
	}
	return 0, false
}

// Pin pins and leases k if it is present with that size (negative: any). In the same section it
// calls hold, which lets the medium take its reference to the place's file; hold must not block.
// The caller must Release the pin.
func (l *Ledger) Pin(k Key, size int64, hold func(p Place, size int64)) (Pin, bool) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || !fits(size, e.size) {
		return Pin{}, false
	}
	if !mutant.OpenHolds {
		e.stamp = l.stamp(e.stamp)
		e.pins++
		s.pins++
	}
	hold(e.place, e.size)
	return Pin{s, e}, true
}

// A Pin keeps an entry from being condemned.
type Pin struct {
	s *shard
	e *entry
}

// Release gives the pin back. It must be called once.
func (p Pin) Release() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if mutant.OpenHolds {
		return
	}
	if p.e.pins == 0 {
		panic("ledger: a pin was released twice")
	}
	p.e.pins--
	p.s.pins--
	if p.e.pins == 0 && p.e.dead {
		p.s.free(p.e)
	}
}

// Publish makes p the incarnation of k, leased, unless there is one already, which is then leased:
// either way the caller may say yes. In the same section it asks admit whether the medium still
// wants p there; admit must not block.
func (l *Ledger) Publish(k Key, size int64, p Place, admit func() bool) Outcome {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(k); e != nil {
		e.stamp = l.stamp(e.stamp)
		return Lost
	}
	if !admit() && !mutant.AbortVictim {
		return Refused
	}
	// COMMIT: the blob is present from here on.
	s.insert(k, size, p, l.now())
	return Won
}

// Supersede makes p the incarnation of record k, leased, whatever there was before. The caller holds
// the key's slot, so that order in the medium and order here are the same.
func (l *Ledger) Supersede(k Key, size int64, p Place, admit func() bool) Outcome {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !admit() {
		return Refused
	}
	// COMMIT: the record is what readers see from here on.
	if e := s.find(k); e != nil {
		e.place, e.size, e.stamp = p, size, l.now()
	} else {
		s.insert(k, size, p, l.now())
	}
	return Won
}

// Held reports whether k lies at p and can't be condemned, being pinned or leased.
func (l *Ledger) Held(k Key, p Place) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	return e != nil && e.place == p && (e.pins > 0 || leased(e.stamp, l.now()))
}

// Condemn makes k absent if it lies at p, and reports whether p may be removed: nothing names it.
// It refuses what is pinned or leased.
func (l *Ledger) Condemn(k Key, p Place) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || e.place != p {
		return true
	}
	if e.pins > 0 || leased(e.stamp, l.now()) {
		return false
	}
	// COMMIT: the blob is absent from here on.
	s.remove(k)
	return true
}

// Drop makes k absent if it lies at p, leased or not. It is for records that turned out to promise
// what is gone.
func (l *Ledger) Drop(k Key, p Place) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(k); e != nil && e.place == p {
		s.remove(k)
	}
}

// Restore tells the ledger what start-up found. The last place of a record stands, and the first of
// a blob. With lease, it is leased anew: a yes from before the restart still stands.
func (l *Ledger) Restore(k Key, size int64, p Place, lease bool) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	switch {
	case e == nil:
		stamp := uint32(unleased)
		if lease {
			stamp = l.now()
		}
		s.insert(k, size, p, stamp)
	case k.Kind == Record:
		e.place, e.size = p, size
	}
}

// Each calls do for every entry, in no order. It takes a while: ten million entries are 640 MB.
func (l *Ledger) Each(do func(k Key, p Place, leased bool)) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		now := l.now()
		for n := range s.next {
			if e := s.at(n + 1); e.place != 0 && !e.dead {
				do(Key{e.kind, e.hash}, e.place, leased(e.stamp, now))
			}
		}
		s.mu.Unlock()
	}
}

// Tag returns eight bytes that tell keys apart well enough to keep a lease: a false match keeps one
// too many.
func (k Key) Tag() uint64 { return binary.LittleEndian.Uint64(k.Hash[8:16]) }

// Counts returns how many blobs and records are present, and how many pins are held.
func (l *Ledger) Counts() (blobs, records, pins int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		blobs += s.blobs
		records += s.records
		pins += s.pins
		s.mu.Unlock()
	}
	return blobs, records, pins
}

// stamp returns the stamp of an entry that is leased anew. Most yeses come within a quarter of the
// last one and change nothing.
func (l *Ledger) stamp(old uint32) uint32 { return max(old, l.now()) }

func (l *Ledger) shard(k Key) *shard { return &l.shards[k.Hash[0]] }

// slot returns a key's place in an index of n slots, a power of two. Hashes are uniform already.
func slot(k *[32]byte, n int) int {
	return int(binary.LittleEndian.Uint64(k[1:9]) & uint64(n-1))
}

// A shard is a chained hash table over entries that never move, so that a Pin may point at one.
type shard struct {
	mu      sync.Mutex
	index   []uint32 // slot to the number of the first entry of its chain
	slabs   []*[slabSize]entry
	unused  uint32 // first of the chain of freed entries
	next    uint32 // first entry that was never used
	blobs   int
	records int
	pins    int
}

// slabSize is the number of entries in a slab: 256 of 64 bytes are four pages.
const slabSize = 256

// An entry is 64 bytes without pointers, so that the garbage collector has nothing to look at.
type entry struct {
	hash  [32]byte
	size  int64
	place Place
	stamp uint32 // quarter of the newest lease
	pins  uint32
	chain uint32 // the next entry of the slot, by number; 0 is none
	kind  Kind
	dead  bool // removed, but pinned: freed by the last Release
}
