package ringmodel

// A step is where a task is in its program.
type step uint8

const (
	idle step = iota // it takes no part
	start
	done

	// Telling a yes.
	logging   // the lease is written down next
	answering // it is marked as written, and the answer given
	answered  // the client reads within its lease next

	// Taking an extent and filling it.
	reserving
	writing
	syncing
	publishing

	stamping // a yes that was looked up is stamped
	opening  // the file of what is pinned is opened
	reading
	closing
	looking // at what a result names
	dropping
	leasing // what the updated result names

	// The rotation.
	sealing
	footing
	footSyncing
	creating
	nameSyncing

	// The cleaner.
	cleaning // of key left
	condemning
	copyLogging
	copying
	copyWriting
	copySyncing
	switching
	removing
	removeSyncing
)

// A ring explores one set of rules.
type ring struct {
	rules rules
	book  *book
	emit  emit[state]
	taken int    // steps from the state at hand
	loss  string // in the step at hand
}

func newRing(r rules) *ring { return &ring{rules: r, book: newBook()} }

// next takes every step that can be taken in s.
func (x *ring) next(s state, step emit[state]) {
	x.emit, x.taken = step, 0
	for t := range tasks {
		switch t {
		case writer1, writer2:
			x.writer(&s, t)
		case asker, asker2:
			x.asker(&s, t)
		case reader:
			x.reader(&s)
		case updater:
			x.updater(&s)
		case getter:
			x.getter(&s)
		case rotator:
			x.rotator(&s)
		case cleaner:
			x.cleaner(&s)
		case checker:
			x.checker(&s)
		case clock:
			x.clock(&s)
		case keeper:
			x.keeper(&s)
		}
	}
	if loss := s.rest(); x.taken == 0 && loss != "" {
		x.emit("all", "rest", s, loss)
	}
	x.crashes(&s)
}

// take takes one step of a task.
func (x *ring) take(s *state, t int, what string, change func(s *state, me *task) string) {
	after := *s
	x.taken++
	x.loss = ""
	loss := change(&after, &after.tasks[t])
	loss = first(loss, x.loss)
	after.forget()
	x.emit(names[t], what, after, loss)
}

// finish ends a task.
func finish(me *task) { *me = task{at: done} }

// yes goes on to the answer, once the leases that are due are written down.
func (x *ring) yes(me *task) {
	me.on = place{}
	if !x.rules.LeasesLogged {
		me.due = 0
	}
	me.told = me.due == 0 || !x.rules.LogBeforeYes
	me.at = answered
	if me.due != 0 {
		me.at = logging
	}
}

// answers takes the steps that all who are told yes have in common.
func (x *ring) answers(s *state, t int) {
	switch s.tasks[t].at {
	case logging:
		x.take(s, t, "writes the lease down", func(s *state, me *task) string {
			s.logs[0].tags |= me.due
			me.at = answering
			return ""
		})
	case answering:
		x.take(s, t, "is told yes", func(s *state, me *task) string {
			for k := range keys {
				if e := &s.entries[k]; me.due&(1<<k) != 0 && e.at.gen != 0 && (e.old == e.holders) == (e.old&(1<<t) != 0) {
					e.recorded = true
				}
			}
			me.due, me.told, me.at = 0, true, answered
			return ""
		})
	case answered:
		x.take(s, t, "reads within its lease, which ends", func(s *state, me *task) (loss string) {
			for k := range keys {
				e := &s.entries[k]
				if e.holders&(1<<t) == 0 {
					continue
				}
				if e.at.gen == 0 || !s.readable(e.at) {
					loss = "YesStands: what was promised can't be read"
				}
				e.holders &^= 1 << t
				e.old &^= 1 << t
			}
			if k := s.entries[keyK]; t == updater && (k.at.gen == 0 || version(s.record(k.at).kind) < me.seen) {
				loss = "YesStands: an acknowledged result is gone"
			}
			finish(me)
			return loss
		})
	}
}

// reserve hands out an extent, for which the ring's turn must be free.
func (x *ring) reserve(s *state, k kind) place {
	if s.active == 0 {
		s.active, x.loss = s.add(true)
	}
	g := s.segment(s.active)
	if g.n == maxRecords {
		panic("ringmodel: too many records")
	}
	r := record{kind: k, live: headed}
	if !x.rules.Chain {
		r.live = reserved
	}
	g.records[g.n] = r
	g.n++
	return place{g.gen, g.n - 1}
}

func (s *state) mayReserve() bool { return s.turn == 0 }

// syncs takes the step of a sync that may fail. Then goes on after it went well, fail after it did not,
// or after another one's failure.
func (x *ring) syncs(s *state, t int, p place, then, fail func(s *state, me *task)) {
	x.take(s, t, "syncs", func(s *state, me *task) string {
		if s.segment(p.gen).bad && x.rules.BadFails {
			fail(s, me)
			return ""
		}
		s.sync(p.gen)
		then(s, me)
		return ""
	})
	if s.failures == 0 {
		return
	}
	x.take(s, t, "syncs, which fails", func(s *state, me *task) (loss string) {
		s.failures--
		g := s.segment(p.gen)
		g.bad = true
		for i := range g.n {
			g.records[i].clean = g.records[i].clean || g.records[i].live != g.records[i].disk
		}
		if !x.rules.BadFails {
			return "" // it tries again
		}
		if s.active == p.gen {
			s.active, loss = s.add(true)
		}
		fail(s, me)
		return loss
	})
}

func (s *state) sync(gen uint8) {
	g := s.segment(gen)
	for i := range g.n {
		if r := &g.records[i]; !r.clean {
			r.disk = r.live
		}
	}
	g.footDisk = g.foot
}

// syncNames is a sync of the directory.
func (s *state) syncNames() {
	for i := range s.segments {
		s.segments[i].durable = s.segments[i].listed
	}
}
