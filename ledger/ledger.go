// Package ledger knows who holds what: the state machine behind every yes.
//
// For each key the ledger says where its one present incarnation lies, until when it is leased and
// how many pins hold it. It keeps no bytes and does no I/O; a medium (package segment) does.
//
//	absent ──Publish──▶ present{place, size, lease, pins} ──Condemn: no pins, lease over──▶ absent
//	                        │  ▲
//	                        └──┘ Move: another place, the same lease and pins
//
// # Invariants
//
//   - A name is used once: a Place that was published is never published again (the medium's duty).
//   - Bytes first: a medium publishes only what is complete and verified, and condemns before it
//     removes. What the ledger names can be read.
//   - First wins: Publish never replaces a blob; only Supersede, for records, does. Move replaces a
//     place that it names by a copy.
//   - A root is a keep: what Keep or Owe named is refused to Condemn until as many Unkeeps, over Drop and
//     Publish too.
//   - A yes is a pin or a lease: Lease, Pin and Publish answer in the same critical section in which
//     they stamp or pin, and Condemn refuses in that section what is pinned or leased.
//
// # Concurrency
//
// A key belongs to one of 256 shards, each under its own mutex. No method does I/O, calls out (but
// for the hooks of Pin, Publish and Move, which must not block) or takes a second mutex (but for that of
// the memory for entries, which is always the last), so nothing can deadlock.
//
// # Crashes
//
// The ledger is memory. At start-up the medium tells it what it found, with Restore. A lease that is to
// outlive the process is written down by the medium: Lease and Publish say when that is due.
package ledger

import (
	"encoding/binary"
	"runtime"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A Kind tells keys of different things apart: a digest function's number for blobs, Record for
// records.
type Kind uint8

// Record is the kind of small values that may be superseded. No digest function has this number.
const Record Kind = 0xff

// Root is the kind of records that say what a Keeper holds. No digest function has this number either.
const Root Kind = 0xfd

// Versioned reports whether what lies under a key of this kind may be superseded, so that its order counts.
// All else is blobs.
func (k Kind) Versioned() bool { return k == Record || k == Root }

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
	slabs   *slabs
	shards  [shardCount]shard
}

const shardCount = 256

// A Quarter is a quarter of a lease, counted from the ledger's beginning. Zero is none.
type Quarter uint32

const (
	// Span is for how many quarters a yes stands, its own included: it may have come at the very end
	// of its quarter, so a lease of four quarters needs five.
	Span = 5
	// firstQuarter is not the first number, so that zero is in the past at once.
	firstQuarter Quarter = Span
)

// An Outcome is what became of a Publish.
type Outcome int

// The outcomes of Publish.
const (
	Won     Outcome = iota // the place is the incarnation now
	Lost                   // another incarnation was there, and is leased; the place is the caller's to give back
	Refused                // the hook said no; nothing changed
)

// A Fate is what Condemn found or did.
type Fate int

// The fates.
const (
	Gone      Fate = iota // the ledger does not name the place: it may be removed
	Condemned             // it does not any more: it may be removed
	Held                  // pinned or leased: it must stay, or be moved
	Kept                  // by a root: the same, and it is not leased for that
	Warm                  // somebody used it since the last look: it should be moved
)

// New returns an empty ledger whose yes holds for lease.
func New(lease time.Duration) *Ledger {
	l := &Ledger{start: time.Now(), quarter: max((lease+3)/4, 1), slabs: new(slabs)}
	for i := range l.shards {
		l.shards[i].slabs.from = l.slabs
		l.shards[i].grow()
	}
	runtime.AddCleanup(l, func(s *slabs) { s.free() }, l.slabs)
	return l
}

// Now returns the current quarter.
func (l *Ledger) Now() Quarter {
	return firstQuarter + Quarter(time.Since(l.start)/l.quarter)
}

// leased reports whether a yes that was stamped in quarter stamp may still stand in quarter now.
func leased(stamp, now Quarter) bool { return now < stamp+Span }

// fits says whether an asker for size (negative: any) means a blob of have bytes.
func fits(size, have int64) bool { return size < 0 || size == have }

// Lease reports whether k is present with that size (negative: any), and leases it if it is. If due is
// not zero, this lease was not written down yet: the caller does that, says so with Recorded, and only
// then answers yes.
func (l *Ledger) Lease(k Key, size int64) (ok bool, due Quarter) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || !fits(size, e.size) {
		return false, 0
	}
	e.flags |= used
	if mutant.YesStands {
		return true, 0
	}
	if mutant.StampApart {
		if e = s.apart(k); e == nil {
			return true, 0
		}
	}
	return true, s.lend(e, l.Now())
}

// Recorded says that the lease of k in quarter due is written down. Until then every asker is told
// that it is due, so that none answers before.
func (l *Ledger) Recorded(k Key, due Quarter) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(k); e != nil && e.stamp == due {
		e.flags |= recorded
	}
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

// Names reports whether k lies at p. It is no yes either.
func (l *Ledger) Names(k Key, p Place) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	return e != nil && e.place == p
}

// Pin pins k if it is present with that size (negative: any). In the same section it calls hold, which
// lets the medium take its reference to the place's file; hold must not block. The caller must Release
// the pin. A pin outlives no restart, so nothing is leased.
func (l *Ledger) Pin(k Key, size int64, hold func(p Place, size int64)) (Pin, bool) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || !fits(size, e.size) {
		return Pin{}, false
	}
	e.flags |= used
	if !mutant.OpenHolds {
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
	if p.e.pins == 0 && p.e.flags&dead != 0 {
		p.s.free(p.e)
	}
}

// An Admit is asked, in the section that publishes, whether the medium still wants what it wrote to be
// published, and whether it needs no record of the lease that this gives. It must not block.
type Admit func() (ok, recorded bool)

// Publish makes p the incarnation of k, leased, unless there is one already, which is then leased:
// either way the caller may say yes, once the lease is written down if that is due (see Lease).
func (l *Ledger) Publish(k Key, size int64, p Place, admit Admit) (Outcome, Quarter) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(k); e != nil && mutant.LostUnleased {
		return Lost, 0
	} else if e != nil {
		return Lost, s.lend(e, l.Now())
	}
	ok, written := admit()
	if !ok && !mutant.AbortVictim {
		return Refused, 0
	}
	// COMMIT: the blob is present from here on.
	return Won, s.insert(k, size, p, l.Now(), written)
}

// Supersede makes p the incarnation of record k, leased, whatever there was before. The caller holds
// the key's slot, so that order in the medium and order here are the same.
func (l *Ledger) Supersede(k Key, size int64, p Place, admit Admit) (Outcome, Quarter) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	ok, written := admit()
	if !ok {
		return Refused, 0
	}
	// COMMIT: the record is what readers see from here on.
	e, due := s.find(k), Quarter(0)
	if e != nil {
		s.unlend(e)
		s.set(e, size, p)
		due = s.stamp(e, l.Now(), written)
	} else {
		due = s.insert(k, size, p, l.Now(), written)
		e = s.find(k)
	}
	// Whoever puts a record asked for all that it names just before, which is used therefore. It goes with that, not earlier.
	e.flags |= used
	return Won, due
}

// Move makes to the place of k if it lies at from, with the same lease and pins, and reports whether
// it did. What was read at from may be read there on, as long as the reader keeps its file.
func (l *Ledger) Move(k Key, from, to Place, admit Admit) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || e.place != from && !mutant.MoveBlind {
		return false
	}
	if ok, _ := admit(); !ok {
		return false
	}
	// COMMIT: the copy is what readers see from here on.
	e.place = to
	return true
}

// Condemn makes k absent if it lies at p, is neither pinned nor leased, and was not used since the
// last look, or if force says that use does not count. A look uses a use up.
func (l *Ledger) Condemn(k Key, p Place, force bool) Fate {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	switch {
	case e == nil || e.place != p && !mutant.StaleUnref:
		return Gone
	case e.pins > 0 || leased(e.stamp, l.Now()):
		return Held
	case e.keeps > 0:
		return Kept
	case e.flags&used != 0 && !force:
		e.flags &^= used
		return Warm
	}
	if mutant.CondemnApart {
		s.apart(k)
	}
	// COMMIT: the blob is absent from here on.
	s.remove(k)
	return Condemned
}

// Drop makes k absent if it lies at p, leased or not, and reports whether it did. It is for records
// that turned out to promise what is gone, and for bytes that turned out to be damaged.
func (l *Ledger) Drop(k Key, p Place) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || e.place != p && !mutant.KeyPresent {
		return false
	}
	s.remove(k)
	return true
}

// A Found is an incarnation that start-up found.
type Found struct {
	Key   Key
	Size  int64
	Place Place
	Lease bool // a yes from before the restart may still stand: it is leased anew
}

// Restore tells the ledger what start-up found, in any order: the greatest place of a key stands. Some
// thousands at a time take a third of the time that they take one by one.
func (l *Ledger) Restore(found ...Found) {
	var ends [shardCount + 1]int // of the shards' parts of order; first their lengths, then their beginnings
	for i := range found {
		ends[int(found[i].Key.Hash[0])+1]++
	}
	for i := range shardCount {
		ends[i+1] += ends[i]
	}
	order := make([]*Found, len(found))
	for i := range found {
		end := &ends[found[i].Key.Hash[0]]
		order[*end] = &found[i]
		*end++
	}
	begin := 0
	for i := range l.shards {
		if end := ends[i]; end > begin {
			l.shards[i].restore(order[begin:end], l.Now())
			begin = end
		}
	}
}

// Each calls do for every entry, in no order; do must not call the ledger. It takes a while: ten million
// entries are 640 MB.
func (l *Ledger) Each(do func(k Key, size int64, p Place, leased bool)) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		now := l.Now()
		for n := range s.next {
			if e := s.at(n + 1); e.place != 0 && e.flags&dead == 0 {
				do(Key{e.kind, e.hash}, e.size, e.place, leased(e.stamp, now))
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

// Leased returns how many entries are leased and not kept, and their bytes.
func (l *Ledger) Leased() (entries, bytes int64) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		now := l.Now()
		for _, c := range s.lent {
			if leased(c.quarter, now) {
				entries += c.entries
				bytes += c.bytes
			}
		}
		s.mu.Unlock()
	}
	return entries, bytes
}

// apart is the mistakes StampApart and CondemnApart: the section ends, and another one begins.
func (s *shard) apart(k Key) *entry {
	s.mu.Unlock()
	sim.Point("apart")
	s.mu.Lock()
	return s.find(k)
}

func (l *Ledger) shard(k Key) *shard { return &l.shards[k.Hash[0]] }
