package ringmodel

import (
	"time"

	"github.com/sarsen-build/sarsen/ledger"
)

// A book is the production ledger, set to what a state says of it.
type book struct {
	*ledger.Ledger
	pins  [keys][]ledger.Pin
	keeps [keys]uint8
}

// quarter passes only when the model sleeps: a bubble's time stands still otherwise.
const quarter = time.Second

func newBook() *book { return &book{Ledger: ledger.New(4 * quarter)} }

func key(k int) ledger.Key {
	kind := ledger.Kind(1)
	switch k {
	case keyK:
		kind = ledger.Record
	case keyR:
		kind = ledger.Root
	}
	return ledger.Key{Kind: kind, Hash: [32]byte{0, byte(k + 1)}}
}

func where(p place) ledger.Place { return ledger.Place(p.gen)<<8 | ledger.Place(p.slot) }

func found(p ledger.Place) place { return place{uint8(p >> 8), uint8(p)} }

// set makes the ledger what s says.
func (b *book) set(s *state) {
	for k := range keys {
		for _, p := range b.pins[k] {
			p.Release()
		}
		b.pins[k] = b.pins[k][:0]
		for ; b.keeps[k] > 0; b.keeps[k]-- {
			b.Unkeep(key(k))
		}
		var at ledger.Place
		if p, ok := b.Pin(key(k), 1, func(p ledger.Place, _ int64) { at = p }); ok {
			p.Release()
			b.Drop(key(k), at)
		}
	}
	for k := range keys {
		for ; b.keeps[k] < s.keeps[k]; b.keeps[k]++ {
			b.Owe(key(k))
		}
	}
	slept := false
	for _, old := range []bool{true, false} {
		for k := range keys {
			e := &s.entries[k]
			leased := e.holders != 0 && !e.forgotten
			if e.at.gen == 0 || old != (leased && e.holders == e.old) {
				continue
			}
			b.enter(k, e, leased)
			slept = slept || old
		}
		if slept && old {
			time.Sleep(quarter)
		}
	}
}

func (b *book) enter(k int, e *entry, leased bool) {
	if leased && !e.recorded {
		b.Publish(key(k), 1, where(e.at), func() (bool, bool) { return true, false })
	} else {
		b.Restore(ledger.Found{Key: key(k), Size: 1, Place: where(e.at), Lease: leased})
	}
	for range e.pins {
		p, _ := b.Pin(key(k), 1, func(ledger.Place, int64) {})
		b.pins[k] = append(b.pins[k], p)
	}
	if e.used && e.pins == 0 {
		p, _ := b.Pin(key(k), 1, func(ledger.Place, int64) {})
		p.Release()
	}
}

// lease asks the ledger for a yes for task t.
func (x *ring) lease(s *state, t, k int) bool {
	x.book.set(s)
	ok, due := x.book.Lease(key(k), 1)
	if ok {
		s.entries[k].used = true
		s.lend(t, k, due == 0)
		if due != 0 && x.rules.EveryAsker {
			s.tasks[t].due |= 1 << k
		} else if due != 0 && s.entries[k].holders&^(1<<t) == 0 {
			s.tasks[t].due |= 1 << k // only the first one writes it down
		}
	}
	return ok
}

// lend notes that task t has a lease of k.
func (s *state) lend(t, k int, recorded bool) {
	e := &s.entries[k]
	e.holders |= 1 << t
	e.old &^= 1 << t
	e.recorded, e.forgotten = recorded, false
}

// publish asks the ledger to name p for k, for task t.
func (x *ring) publish(s *state, t, k int, p place) (ledger.Outcome, string) {
	x.book.set(s)
	e := &s.entries[k]
	written := p.gen >= s.logs[0].since || !x.rules.OldSegmentLogged
	admit := func() (bool, bool) { return x.admits(s, p), written }
	var outcome ledger.Outcome
	var due ledger.Quarter
	loss := ""
	if k == keyK || !x.rules.FirstWins {
		if e.at.gen != 0 && k != keyK {
			loss = "FirstWins: a blob was replaced"
		}
		outcome, due = x.book.Supersede(key(k), 1, where(p), admit)
	} else {
		outcome, due = x.book.Publish(key(k), 1, where(p), admit)
	}
	switch outcome {
	case ledger.Refused:
		return outcome, ""
	case ledger.Won:
		e.at = p
		s.used |= 1 << p.gen
		s.record(p).complete = true
	}
	s.lend(t, k, due == 0)
	if due != 0 {
		s.tasks[t].due |= 1 << k
	}
	return outcome, loss
}

// admits reports whether what lies at p may still be published.
func (x *ring) admits(s *state, p place) bool {
	g := s.segment(p.gen)
	return !(g.victim && x.rules.RefuseVictim || g.bad && x.rules.BadFails)
}

// pin pins k and returns where it lies.
func (x *ring) pin(s *state, k int) (p place, ok bool) {
	x.book.set(s)
	pin, ok := x.book.Pin(key(k), 1, func(at ledger.Place, _ int64) { p = found(at) })
	if ok {
		x.book.pins[k] = append(x.book.pins[k], pin)
		s.entries[k].pins++
		s.entries[k].used = true
	}
	return p, ok
}

// condemn asks the ledger whether what lies at p may go.
func (x *ring) condemn(s *state, k int, p place) ledger.Fate {
	x.book.set(s)
	fate := x.book.Condemn(key(k), where(p), false)
	switch fate {
	case ledger.Condemned:
		s.entries[k].gone()
	case ledger.Warm:
		s.entries[k].used = false
	}
	return fate
}

// drop asks the ledger to forget k if it lies at p.
func (x *ring) drop(s *state, k int, p place) bool {
	x.book.set(s)
	ok := x.book.Drop(key(k), where(p))
	if ok {
		s.entries[k].gone()
	}
	return ok
}

// gone makes e absent. Who was told yes still means it.
func (e *entry) gone() { *e = entry{holders: e.holders, old: e.old} }

// move asks the ledger to name the copy at to.
func (x *ring) move(s *state, k int, from, to place) bool {
	x.book.set(s)
	ok := x.book.Move(key(k), where(from), where(to), func() (bool, bool) { return x.admits(s, to), true })
	if ok {
		s.entries[k].at = to
		s.used |= 1 << to.gen
		s.record(to).complete = true
	}
	return ok
}

// restore tells the ledger what start-up found, latest first, and returns what it then names.
func (x *ring) restore(s *state, all []place, leased func(k int, p place) bool) {
	x.book.set(&state{})
	for i := len(all) - 1; i >= 0; i-- {
		k := keyOf(s.record(all[i]).kind)
		x.book.Restore(ledger.Found{Key: key(k), Size: 1, Place: where(all[i]), Lease: leased(k, all[i])})
	}
	for k := range keys {
		e := &s.entries[k]
		holders := e.holders
		*e = entry{holders: holders, recorded: true}
		for _, p := range all {
			if x.book.Names(key(k), where(p)) {
				e.at = p
				e.forgotten = holders != 0 && !leased(k, p)
			}
		}
	}
}
