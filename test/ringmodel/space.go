package ringmodel

// A space is the ring seen as bytes: units of which a segment holds two, each leased or cold. A few
// writers want one unit each, one of them for a record whose slot the cleaner needs too.
type space struct {
	segments [6]filling // oldest first
	n        uint8
	active   filling // its units so far
	free     uint8   // segments that may still be made
	wanted   uint8   // units that writers wait for
	record   recordPut
	copies   uint8 // leased units of the victim that are still to be copied
	victim   uint8 // segments that its removal gives back; 0 is no victim
	needSlot bool  // the cleaner has still to take the record's slot for the victim
	held     uint8 // removed segments that readers still have open
	gainless uint8 // victims in a row that gave nothing
	refused  bool  // somebody was refused for want of room
	lost     uint8 // cold units that were evicted
}

// A filling is what is in a segment.
type filling struct {
	leased, cold uint8
	own          uint8 // a big blob's own segment, leased, of so many sizes
	slot         bool  // the record is in it
}

// A recordPut is a put of the record: it holds the slot, and waits for room.
type recordPut struct{ wants, holds bool }

// spaceRules are what keeps the cleaner going. Each can be taken away.
type spaceRules struct {
	Reserve       bool // a segment's worth of room is the cleaner's
	ReserveUsed   bool // while it copies, what it still has to copy is
	OwnStays      bool // a big blob's own segment is not copied
	GainCounted   bool // after a full turn without gain, writers are refused
	HeldAwaited   bool // the cleaner waits for what readers of removed segments hold
	SlotGivenBack bool // a put of a record does not hold its slot while it waits for room
}

const perSegment = 2

func (a filling) units() uint8 { return a.leased + a.cold }

func (s *space) room() uint8 { return perSegment - s.active.units() + s.free*perSegment }

// take puts one leased unit at the end of the ring.
func (s *space) take() bool {
	if s.active.units() == perSegment {
		if s.free == 0 {
			return false
		}
		s.segments[s.n] = s.active
		s.n++
		s.free--
		s.active = filling{}
	}
	s.active.leased++
	return true
}

// next takes every step that can be taken.
func (r spaceRules) next(s space, step emit[space]) {
	taken := 0
	emit := func(who, what string, after space) {
		taken++
		loss := ""
		cold := uint8(0)
		for _, g := range after.segments[:after.n] {
			cold += g.cold
		}
		switch {
		case after.refused && !s.refused && cold > 0:
			loss = "Refused: although something was cold"
		case after.held > 0 && after.lost > s.lost:
			loss = "Wasted: cold blobs went for room that was coming back"
		}
		step(who, what, after, loss)
	}
	keep := uint8(0)
	if r.Reserve && s.victim == 0 {
		keep = perSegment
	} else if r.ReserveUsed {
		keep = s.copies
	}
	may := s.room() >= 1+keep
	r.writers(s, may, emit)
	if s.victim == 0 {
		r.choose(s, may, emit)
	} else {
		r.clean(s, emit)
	}
	if s.held > 0 {
		after := s
		after.held--
		after.free++
		emit("reader", "closes", after)
	}
	if waits := s.wanted > 0 || s.record.wants || s.victim != 0; waits && taken == 0 {
		step("all", "wait", s, "Deadlock: writers and the cleaner wait for each other")
	}
}

func (r spaceRules) writers(s space, may bool, emit func(who, what string, after space)) {
	if after := s; s.wanted > 0 && may && after.take() {
		after.wanted--
		after.gainless = 0
		emit("writer", "takes a unit", after)
	}
	if !s.record.wants {
		return
	}
	cleanerHas := s.victim != 0 && !s.needSlot && s.copies > 0
	if after := s; !s.record.holds && !cleanerHas && (may || !r.SlotGivenBack) {
		after.record.holds = true
		emit("record", "takes the slot", after)
	}
	if after := s; s.record.holds && may && after.take() {
		after.record = recordPut{}
		after.gainless = 0
		emit("record", "takes a unit, and gives the slot back", after)
	}
	if after := s; s.record.holds && !may && r.SlotGivenBack {
		after.record.holds = false
		emit("record", "gives the slot back to wait", after)
	}
}

// choose takes the oldest segment if somebody has to wait.
func (r spaceRules) choose(s space, may bool, emit func(who, what string, after space)) {
	if may || s.wanted == 0 && !s.record.wants {
		return
	}
	after := s
	switch {
	case r.GainCounted && s.gainless > s.n:
		after.wanted, after.record, after.refused, after.gainless = 0, recordPut{}, true, 0
		emit("cleaner", "refuses writes: a full turn without gain", after)
	case r.HeldAwaited && s.held > 0 || s.n == 0:
	default:
		v := s.segments[0]
		copy(after.segments[:], s.segments[1:])
		after.n--
		after.segments[after.n] = filling{}
		if v.cold == 0 && r.GainCounted {
			after.gainless++
		}
		if v.own > 0 && r.OwnStays {
			after.segments[after.n] = v
			after.n++
			emit("cleaner", "passes over a big blob", after)
			return
		}
		after.victim, after.copies, after.needSlot = 1, v.leased, v.slot
		after.lost += v.cold
		if v.own > 0 {
			after.victim, after.copies = v.own, v.own*perSegment
		}
		emit("cleaner", "takes the oldest segment", after)
	}
}

// clean copies a unit of the victim, or removes it.
func (r spaceRules) clean(s space, emit func(who, what string, after space)) {
	after := s
	switch {
	case s.needSlot:
		if !s.record.holds {
			after.needSlot = false
			emit("cleaner", "takes the record's slot", after)
		}
	case s.copies > 0:
		if after.take() {
			after.copies--
			emit("cleaner", "copies a unit", after)
		}
	default:
		after.free += s.victim
		after.victim = 0
		emit("cleaner", "removes the victim", after)
	}
}
