// Package ringmodel is an exhaustive explorer of the segment ring's rules.
//
// It goes through every interleaving of a few clients, a rotation, the cleaner, kills and power cuts on
// a small model of the disk: segments with records, footers and lease logs, of which a power cut loses any
// part that was not synced. Every answer to "is it here" and every publication, condemnation and move is
// made by the production ledger (package ledger), which is rebuilt from the state at each step. Each rule
// of the ring is a switch: with all of them nothing is lost, and a test takes away each in turn and
// expects the loss.
//
// What is not modelled: the bytes themselves (a record is whole or not), and sizes (space.go is a model of
// its own).
//
// Concurrency: none; a search is one goroutine. It runs in a testing/synctest bubble, where it can let
// quarters of a lease pass.
package ringmodel

// A kind is what a record is of.
type kind uint8

const (
	nothing kind = iota
	blobD
	blobE
	result1 // the result on the disk at the start; it names D
	result2 // its update; it names D too
	void    // says that an incarnation is damaged
	root1   // of the root that holds D
	root2   // of the root that holds E
	root3   // says that the root was released
)

// A content is how much of a record there is.
type content uint8

const (
	reserved content = iota // not even a header
	headed                  // a header
	whole
	hole // given back
	torn // some of the bytes
)

// A place is generation and number in the segment. Generation 0 is nowhere.
type place struct{ gen, slot uint8 }

type record struct {
	kind       kind
	live, disk content // as read now, and after a power cut
	clean      bool    // a failed sync took it for clean: no later one writes it
	complete   bool    // it was published
	moved      bool    // by the cleaner
	damaged    bool    // its bytes do not verify, which only reading shows
	names      place   // of a void record
}

const (
	maxSegments = 6
	maxRecords  = 5
)

type segment struct {
	gen             uint8
	listed, durable bool // its name is in the directory; also after a power cut
	victim, bad     bool
	foot, footDisk  footer
	n               uint8
	records         [maxRecords]record
}

// A footer says which records are complete; for all others start-up has to look. Zero is none.
type footer uint8

const written footer = 1 << 7

// A task is a client or a worker of the ring: where it is in its program, and what it remembers.
type task struct {
	at   step
	on   place // its extent or what it reads
	from place // of a copy: the original
	due  uint8 // bits of keys whose lease it is about to write down
	seen uint8 // version of the result
	told bool  // it was told yes, and has not come back to read
	left uint8 // rounds
}

// The tasks.
const (
	writer1 = iota
	writer2
	asker
	asker2
	reader
	updater
	getter
	rotator
	cleaner
	checker
	clock
	keeper
	tasks
)

var names = [tasks]string{"writer 1", "writer 2", "asker", "asker 2", "reader", "updater", "getter", "rotator", "cleaner", "checker", "clock", "keeper"}

// The keys of the ledger.
const (
	keyD = iota
	keyE
	keyK
	keyR
	keys
)

// An entry describes what the ledger knows of a key.
type entry struct {
	at        place
	used      bool
	recorded  bool
	pins      uint8
	holders   uint16 // tasks whose lease it is
	old       uint16 // of those, who got it in the last quarter
	forgotten bool   // start-up did not lease it
}

// A leaseLog has the tags that were written down, and from which segment on none are needed.
type leaseLog struct {
	tags  uint8
	since uint8
	lives bool
}

// A state is all there is at one moment. Only comparable things are in it.
type state struct {
	segments [maxSegments]segment
	active   uint8 // generation; 0 is none
	highest  uint8 // generation that the ring remembers
	used     uint32
	entries  [keys]entry
	slot     uint8 // who holds the result's slot, plus one
	turn     uint8 // who holds the ring's turn, plus one
	tasks    [tasks]task
	logs     [2]leaseLog // the current one, and the one before
	later    bool        // a quarter has passed
	acked    uint8       // version of the result that was acknowledged
	void     place       // of which somebody was told that it is quarantined

	keeps   [keys]uint8 // of roots, whether the ledger names the key or not
	stashed uint8       // bits of keys that a root whose sync failed keeps
	rootPut uint8       // version of the root that was published

	// group is the durability in which blobs are acknowledged when they are written. A power cut may then
	// take them, unless an acknowledged result names them.
	group bool

	kills, cuts, failures uint8 // that may still come
}

func (s *state) segment(gen uint8) *segment {
	for i := range s.segments {
		if s.segments[i].gen == gen && gen != 0 {
			return &s.segments[i]
		}
	}
	return nil
}

func (s *state) record(p place) *record { return &s.segment(p.gen).records[p.slot] }

// add makes a segment with the next generation.
func (s *state) add(durable bool) (gen uint8, loss string) {
	gen = s.highest
	for i := range s.segments {
		if s.segments[i].listed {
			gen = max(gen, s.segments[i].gen)
		}
	}
	gen++
	s.highest = gen
	if s.used&(1<<gen) != 0 {
		loss = "GenerationReused: a place means two incarnations"
	}
	fresh := segment{gen: gen, listed: true, durable: durable}
	if old := s.segment(gen); old != nil { // a removal that a power cut may still undo
		*old = fresh
		return gen, loss
	}
	i := 0
	for ; i < maxSegments && s.segments[i].gen != 0; i++ {
	}
	if i == maxSegments {
		panic("ringmodel: too many segments")
	}
	s.segments[i] = fresh
	return gen, loss
}

// forget drops what neither a directory nor a reader knows, and sorts.
func (s *state) forget() {
	var kept [maxSegments]segment
	n := 0
	for _, g := range s.segments {
		if g.gen != 0 && (g.listed || g.durable || s.held(g.gen)) {
			i := n
			for ; i > 0 && kept[i-1].gen > g.gen; i-- {
				kept[i] = kept[i-1]
			}
			kept[i] = g
			n++
		}
	}
	s.segments = kept
}

// held reports whether somebody has the segment's file open.
func (s *state) held(gen uint8) bool {
	for i := range s.tasks {
		if s.tasks[i].on.gen == gen {
			return true
		}
	}
	return false
}

// readable reports whether the bytes at p can be read by who opens the file now.
func (s *state) readable(p place) bool {
	g := s.segment(p.gen)
	return g != nil && g.listed && g.records[p.slot].live == whole
}

func version(k kind) uint8 { return uint8(k-result1) + 1 }

// keyOf returns the key of a record that is not void.
func keyOf(k kind) int {
	switch k {
	case blobD:
		return keyD
	case blobE:
		return keyE
	case root1, root2, root3:
		return keyR
	}
	return keyK
}
