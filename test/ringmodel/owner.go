package ringmodel

import "github.com/sarsen-build/sarsen/ledger"

// rotator seals the active segment and makes the next one. It holds the ring's turn all the while.
func (x *ring) rotator(s *state) {
	const t = rotator
	me := &s.tasks[t]
	switch me.at {
	case start:
		if s.mayReserve() && s.active != 0 {
			x.take(s, t, "begins to seal", func(s *state, me *task) string {
				x.beginSeal(s, me)
				return ""
			})
		}
	case sealing:
		x.syncs(s, t, me.from, func(s *state, me *task) { me.at = footing }, func(s *state, me *task) { me.at = creating })
	case footing:
		x.take(s, t, "writes the footer", func(s *state, me *task) string {
			me.at = footSyncing
			if s.segment(me.from.gen).bad {
				me.at = creating // no footer
			} else {
				s.segment(me.from.gen).foot = footer(me.seen)
			}
			return ""
		})
	case footSyncing:
		x.syncs(s, t, me.from, func(s *state, me *task) { me.at = creating }, func(s *state, me *task) { me.at = creating })
	case creating:
		x.take(s, t, "creates the next segment", func(s *state, me *task) (loss string) {
			if s.active != me.from.gen { // a failed sync made one
				s.turn = 0
				finish(me)
				return ""
			}
			me.from.gen, loss = s.add(false)
			me.at = nameSyncing
			if !x.rules.DirSyncCreate {
				s.activate(me)
			}
			return loss
		})
	case nameSyncing:
		x.take(s, t, "syncs the directory", func(s *state, me *task) string {
			s.syncNames()
			s.activate(me)
			return ""
		})
	}
}

func (x *ring) beginSeal(s *state, me *task) {
	s.turn = rotator + 1
	g := s.segment(s.active)
	me.from.gen = s.active
	list := written
	for i := range g.n {
		r := &g.records[i]
		if r.complete || !x.rules.OpenListed && r.live != hole {
			list |= 1 << i
		}
	}
	me.seen = uint8(list)
	me.at = sealing
	if !x.rules.FooterAfterSync {
		me.at = footing
	}
}

func (s *state) activate(me *task) {
	s.active, s.turn = me.from.gen, 0
	finish(me)
}

// clock lets a quarter of a lease pass, and then removes the log of the last one.
func (x *ring) clock(s *state) {
	const t = clock
	switch s.tasks[t].at {
	case start:
		if s.later || s.turn != 0 {
			return
		}
		x.take(s, t, "a quarter passes, and the next lease log is begun", func(s *state, me *task) string {
			s.later = true
			for k := range keys {
				s.entries[k].old = s.entries[k].holders
			}
			s.logs = [2]leaseLog{{since: s.active, lives: true}, s.logs[0]}
			me.at = removing
			return ""
		})
	case removing:
		for k := range keys {
			if s.entries[k].old != 0 && x.rules.LogsLive {
				return
			}
		}
		x.take(s, t, "removes the old lease log", func(s *state, me *task) string {
			s.logs[1] = leaseLog{}
			finish(me)
			return ""
		})
	}
}

// cleaner removes the oldest segment, once what must stay is copied. me.left is how many it may still
// remove, me.from its place, me.seen the key that it looks at.
func (x *ring) cleaner(s *state) {
	const t = cleaner
	me := &s.tasks[t]
	switch me.at {
	case start:
		x.chooseVictim(s)
	case cleaning:
		x.look(s)
	case condemning:
		x.take(s, t, "condemns without another look", func(s *state, me *task) string {
			x.drop(s, int(me.seen), me.from)
			x.nextKey(s, me)
			return ""
		})
	case removing:
		x.take(s, t, "removes the segment", func(s *state, me *task) string {
			for k := range keys {
				if s.entries[k].at.gen == me.from.gen {
					return "RingIsDisk: the ledger names a segment that is removed"
				}
			}
			s.segment(me.from.gen).listed = false
			me.at = removeSyncing
			if !x.rules.DirSyncRemove {
				x.nextVictim(me)
			}
			return ""
		})
	case removeSyncing:
		x.take(s, t, "syncs the directory", func(s *state, me *task) string {
			s.syncNames()
			x.nextVictim(me)
			return ""
		})
	default:
		x.copier(s)
	}
}

func (x *ring) nextVictim(me *task) {
	left := me.left - 1
	*me = task{at: start, left: left}
	if left == 0 {
		me.at = done
	}
}

func (x *ring) chooseVictim(s *state) {
	if s.tasks[cleaner].left == 0 {
		return
	}
	for i := range s.segments {
		gen := s.segments[i].gen
		if gen == 0 || !s.segments[i].listed || s.active != 0 && gen >= s.active {
			continue
		}
		x.take(s, cleaner, "takes a segment", func(s *state, me *task) string {
			s.segment(gen).victim = true
			me.from, me.seen, me.at = place{gen: gen}, 0, cleaning
			return ""
		})
		if x.rules.InOrder {
			return
		}
	}
}

func (x *ring) nextKey(s *state, me *task) {
	if s.slot == cleaner+1 {
		s.slot = 0
	}
	me.on, me.at = place{}, cleaning
	me.seen++
	if me.seen == keys {
		me.at = removing
	}
}

// look decides what becomes of one key's record.
func (x *ring) look(s *state) {
	me := &s.tasks[cleaner]
	k := int(me.seen)
	if s.entries[k].at.gen == me.from.gen && k >= keyK && x.rules.Slot && s.slot != 0 {
		return // waits for whoever updates it
	}
	x.take(s, cleaner, "looks at a record", func(s *state, me *task) string {
		e := &s.entries[k]
		if e.at.gen != me.from.gen {
			x.nextKey(s, me)
			return ""
		}
		me.from = e.at
		if k >= keyK && x.rules.Slot {
			s.slot = cleaner + 1
		}
		if !x.rules.CondemnRechecks && e.holders == 0 && e.pins == 0 && !e.used {
			me.at = condemning
			return ""
		}
		fate := x.condemn(s, k, e.at)
		switch {
		case fate == ledger.Gone || fate == ledger.Condemned:
			x.nextKey(s, me)
		case fate == ledger.Held && x.rules.CleanerLogs && x.rules.LeasesLogged:
			me.at = copyLogging
		default:
			me.at = copying
		}
		return ""
	})
}

// copier copies the record at me.from forward, and lets the ledger name the copy.
func (x *ring) copier(s *state) {
	const t = cleaner
	me := &s.tasks[t]
	again := func(s *state, me *task) {
		s.record(me.on).live = hole
		me.on, me.at = place{}, copying
	}
	switch me.at {
	case copyLogging:
		x.take(s, t, "writes the lease of what it moves down", func(s *state, me *task) string {
			s.logs[0].tags |= 1 << me.seen
			me.at = copying
			return ""
		})
	case copying:
		if !s.mayReserve() {
			return
		}
		x.take(s, t, "takes an extent for the copy", func(s *state, me *task) string {
			from := *s.record(me.from)
			if from.damaged && x.rules.CopyVerified {
				x.drop(s, int(me.seen), me.from)
				x.nextKey(s, me)
				return ""
			}
			me.on = x.reserve(s, from.kind)
			r := s.record(me.on)
			r.moved, r.damaged = true, from.damaged
			me.at = copyWriting
			return ""
		})
	case copyWriting:
		x.take(s, t, "writes the copy", func(s *state, me *task) string {
			s.record(me.on).live = whole
			me.at = switching
			if x.rules.CopySynced {
				me.at = copySyncing
			}
			return ""
		})
	case copySyncing:
		x.syncs(s, t, me.on, func(s *state, me *task) { me.at = switching }, again)
	case switching:
		x.take(s, t, "asks the ledger to name the copy", x.switchOver)
	}
}

func (x *ring) switchOver(s *state, me *task) (loss string) {
	k := int(me.seen)
	e := &s.entries[k]
	from := me.from
	if !x.rules.SwitchCompares && e.at.gen != 0 {
		from = e.at
		if k == keyK && version(s.record(e.at).kind) > version(s.record(me.on).kind) {
			loss = "OldResult: an older one replaces what was published"
		}
	}
	switch {
	case e.at.gen != 0 && x.move(s, k, from, me.on):
	case e.at == from: // refused: the copy's segment can't be used
		s.record(me.on).live = hole
		me.on, me.at = place{}, copying
		return loss
	default:
		s.record(me.on).live = hole
	}
	x.nextKey(s, me)
	return loss
}
