package segment

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// The cleaner makes room, in a goroutine of its own. It takes the oldest segment, strictly in order, so
// that no superseded record outlives the one that superseded it; copies to the end of the ring what is
// pinned, leased, kept or was used since the last look; condemns the rest; and removes the file. A big blob's
// own segment is never copied: held, it stays where it is. No results lie in it.

// youngAge is the age below which an eviction is worth a line in the log: the ring is too small for the
// lease that it gives (NativeLink's operators found the same number useful).
const youngAge = 120 * time.Second

// lookAgain is how often the cleaner looks at the disk's free space when nobody wakes it.
const lookAgain = 10 * time.Second

// readersTime is how long the cleaner waits for readers of what he removed before he evicts more.
const readersTime = 2 * time.Second

func (r *Ring) wakeCleaner() {
	select {
	case r.wake <- struct{}{}:
	default: // it is awake already
	}
}

// clean is the cleaner's goroutine.
func (r *Ring) clean() {
	defer close(r.cleaned)
	var again <-chan time.Time
	if r.tick > 0 {
		t := time.NewTicker(r.tick)
		defer t.Stop()
		again = t.C
	}
	for {
		select {
		case <-r.wake:
		case <-again:
		case <-r.stop:
			return
		}
		sim.Point("cleaner")
		for r.makeRoom() {
		}
	}
}

// makeRoom cleans one segment if there is less room than there should be, and reports whether to go on.
func (r *Ring) makeRoom() bool {
	r.broom <- struct{}{}
	defer func() { <-r.broom }()
	r.turn <- struct{}{}
	r.measure()
	r.serve()
	s, rescue := r.next()
	room, served := r.room(), r.served
	<-r.turn
	if s == nil {
		return false
	}
	w := &sweep{ring: r, seg: s, rescue: rescue}
	err := w.run()
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	switch {
	case r.closed.Load():
		return false
	case err != nil:
		r.log.Warn("clean", slog.String("segment", s.name), slog.Any("error", err))
		if rescue {
			s.rescueAfter, s.rescueShort = time.Now().Add(lookAgain), r.tooShort(s)
			return true // there may be others
		}
		r.refuseWaiting(r.full("the oldest segment can't be cleaned: " + err.Error()))
		select {
		case <-r.wake: // the append of a copy that came to nothing: it would wake us for the next in vain
		default:
		}
		return false
	}
	// What a victim frees beside its copies may be lost again at the ends of the segments that they went
	// to. Room counts, or that somebody got some.
	if r.measure(); r.room()-room >= r.segmentSize/16 || r.served > served {
		r.looked = 0
	} else {
		r.looked++
	}
	if r.looked > 2*len(r.order)+2 { // the first time round only uses are used up
		r.giveIn("all of it is leased or in use")
	}
	r.serve()
	return true
}

// next chooses what to clean, if anything has to be: a segment whose sync failed, to copy what it holds
// elsewhere, or the oldest one. The caller holds the turn.
func (r *Ring) next() (s *segment, rescue bool) {
	if r.closed.Load() {
		return nil, false
	}
	r.loan = max(0, r.reserve()-r.room())
	for _, s := range r.order {
		if s.bad.Load() && !s.rescued.Load() && (time.Now().After(s.rescueAfter) || s.rescueShort && !r.tooShort(s)) {
			s.victim.Store(true)
			return s, true
		}
	}
	if r.room() >= r.goal() {
		r.fullUntil = 0 // what was in use is not any more
		return nil, false
	}
	// Bytes that readers of removed segments hold mostly come back by themselves.
	if r.room()+r.leaving.Load() >= r.goal() && time.Since(r.removed) < readersTime {
		time.AfterFunc(readersTime, r.wakeCleaner)
		return nil, false
	}
	if err := r.hopeless(); err != nil {
		r.refuseWaiting(err)
		if r.headroom >= 0 || r.gaveIn() { // else the limit was lowered, and what is cold goes
			return nil, false
		}
	}
	if s = r.oldest(); s == nil { // until readers and writers of big blobs have gone, which costs nothing to ask again
		r.refuseWaiting(r.full("nothing but the active segment may go"))
	}
	return s, false
}

// oldest returns the oldest segment that may go. Those of big blobs are passed over while somebody
// reads or writes them. The caller holds the turn.
func (r *Ring) oldest() *segment {
	for i, s := range slices.Clone(r.order) {
		switch {
		case s == r.active || mutant.AnyOrder && i == 0:
		case s.own && s.refs.Load() > 1:
			r.toBack(s)
		case s.own:
			return s
		default:
			// From here on uploads into s are refused, in the section that would publish them.
			s.victim.Store(true)
			return s
		}
	}
	return nil
}

// toBack gives a big blob's own segment another round. Only such ones may change their place.
func (r *Ring) toBack(s *segment) {
	i := slices.Index(r.order, s)
	r.order = append(slices.Delete(r.order, i, i+1), s)
}

// giveIn refuses writes until leases may have ended. The caller holds the turn.
func (r *Ring) giveIn(why string) {
	r.looked = 0
	r.fullUntil, r.fullWhy = r.ledger.Now()+1, r.full(why)
	_, _, r.fullPins = r.ledger.Counts()
	r.refuseWaiting(r.fullWhy)
}

// A sweep cleans one segment.
type sweep struct {
	ring   *Ring
	seg    *segment
	rescue bool // move all that the ledger names, and leave the file
	force  bool // what was merely used goes too

	warm   int64        // bytes moved because they were used
	copied int64        // bytes moved
	young  int          // records that went younger than youngAge
	moves  []*move      // to be copied with the next flush
	bytes  int64        // of them
	slots  map[int]bool // held for them
}

// A move is a record on its way to the end of the ring.
type move struct {
	line
	held   bool // pinned or leased
	extent *extent
}

// What is copied at once: enough for one write and one sync to be worth it, little enough that slots of
// records are not held for long.
const (
	moveBytes   = 8 << 20
	moveRecords = 1024
)

func (w *sweep) run() error {
	defer w.release()
	w.ring.turn <- struct{}{} // a big blob's segment may be sealed at any time
	lines := w.seg.list()
	<-w.ring.turn
	for _, l := range lines {
		if l.state == abandoned {
			continue
		}
		w.look(l)
		if w.bytes >= moveBytes || len(w.moves) >= moveRecords {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	if w.young > maxYoung {
		w.ring.log.Warn("evicted young", slog.Int("more", w.young-maxYoung), slog.String("segment", w.seg.name))
	}
	return w.end()
}

// end removes the segment, in which the ledger names nothing any more.
func (w *sweep) end() error {
	r, s := w.ring, w.seg
	if !mutant.NoTurn {
		r.turn <- struct{}{}
		defer func() { <-r.turn }()
	}
	switch {
	case r.closed.Load() || !slices.Contains(r.order, s):
		return nil
	case w.rescue:
		s.rescued.Store(true)
		r.log.Warn("what a segment held that could not be synced lies elsewhere", slog.String("segment", s.name))
		return nil
	case s.own && len(w.moves) > 0:
		r.toBack(s)
		return nil
	}
	r.evicted.Add(1)
	r.log.Debug("evict", slog.String("segment", s.name), slog.Int64("copied", w.copied))
	return r.remove(s)
}

// look decides what becomes of one record.
func (w *sweep) look(l line) {
	switch {
	case l.key.Kind == kindVoid:
		if w.ring.voids(w.seg, l) {
			w.add(l, true)
		}
	case l.key.Kind.Versioned():
		// Whoever updates the record waits, so that the copy takes its place in the order of updates.
		if taken := w.take(l.key); !w.judge(l) && taken {
			w.drop(l.key)
		}
	default:
		w.judge(l)
	}
}

// judge condemns a record, or adds it to what is moved and reports that.
func (w *sweep) judge(l line) bool {
	p := placeOf(w.seg.generation, l.off)
	// An eighth goes in any case, but not records: they are small, and lie behind what they name.
	full := w.warm >= w.seg.charge()/8*7 && !l.key.Kind.Versioned()
	switch fate := w.ring.ledger.Condemn(l.key, p, w.force || full); fate {
	case ledger.Held, ledger.Kept:
		w.add(l, fate == ledger.Held)
		return true
	case ledger.Warm:
		w.warm += span(l.size)
		w.add(l, false)
		return true
	case ledger.Condemned:
		w.mourn(l)
	}
	return false
}

func (w *sweep) add(l line, held bool) {
	w.moves = append(w.moves, &move{line: l, held: held})
	w.bytes += span(l.size)
}

// maxYoung is how many young records of one segment get a line of their own in the log.
const maxYoung = 10

// mourn logs what went too young.
func (w *sweep) mourn(l line) {
	age := time.Since(time.Unix(int64(l.at), 0))
	if l.at == 0 || age >= youngAge {
		return
	}
	if w.young++; w.young <= maxYoung {
		w.ring.log.Warn("evicted young", slog.String("key", fmt.Sprintf("%x", l.key.Hash)), slog.Duration("age", age.Round(time.Second)),
			slog.Int64("bytes", l.size), slog.String("reason", w.ring.reason()))
	}
}

// reason says what bounds the ring at the moment.
func (r *Ring) reason() string {
	if r.limit.Load() < r.maxSize.Load() {
		return fmt.Sprintf("the disk is nearly full, which leaves %d bytes of --max-size %d", r.limit.Load(), r.maxSize.Load())
	}
	return fmt.Sprintf("%d bytes of --max-size %d are used", r.used(), r.maxSize.Load())
}

// take takes a record's slot, unless the sweep has it, and reports whether it took it.
func (w *sweep) take(k ledger.Key) bool {
	n := slotOf(k)
	if w.slots[n] || mutant.NoSlot || mutant.MoveBlind {
		return false
	}
	w.ring.slots[n].take()
	if w.slots == nil {
		w.slots = map[int]bool{}
	}
	w.slots[n] = true
	return true
}

func (w *sweep) drop(k ledger.Key) {
	n := slotOf(k)
	delete(w.slots, n)
	w.ring.slots[n].drop()
}

func (w *sweep) release() {
	for n := range w.slots {
		w.ring.slots[n].drop()
	}
	clear(w.slots)
}

// flush copies what is to be moved, and lets the ledger name the copies. The segment that a copy went to
// may be the next one that can't be written or synced, so it is tried again.
func (w *sweep) flush() error {
	defer w.release()
	if w.seg.own && !w.rescue {
		return nil // it stays where it is
	}
	moves := w.moves
	w.moves, w.bytes = nil, 0
	var err error
	for n := 0; len(moves) > 0; n++ {
		if n == attempts {
			return err
		}
		copyErr := w.copy(moves)
		if moves, err = w.settle(moves); len(moves) == 0 {
			return nil
		}
		if err = errors.Join(copyErr, err); copyErr != nil && !errors.Is(copyErr, errAgain) {
			return err
		}
	}
	return nil
}

// errAgain says that a copy did not come about, but may with the next attempt.
var errAgain = errors.New("a copy could not be written")

// copy writes copies and sees that they are on the disk.
func (w *sweep) copy(moves []*move) error {
	r := w.ring
	var requests []*request
	var of []*move
	var tags []uint64
	for _, m := range moves {
		data, err := w.read(m)
		if err != nil {
			r.quarantine(m.key, placeOf(w.seg.generation, m.off), err)
			m.state = abandoned
			continue
		}
		if m.held && m.key.Kind != kindVoid {
			tags = append(tags, m.key.Tag())
		}
		requests = append(requests, &request{key: m.key, size: m.size, data: data, by: mover, moved: true, at: m.at})
		of = append(of, m)
	}
	if len(requests) == 0 {
		return nil
	}
	// What the cleaner moves into a segment is not leased for lying there: it may not be leased at all. Only
	// where the log can't be written, it is, by a log that could.
	if err := r.leases.append(tags); err != nil && r.leases.since.Load() == everySegment {
		return fmt.Errorf("what was to be copied could not be written down as leased: %w", err)
	} else if err != nil {
		for _, req := range requests {
			req.moved = false
		}
	}
	_ = r.append(requests...) // each has its own error
	var errs []error
	for i, req := range requests {
		of[i].extent = req.extent
		switch {
		case req.err == nil && req.data == nil:
			if err := w.stream(of[i]); err != nil {
				of[i].extent.abandon()
				of[i].extent = nil
				errs = append(errs, err)
			}
		case req.err != nil && (errors.Is(req.err, errNoRoom) || errors.Is(req.err, blob.ErrClosed)):
			errs = append(errs, req.err)
		case req.err != nil:
			errs = append(errs, fmt.Errorf("%w: %w", errAgain, req.err))
		}
	}
	sim.Point("copied")
	if !mutant.MoveUnsynced {
		errs = append(errs, syncAll(moves))
	}
	sim.Point("copies synced")
	return errors.Join(errs...)
}

// syncAll syncs the segments that copies went to, in every durability mode.
func syncAll(moves []*move) error {
	var last *segment
	var errs []error
	for _, m := range moves {
		if m.extent == nil || m.extent.seg == last {
			continue
		}
		last = m.extent.seg
		if err := last.sync(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", errAgain, err))
		}
	}
	return errors.Join(errs...)
}

// settle lets the ledger name the copies, and returns what has to be copied again, and why.
func (w *sweep) settle(moves []*move) (again []*move, err error) {
	for _, m := range moves {
		e := m.extent
		m.extent = nil
		switch {
		case m.state == abandoned:
		case e == nil:
			again, err = append(again, m), errNoRoom
		case m.key.Kind == kindVoid && e.admitted(), m.key.Kind != kindVoid && w.moved(m, e):
			w.copied += span(m.size)
			e.seg.unref()
		default:
			err = e.refusal()
			e.abandon()
			if m.key.Kind == kindVoid || w.ring.ledger.Names(m.key, placeOf(w.seg.generation, m.off)) {
				again = append(again, m)
			}
		}
	}
	return again, err
}

func (w *sweep) moved(m *move, e *extent) bool {
	return w.ring.ledger.Move(m.key, placeOf(w.seg.generation, m.off), e.place(), e.admit)
}

// read returns the bytes of a record, verified, or nil for one that is better streamed.
func (w *sweep) read(m *move) ([]byte, error) {
	if m.size > appendSize {
		return nil, nil
	}
	return w.seg.readAgain(m.key, m.off, m.size)
}

// stream copies a large record piece by piece.
func (w *sweep) stream(m *move) error {
	e := m.extent
	from := &reader{seg: w.seg, key: m.key, off: m.off + headerSize, size: m.size}
	to := e.seg.newSummer(e.off)
	buf := make([]byte, appendSize)
	for pos := int64(0); pos < m.size; pos += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), m.size-pos)]
		if _, err := from.readAgain(buf, pos); err != nil {
			w.ring.quarantine(m.key, placeOf(w.seg.generation, m.off), err)
			m.state = abandoned
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		to.write(buf)
		if err := e.writeAt(buf, pos); err != nil {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
	}
	if err := e.writeSums(to.close()); err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return nil
}
