package ringmodel

import "github.com/sarsen-build/sarsen/ledger"

// writer uploads D, or, as the second one in some scenarios, E.
func (x *ring) writer(s *state, t int) {
	me := &s.tasks[t]
	what, k := blobD, keyD
	if me.seen != 0 {
		what, k = blobE, keyE
	}
	giveUp := func(s *state, me *task) {
		s.record(me.on).live = hole
		finish(me)
	}
	switch me.at {
	case start:
		if at := s.tasks[checker].at; at == start || !s.mayReserve() {
			return // what is damaged is found first, or its yes could not stand
		}
		x.take(s, t, "begins an upload", func(s *state, me *task) string {
			if x.lease(s, t, k) {
				x.yes(me)
				return ""
			}
			me.on, me.at = x.reserve(s, what), writing
			return ""
		})
	case writing:
		x.take(s, t, "writes", func(s *state, me *task) string {
			s.record(me.on).live = whole
			me.at = publishing
			if x.rules.PublishAfterSync && !s.group {
				me.at = syncing
			}
			return ""
		})
	case syncing:
		x.syncs(s, t, me.on, func(s *state, me *task) { me.at = publishing }, giveUp)
	case publishing:
		x.take(s, t, "publishes", func(s *state, me *task) string {
			outcome, loss := x.publish(s, t, k, me.on)
			if outcome == ledger.Refused {
				giveUp(s, me)
				return loss
			}
			if outcome == ledger.Lost {
				s.record(me.on).live = hole
			}
			x.yes(me)
			return loss
		})
	default:
		x.answers(s, t)
	}
}

// asker asks whether D is missing.
func (x *ring) asker(s *state, t int) {
	switch s.tasks[t].at {
	case start:
		x.take(s, t, "asks for D", func(s *state, me *task) string {
			switch {
			case !x.rules.StampInSection:
				x.book.set(s)
				if _, ok := x.book.SizeOf(key(keyD)); !ok {
					finish(me)
					return ""
				}
				me.at = stamping
			case x.lease(s, t, keyD):
				x.yes(me)
			default:
				finish(me)
			}
			return ""
		})
	case stamping:
		x.take(s, t, "stamps D", func(s *state, me *task) string {
			if !x.lease(s, t, keyD) {
				s.entries[keyD].holders |= 1 << t // so it is told all the same
			}
			x.yes(me)
			return ""
		})
	default:
		x.answers(s, t)
	}
}

// reader opens D, reads and closes it.
func (x *ring) reader(s *state) {
	const t = reader
	me := &s.tasks[t]
	switch me.at {
	case start:
		x.take(s, t, "pins D", func(s *state, me *task) string {
			p, ok := x.pin(s, keyD)
			if !ok {
				finish(me)
				return ""
			}
			me.from, me.at = p, opening
			if x.rules.RefInPin {
				me.on, me.at = p, reading
			}
			return ""
		})
	case opening:
		x.take(s, t, "opens the file", func(s *state, me *task) string {
			if g := s.segment(me.from.gen); g == nil || !g.listed {
				return "OpenHolds: the file is gone under a pin"
			}
			me.on, me.at = me.from, reading
			return ""
		})
	case reading:
		x.take(s, t, "reads", func(s *state, me *task) string {
			me.at = closing
			if s.record(me.on).live != whole {
				return "OpenHolds: short read"
			}
			return ""
		})
	case closing:
		x.take(s, t, "closes", func(s *state, me *task) string {
			s.unpin(keyD)
			finish(me)
			return ""
		})
	}
}

func (s *state) unpin(k int) { s.entries[k].pins-- }

// updater puts version 2 of the result, which names D.
func (x *ring) updater(s *state) {
	const t = updater
	me := &s.tasks[t]
	giveUp := func(s *state, me *task) {
		s.record(me.on).live = hole
		x.endUpdate(s, me)
		finish(me)
	}
	switch me.at {
	case start:
		if x.rules.Slot && s.slot != 0 {
			return
		}
		x.take(s, t, "pins what the result names", func(s *state, me *task) string {
			return x.beginUpdate(s, me)
		})
	case reserving:
		if !s.mayReserve() {
			return
		}
		x.take(s, t, "takes an extent", func(s *state, me *task) string {
			me.on, me.at = x.reserve(s, result2), writing
			return ""
		})
	case writing:
		x.take(s, t, "writes", func(s *state, me *task) string {
			s.record(me.on).live = whole
			me.at = syncing
			return ""
		})
	case syncing:
		x.syncs(s, t, me.on, func(s *state, me *task) {
			if x.syncBlobs(s) {
				me.at = publishing
			} else {
				giveUp(s, me)
			}
		}, giveUp)
	case publishing:
		x.take(s, t, "publishes version 2", func(s *state, me *task) string {
			outcome, _ := x.publish(s, t, keyK, me.on)
			if outcome == ledger.Refused {
				giveUp(s, me)
				return ""
			}
			me.on, me.at = place{}, leasing
			s.slot = 0
			return ""
		})
	case leasing:
		x.take(s, t, "leases what the result names", func(s *state, me *task) string {
			if !x.lease(s, t, keyD) {
				return "Complete: a result was acknowledged, and what it names is gone"
			}
			x.endUpdate(s, me)
			me.seen, s.acked = 2, 2
			x.yes(me)
			return ""
		})
	default:
		x.answers(s, t)
	}
}

// endUpdate gives back what an update holds.
func (x *ring) endUpdate(s *state, me *task) {
	if me.left != 0 {
		s.unpin(keyD)
		me.left = 0
	}
	if s.slot == updater+1 {
		s.slot = 0
	}
}

// syncBlobs syncs all segments, and reports whether everything that the ledger names is durable.
func (x *ring) syncBlobs(s *state) bool {
	for _, g := range s.segments {
		if g.gen == 0 {
			continue
		}
		if x.rules.BlobsFirst {
			s.sync(g.gen)
		}
		for k := range keys {
			if g.bad && x.rules.BadBlocks && s.entries[k].at.gen == g.gen {
				return false
			}
		}
	}
	return true
}

func (x *ring) beginUpdate(s *state, me *task) string {
	x.book.set(s)
	if _, ok := x.book.SizeOf(key(keyD)); !ok {
		finish(me) // refused: it names what is missing
		return ""
	}
	if x.rules.UpdatePins {
		x.pin(s, keyD)
		me.left = 1
	}
	if x.rules.Slot {
		s.slot = updater + 1
	}
	me.at = reserving
	return ""
}

// getter asks for the result and what it names, and drops it if that is not there.
func (x *ring) getter(s *state) {
	const t = getter
	switch s.tasks[t].at {
	case start:
		x.take(s, t, "reads the result", func(s *state, me *task) string {
			e := s.entries[keyK]
			if e.at.gen == 0 {
				finish(me)
				return ""
			}
			if !s.readable(e.at) {
				return "OpenHolds: a result can't be read"
			}
			me.from, me.on, me.at = e.at, e.at, looking
			me.seen, me.left = version(s.record(e.at).kind), s.acked
			return ""
		})
	case looking:
		x.take(s, t, "looks for what it names", func(s *state, me *task) string {
			if !x.lease(s, t, keyD) {
				me.on, me.at = place{}, dropping
				return ""
			}
			if me.seen < me.left {
				return "OldResult: one was served that is older than what was acknowledged before"
			}
			me.left = 0
			x.yes(me)
			return ""
		})
	case dropping:
		x.take(s, t, "drops the result", func(s *state, me *task) string {
			p := me.from
			if !x.rules.DropCompares {
				p = s.entries[keyK].at
			}
			x.drop(s, keyK, p)
			finish(me)
			return ""
		})
	default:
		x.answers(s, t)
	}
}

// checker finds that the D in the first segment does not verify, and quarantines it.
func (x *ring) checker(s *state) {
	const t = checker
	me := &s.tasks[t]
	switch me.at {
	case start:
		x.take(s, t, "finds D damaged", func(s *state, me *task) string {
			me.at = reserving
			if !x.drop(s, keyD, firstD) {
				finish(me) // the cleaner was first
			}
			return ""
		})
	case reserving:
		if !s.mayReserve() {
			return
		}
		x.take(s, t, "appends a void record", func(s *state, me *task) string {
			me.on, me.at = x.reserve(s, void), syncing
			r := s.record(me.on)
			r.live, r.complete, r.names = whole, true, firstD
			if !x.rules.VoidSynced {
				s.void = firstD
				finish(me)
			}
			return ""
		})
	case syncing:
		x.syncs(s, t, me.on, func(s *state, me *task) {
			s.void = firstD
			finish(me)
		}, func(s *state, me *task) { finish(me) })
	}
}

// firstD is where D lies at the start.
var firstD = place{1, 0}
