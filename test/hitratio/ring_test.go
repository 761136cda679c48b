package hitratio

import (
	"cmp"
	"slices"
)

// A candidate is a record of the oldest segment, whose turn it is.
type candidate struct {
	size  int64 // bytes
	held  bool  // leased or pinned: it must stay
	reads uint8 // since its last pass, as far as the rule counts
}

// A rule says which records of the oldest segment get a second chance.
type rule struct {
	maxReads uint8   // how far reads are counted: 1 is a bit
	share    float64 // at most so much of a victim's bytes is copied for being read alone
	hotFirst bool    // of more than that, the most read stay; else the first
}

// recommended needs one bit a record. An eighth of every victim that no lease holds is gained, so at
// most seven bytes are copied for one that is put.
var recommended = rule{maxReads: 1, share: 7.0 / 8}

// survivors marks the candidates that are copied to the head of the ring; the others are condemned.
// What is held is always copied and takes nothing from the share of what is merely read.
func (r rule) survivors(cs []candidate) []bool {
	stays := make([]bool, len(cs))
	var total int64
	var read []int
	for i, c := range cs {
		total += c.size
		if c.held {
			stays[i] = true
		} else if c.reads > 0 {
			read = append(read, i)
		}
	}
	if r.hotFirst {
		slices.SortStableFunc(read, func(i, j int) int { return cmp.Compare(cs[j].reads, cs[i].reads) })
	}
	room := int64(r.share * float64(total))
	for _, i := range read {
		if cs[i].size <= room {
			room -= cs[i].size
			stays[i] = true
		}
	}
	return stays
}

// segments is how many segments a ring of middling size has.
const segments = 64

// A ring is an append-only ring of equal segments. One segment's worth is the cleaner's, and only it
// may take that; an object larger than a quarter of a segment has a segment of its own.
type ring struct {
	rule
	capacity, segmentSize int64
	lease                 int // in requests
	entries               []entry
	order                 []*simSegment // oldest first
	active                *simSegment   // the newest that takes records, or nil
	used                  int64         // what all segments count for

	clock  int
	leases []stamp // oldest first
	leased int64   // bytes under a lease

	written, copied int64 // bytes put by clients, and copied by the cleaner
	refused         int   // puts that leases left no room for
}

type entry struct {
	seg   *simSegment // nil: absent
	size  int64
	reads uint8
	until int // the request at which its lease ends
}

// A simSegment is a segment of the simulated ring.
type simSegment struct {
	keys []uint32
	end  int64
	size int64 // what it counts for
	own  bool
}

type stamp struct {
	key   uint32
	until int
}

func newRing(keys int, capacity int64, r rule, lease int) *ring {
	return &ring{rule: r, capacity: capacity, segmentSize: capacity / segments, lease: lease, entries: make([]entry, keys+1)}
}

func (r *ring) Get(key uint32, size int64) bool {
	r.clock++
	r.expire()
	e := &r.entries[key]
	if e.seg != nil {
		e.reads = min(e.reads+1, r.maxReads)
		r.hold(key, e)
		return true
	}
	if !r.put(key, size) {
		r.refused++
	}
	return false
}

// hold leases a record that is present.
func (r *ring) hold(key uint32, e *entry) {
	if r.lease == 0 {
		return
	}
	if e.until <= r.clock {
		r.leased += e.size
	}
	e.until = r.clock + r.lease
	r.leases = append(r.leases, stamp{key, e.until})
}

// expire forgets the leases that are over.
func (r *ring) expire() {
	for len(r.leases) > 0 && r.leases[0].until <= r.clock {
		if e := &r.entries[r.leases[0].key]; e.until == r.leases[0].until {
			r.leased -= e.size
		}
		r.leases = r.leases[1:]
	}
}

// put writes an object, or refuses it if leases leave no room.
func (r *ring) put(key uint32, size int64) bool {
	own := size > r.segmentSize/4
	if size > r.capacity-2*r.segmentSize || r.lease > 0 && r.leased+size > r.capacity*3/4 {
		return false
	}
	for passed := 0; ; passed++ {
		if !own && r.active != nil && r.active.end+size <= r.segmentSize {
			break
		}
		need := r.segmentSize
		if own {
			need = size
		}
		if r.used+need <= r.capacity-r.segmentSize {
			break
		}
		// After so many turns whatever is left is held.
		if turns := int(r.maxReads) + 1; passed > turns*len(r.order) || !r.clean() {
			return false
		}
	}
	r.written += size
	r.add(key, size, own)
	r.entries[key].reads = 0
	r.hold(key, &r.entries[key])
	return true
}

// add appends a record at the head.
func (r *ring) add(key uint32, size int64, own bool) {
	s := r.active
	switch {
	case own:
		s = r.open(size, true)
	case s == nil || s.end+size > r.segmentSize:
		r.seal()
		s = r.open(r.segmentSize, false)
		r.active = s
	}
	s.keys = append(s.keys, key)
	s.end += size
	e := &r.entries[key]
	e.seg, e.size = s, size
}

func (r *ring) open(size int64, own bool) *simSegment {
	s := &simSegment{size: size, own: own}
	r.order = append(r.order, s)
	r.used += size
	return s
}

// seal cuts the active segment to what is in it.
func (r *ring) seal() {
	if s := r.active; s != nil {
		r.used -= s.size - s.end
		s.size = s.end
		r.active = nil
	}
}

// clean passes over the oldest segment: survivors go to the head, all else is gone. It reports false
// if there is none.
func (r *ring) clean() bool {
	if len(r.order) == 0 {
		return false
	}
	s := r.order[0]
	if s == r.active {
		r.seal()
	}
	r.order = r.order[1:]
	cs := make([]candidate, len(s.keys))
	for i, key := range s.keys {
		e := &r.entries[key]
		cs[i] = candidate{e.size, e.until > r.clock, e.reads}
		e.reads -= min(e.reads, 1)
	}
	if s.own && (cs[0].held || cs[0].reads > 0) {
		r.order = append(r.order, s) // it stays where it is, for another turn
		return true
	}
	for i, stays := range r.survivors(cs) {
		key := s.keys[i]
		r.entries[key].seg = nil
		if stays {
			r.add(key, cs[i].size, false)
			r.copied += cs[i].size
		}
	}
	r.used -= s.size
	return true
}
