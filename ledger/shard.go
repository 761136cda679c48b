package ledger

import (
	"encoding/binary"
	"sync"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A shard is a chained hash table over entries that never move, so that a Pin may point at one.
type shard struct {
	mu      sync.Mutex
	index   []uint32 // slot to the number of the first entry of its chain
	slabs   shardSlabs
	unused  uint32 // first of the chain of freed entries
	next    uint32 // first entry that was never used
	blobs   int
	records int
	roots   int
	pins    int
	kept    lent           // what roots keep, of any quarter
	owed    map[Key]uint16 // keeps of what is absent
	warmed  uint32         // what warm read, so that it is not optimised away
	lent    [8]lent        // by quarter, modulo: more than a lease spans
}

// A lent counts what was leased last in one quarter.
type lent struct {
	quarter        Quarter
	entries, bytes int64
}

// An entry is 64 bytes without pointers.
type entry struct {
	hash  [32]byte
	size  int64
	place Place
	stamp Quarter // of the newest lease; 0 is none
	pins  uint32
	chain uint32 // the next entry of the slot, by number; 0 is none
	keeps uint16 // by roots; at mostKeeps it is not counted any more
	kind  Kind
	flags uint8
}

const (
	dead     uint8 = 1 << iota // removed, but pinned: freed by the last Release
	used                       // somebody asked for it or read it since Condemn last looked
	recorded                   // the lease of this stamp is written down
)

// slot returns a key's place in an index of n slots, a power of two. Hashes are uniform already.
func slot(k *[32]byte, n int) int {
	return int(binary.LittleEndian.Uint64(k[1:9]) & uint64(n-1))
}

// at returns entry number n. Numbers begin at 1: 0 ends a chain.
func (s *shard) at(n uint32) *entry { return s.slabs.at(n - 1) }

func (s *shard) find(k Key) *entry {
	for n := s.index[slot(&k.Hash, len(s.index))]; n != 0; {
		e := s.at(n)
		if e.hash == k.Hash && e.kind == k.Kind {
			return e
		}
		n = e.chain
	}
	return nil
}

// insert adds an entry, leased in quarter now unless that is 0, and returns whether a record of that
// lease is due.
func (s *shard) insert(k Key, size int64, p Place, now Quarter, written bool) (due Quarter) {
	if s.blobs+s.records+s.roots >= len(s.index) {
		s.grow()
	}
	n := s.unused
	if n != 0 {
		s.unused = s.at(n).chain
	} else {
		s.next++
		n = s.next
		s.slabs.reach(n - 1)
	}
	head := &s.index[slot(&k.Hash, len(s.index))]
	e := s.at(n)
	*e = entry{hash: k.Hash, kind: k.Kind, size: size, place: p, chain: *head}
	*head = n
	s.count(k.Kind, 1)
	s.repay(k, e)
	return s.stamp(e, now, written)
}

// set gives an entry, whose lease is not counted at the moment, another place and size.
func (s *shard) set(e *entry, size int64, p Place) {
	if e.keeps > 0 {
		s.kept.bytes += size - e.size
	}
	e.size, e.place = size, p
}

func (s *shard) count(kind Kind, by int) {
	switch kind {
	case Record:
		s.records += by
	case Root:
		s.roots += by
	default:
		s.blobs += by
	}
}

// lend leases e in quarter now, and returns now if that is still to be written down. Most yeses come
// within a quarter of the last one and change nothing.
func (s *shard) lend(e *entry, now Quarter) (due Quarter) {
	if now > e.stamp {
		s.unlend(e)
		return s.stamp(e, now, false)
	}
	if e.flags&recorded != 0 {
		return 0
	}
	return e.stamp
}

// stamp sets the lease of e, whose former one is not counted any more.
func (s *shard) stamp(e *entry, now Quarter, written bool) (due Quarter) {
	e.stamp = now
	s.countLease(e)
	if written {
		e.flags |= recorded
		return 0
	}
	e.flags &^= recorded
	return now
}

// countLease counts the lease of e. What a root keeps is counted there and not here.
func (s *shard) countLease(e *entry) {
	if e.stamp == 0 || e.keeps > 0 {
		return
	}
	c := &s.lent[e.stamp%Quarter(len(s.lent))]
	if c.quarter < e.stamp {
		*c = lent{quarter: e.stamp}
	}
	if c.quarter == e.stamp {
		c.entries++
		c.bytes += e.size
	}
}

// unlend takes the lease of e out of the count.
func (s *shard) unlend(e *entry) {
	if c := &s.lent[e.stamp%Quarter(len(s.lent))]; e.stamp != 0 && e.keeps == 0 && c.quarter == e.stamp {
		c.entries--
		c.bytes -= e.size
	}
}

// remove takes the entry of k out of the index. A pinned one lives on until it is let go.
func (s *shard) remove(k Key) {
	link := &s.index[slot(&k.Hash, len(s.index))]
	for *link != 0 {
		n := *link
		e := s.at(n)
		if e.hash == k.Hash && e.kind == k.Kind {
			*link = e.chain
			s.count(k.Kind, -1)
			s.unlend(e)
			s.owe(k, e)
			e.flags |= dead
			e.chain = n // a dead entry knows its own number, for free
			if e.pins == 0 {
				s.free(e)
			}
			return
		}
		link = &e.chain
	}
}

func (s *shard) free(e *entry) {
	n := e.chain
	*e = entry{chain: s.unused}
	s.unused = n
}

// restore takes in what start-up found. Nearly all of its time is waiting for memory, so that it asks for
// that of several keys before it needs the first.
func (s *shard) restore(found []*Found, now Quarter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(found) > 0 {
		n := min(len(found), 32)
		s.warm(found[:n])
		for _, f := range found[:n] {
			s.restoreOne(f, now)
		}
		found = found[n:]
	}
}

func (s *shard) warm(found []*Found) {
	var heads [32]uint32
	for i, f := range found {
		heads[i] = s.index[slot(&f.Key.Hash, len(s.index))]
	}
	for _, n := range heads[:len(found)] {
		if n != 0 {
			s.warmed += s.at(n).chain
		}
	}
}

func (s *shard) restoreOne(f *Found, now Quarter) {
	if !f.Lease {
		now = 0
	}
	e := s.find(f.Key)
	if e == nil {
		s.insert(f.Key, f.Size, f.Place, now, true)
		return
	}
	if f.Place > e.place && !mutant.KeepFirst {
		s.unlend(e)
		s.set(e, f.Size, f.Place)
		s.stamp(e, e.stamp, true)
	}
	if f.Lease {
		s.lend(e, now)
		e.flags |= recorded
	}
}

// grow doubles the index. A shard holds a 256th of all entries, so this is short.
func (s *shard) grow() {
	old := s.index
	s.index = make([]uint32, max(2*len(old), 16))
	for _, n := range old {
		for n != 0 {
			e := s.at(n)
			rest := e.chain
			head := &s.index[slot(&e.hash, len(s.index))]
			e.chain, *head = *head, n
			n = rest
		}
	}
}
