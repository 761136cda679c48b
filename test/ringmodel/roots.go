package ringmodel

import "github.com/sarsen-build/sarsen/ledger"

// The versions of the root, which one client makes one after the other: the first holds D, the second E in its place, and the
// third is one that was released.

func rootVersion(k kind) uint8 { return uint8(k-root1) + 1 }

// holds returns what a version of the root holds.
func holds(version uint8) (k int, something bool) {
	switch version {
	case 1:
		return keyD, true
	case 2:
		return keyE, true
	}
	return 0, false
}

// root returns the version that the ledger names, or zero.
func (s *state) root() uint8 {
	if e := &s.entries[keyR]; e.at.gen != 0 {
		return rootVersion(s.record(e.at).kind)
	}
	return 0
}

// keeper puts the next version of the root, which is me.seen.
func (x *ring) keeper(s *state) {
	const t = keeper
	me := &s.tasks[t]
	giveUp := func(s *state, me *task) { // a small record is not punched out
		s.slot = 0
		k, something := holds(me.seen)
		switch {
		case !something || !x.rules.KeptBeforeRoot:
		case x.rules.FailedStays:
			s.stashed |= 1 << k // a start may find the root
		default:
			x.unkeep(s, k)
		}
		finish(me)
	}
	switch me.at {
	case start:
		x.take(s, t, "keeps what the root will hold", func(s *state, me *task) string {
			me.seen, me.at = s.root()+1, looking
			if k, something := holds(me.seen); something && x.rules.KeptBeforeRoot && !x.keep(s, k) {
				finish(me) // refused: it is missing
			}
			return ""
		})
	case looking:
		x.take(s, t, "syncs all that is dirty", func(s *state, me *task) string {
			if me.at = leasing; !x.syncBlobs(s) {
				if k, something := holds(me.seen); something && x.rules.KeptBeforeRoot {
					x.unkeep(s, k)
				}
				finish(me)
			}
			return ""
		})
	case leasing:
		if x.rules.Slot && s.slot != 0 {
			return
		}
		x.take(s, t, "takes the slot", func(s *state, me *task) string {
			if me.at = reserving; x.rules.Slot {
				s.slot = keeper + 1
			}
			if me.seen == 1 && x.rules.RootKept {
				s.keeps[keyR]++ // there is no earlier one
			}
			if k, something := holds(me.seen - 1); something && !x.rules.LetGoAfter {
				x.unkeep(s, k)
			}
			return ""
		})
	default:
		x.putsRoot(s, giveUp)
	}
}

// putsRoot is the rest of keeper, from the extent on.
func (x *ring) putsRoot(s *state, giveUp func(s *state, me *task)) {
	const t = keeper
	switch me := &s.tasks[t]; me.at {
	case reserving:
		if !s.mayReserve() {
			return
		}
		x.take(s, t, "takes an extent", func(s *state, me *task) string {
			me.on, me.at = x.reserve(s, root1+kind(me.seen)-1), writing
			return ""
		})
	case writing:
		x.take(s, t, "writes", func(s *state, me *task) string {
			s.record(me.on).live = whole
			me.at = syncing
			return ""
		})
	case syncing:
		x.syncs(s, t, me.on, func(s *state, me *task) { me.at = publishing }, func(s *state, me *task) {
			if me.seen == 1 && x.rules.RootKept {
				x.unkeep(s, keyR)
			}
			giveUp(s, me)
		})
	case publishing:
		x.take(s, t, "publishes the root", func(s *state, me *task) string {
			x.book.set(s)
			p := me.on
			if outcome, _ := x.book.Supersede(key(keyR), 1, where(p), func() (bool, bool) { return x.admits(s, p), true }); outcome == ledger.Refused {
				if me.seen == 1 && x.rules.RootKept {
					x.unkeep(s, keyR)
				}
				giveUp(s, me)
				return ""
			}
			s.entries[keyR] = entry{at: p, recorded: true}
			s.used |= 1 << p.gen
			s.record(p).complete = true
			s.slot, s.rootPut = 0, me.seen
			if _, something := holds(me.seen); !something && x.rules.RootKept {
				x.unkeep(s, keyR)
			}
			me.on, me.at = place{}, closing
			return ""
		})
	case closing:
		x.take(s, t, "lets go of what the last one held", func(s *state, me *task) string {
			if k, something := holds(me.seen - 1); something && x.rules.LetGoAfter {
				x.unkeep(s, k)
			}
			if k, something := holds(me.seen); something && !x.rules.KeptBeforeRoot && !x.keep(s, k) {
				return "Kept: a root was published, and what it holds is gone"
			}
			finish(me)
			return ""
		})
	}
}

// keep asks the ledger to keep k.
func (x *ring) keep(s *state, k int) bool {
	x.book.set(s)
	ok, _ := x.book.Keep(key(k), 1)
	if ok {
		x.book.keeps[k]++
		s.keeps[k]++
	}
	return ok
}

func (x *ring) unkeep(s *state, k int) {
	if !x.rules.RootsMarked && s.keeps[k] == 0 {
		return // start-up did not keep it
	}
	x.book.set(s)
	x.book.Unkeep(key(k))
	x.book.keeps[k]--
	s.keeps[k]--
}

// mark keeps what the root holds that start-up found.
func (x *ring) mark(s *state) {
	s.keeps, s.stashed = [keys]uint8{}, 0
	if k, something := holds(s.root()); something && x.rules.RootsMarked {
		s.keeps[keyR], s.keeps[k] = 1, 1
	}
}

// judgeRoot says what start-up lost of the root.
func (s *state) judgeRoot() string {
	v := s.root()
	if _, something := holds(s.rootPut); something && v == 0 {
		return "Kept: a published root is gone"
	}
	if v != 0 && v < s.rootPut {
		return "Kept: a superseded root is back"
	}
	if k, something := holds(v); something && s.entries[k].at.gen == 0 {
		return "Kept: a root is there, and what it holds is gone"
	}
	return ""
}

// restRoot says what is wrong with what is kept when nothing but a crash can come any more.
func (s *state) restRoot() string {
	if loss := s.judgeRoot(); loss != "" {
		return loss
	}
	held, something := holds(s.root())
	for k := range keys {
		want := s.stashed >> k & 1
		if something && (k == held || k == keyR) {
			want++
		}
		if s.keeps[k] != want {
			return "Leak: what no root holds is kept, or what one holds is not"
		}
	}
	return ""
}

// rooted adds E, and a version of the root, to the first segment.
func (s *state) rooted(version uint8) {
	g := &s.segments[0]
	add := func(key int, k kind) {
		g.records[g.n] = record{kind: k, live: whole, disk: whole, complete: true}
		s.entries[key] = entry{at: place{1, g.n}, recorded: true}
		g.foot |= 1 << g.n
		g.footDisk = g.foot
		g.n++
	}
	add(keyE, blobE)
	if s.rootPut = version; version == 0 {
		return
	}
	add(keyR, root1+kind(version)-1)
	s.keeps[keyR] = 1
	if k, something := holds(version); something {
		s.keeps[k] = 1
	}
}
