package segment

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// A request asks for one extent. If data is nil, only the header is written and the caller streams
// the bytes; else the record is written whole.
type request struct {
	key   ledger.Key
	size  int64
	data  []byte
	by    asker
	moved bool   // a copy of a record in an older segment
	at    uint32 // when that was written; 0 is now

	extent *extent // the answer
	err    error   // or why there is none
	done   bool
}

// An asker is who makes a request, which decides what room he may have and whether he waits for it.
type asker uint8

const (
	uploader asker = iota // waits until the cleaner has made room
	putter                // holds a slot, for which the cleaner may wait, so is told errNoRoom
	waiter                // wants no extent, but to know when there is room for one
	mover                 // the cleaner, who may take what nobody else may
)

var errNoRoom = errors.New("no room before the cleaner has been here")

// A batch is what one caller queued.
type batch struct {
	requests []*request
	done     chan struct{}
}

// patience is how long a writer waits for the cleaner, who may wait for slow readers of what he removed.
const patience = 30 * time.Second

// append hands out extents and writes the headers, and the bytes of requests that have them. Callers
// queue, and one of them, who gets the turn, serves all: neighbours go in one write. It returns the
// first request's error; each request has its own.
func (r *Ring) append(requests ...*request) error {
	b := &batch{requests, make(chan struct{})}
	r.mu.Lock()
	r.queue = append(r.queue, b)
	r.mu.Unlock()
	select {
	case <-b.done:
		return requests[0].err
	case r.turn <- struct{}{}:
		r.serveAndWake()
		<-r.turn
	}
	select {
	case <-b.done:
		return requests[0].err
	default: // there was no room
	}
	select {
	case <-b.done:
	case <-time.After(patience):
		r.giveUp(b)
	}
	return requests[0].err
}

// giveUp ends the wait of a batch for which no room came.
func (r *Ring) giveUp(b *batch) {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.serve()
	if slices.Contains(r.waiting, b) {
		b.finish(r.full("no room came free in time"))
		r.waiting = slices.DeleteFunc(r.waiting, func(o *batch) bool { return o == b })
	}
}

// finish answers what is not answered yet with err, and lets the caller go.
func (b *batch) finish(err error) {
	for _, req := range b.requests {
		if !req.done {
			req.err, req.done = err, true
		}
	}
	close(b.done)
}

// serve appends all that is queued, as far as there is room. The caller holds the turn.
func (r *Ring) serve() {
	r.mu.Lock()
	queue := append(r.waiting, r.queue...)
	r.queue, r.waiting = nil, nil
	r.mu.Unlock()
	a := appender{ring: r, buf: r.buf[:0]}
	var short []*batch
	for _, b := range queue {
		waits := false
		for _, req := range b.requests {
			if req.done {
				continue
			}
			a.add(req)
			if req.err == nil && req.by != mover {
				r.served++
			}
			if errors.Is(req.err, errNoRoom) && req.by != putter && req.by != mover {
				if req.err = r.neverFits(req); req.err != nil {
					req.done = true
					continue
				}
				waits = true
			} else {
				req.done = true
			}
		}
		if waits {
			short = append(short, b)
		}
	}
	a.flush()
	r.buf = a.buf
	for _, b := range queue {
		if !slices.Contains(short, b) {
			close(b.done)
		}
	}
	r.waiting = short
	if len(short) > 0 {
		if err := r.hopeless(); err != nil {
			r.refuseWaiting(err)
		}
	}
}

// serveAndWake is serve, and tells the cleaner if there is something to do. The caller holds the turn.
func (r *Ring) serveAndWake() {
	r.serve()
	if r.room() < r.goal() && !r.gaveIn() {
		r.wakeCleaner()
	}
}

// refuseWaiting answers those who wait for room. The caller holds the turn.
func (r *Ring) refuseWaiting(err error) {
	for _, b := range r.waiting {
		b.finish(err)
	}
	r.waiting = nil
}

// An appender collects records that lie behind each other in the active segment into one write.
type appender struct {
	ring *Ring
	seg  *segment
	off  int64 // where buf goes
	buf  []byte
	in   []*request // whose headers or bytes are in buf
}

// appendSize is how much is collected before it is written, in bytes.
const appendSize = 1 << 20

func (a *appender) add(req *request) {
	r := a.ring
	req.err = nil
	switch own := span(req.size) > r.segmentSize/4; {
	case r.closed.Load():
		req.err = blob.ErrClosed
	case !r.mayTake(req):
		req.err = errNoRoom
	case req.by == waiter:
	case own:
		a.flush()
		req.extent, req.err = r.ownSegment(req)
	default:
		if r.active == nil || r.active.left() < room(req.size) {
			a.flush()
			if req.err = r.rotate(room(req.size), req.by == mover); req.err != nil {
				return
			}
		}
		a.put(req)
	}
}

// put writes the record at the end of the active segment, where there is room for it.
func (a *appender) put(req *request) {
	seg := a.ring.active
	e := seg.handOut(req)
	req.extent = e
	if len(a.buf) == 0 {
		a.seg, a.off = seg, e.off
	}
	a.buf = e.append(a.buf, req.data)
	a.in = append(a.in, req)
	if req.data == nil || len(a.buf) >= appendSize {
		a.flush() // the bytes come later, from their writer, or there are enough
	}
}

var zeros [align]byte

// append appends the record as it lies in the segment, or only its header if there are no data.
func (e *extent) append(b, data []byte) []byte {
	if data == nil && mutant.HeaderLate {
		return append(b, make([]byte, headerSize)...)
	}
	b = e.seg.appendHeader(b, header{key: e.key, size: e.size, moved: e.moved}, e.off)
	if data == nil {
		return b
	}
	b = append(b, data...)
	b = append(b, zeros[:padded(e.size)-e.size]...)
	return e.seg.appendSumsOf(b, data, e.off)
}

// flush writes what is collected. If that fails, the chain of headers ends here, so the segment takes
// no more, and whoever had a part in the write is told.
func (a *appender) flush() {
	if len(a.buf) == 0 {
		return
	}
	_, err := a.seg.file.WriteAt(a.buf, a.off)
	if err == nil {
		a.seg.writes.Add(1)
	} else {
		a.seg.broken.Store(true)
		err = fmt.Errorf("append to segment %s: %w", a.seg.name, err)
		for _, req := range a.in {
			req.extent.abandon()
			req.extent, req.err = nil, err
		}
	}
	a.buf, a.in = a.buf[:0], a.in[:0]
}

// rotate seals the active segment, and those of big blobs that have come, and makes the next one, with
// room for need bytes. The caller holds the turn.
func (r *Ring) rotate(need int64, moving bool) error {
	for _, s := range r.order {
		if !s.sealed && (s == r.active || s.settled()) {
			if err := s.seal(); err != nil {
				r.log.Error("seal", slog.Any("error", err))
			}
		}
	}
	r.active = nil
	r.removeUnnamed()
	r.measure()
	free := r.headroom
	if moving {
		free = r.overdraft()
	}
	need += firstSize + trailerSize
	if free < need {
		return errNoRoom
	}
	s, err := r.newSegment(max(need, min(r.segmentSize, free)), false)
	if err == nil {
		r.active = s
		r.activeGeneration.Store(s.generation)
	}
	return err
}

// removeUnnamed removes the sealed segments in which nothing was ever published, whatever their
// place: all uploads into them failed. No result lies in them, so order does not matter.
func (r *Ring) removeUnnamed() {
	for _, s := range slices.Clone(r.order) {
		if s.sealed && !s.named.Load() && s.refs.Load() == 1 { // the ring's: nobody can publish any more
			if err := r.remove(s); err != nil {
				r.log.Warn("remove", slog.String("segment", s.name), slog.Any("error", err))
			}
		}
	}
}

// settled reports whether no extent of s waits for bytes.
func (s *segment) settled() bool {
	return !slices.ContainsFunc(s.extents, func(e *extent) bool { return state(e.state.Load()) == open })
}

// ownSegment makes a segment for one big blob.
func (r *Ring) ownSegment(req *request) (*extent, error) {
	s, err := r.newSegment(span(req.size)+ownOverhead, true)
	if err != nil {
		return nil, err
	}
	e := s.handOut(req)
	_, err = s.file.WriteAt(e.append(nil, req.data), e.off)
	if err != nil {
		e.abandon()
		return nil, errors.Join(fmt.Errorf("write segment %s: %w", s.name, err), r.remove(s))
	}
	s.writes.Add(1)
	return e, nil
}

// newSegment makes a segment of size bytes, the newest of the ring. Its name is durable before it hands
// out an extent. The caller has seen that there is room.
func (r *Ring) newSegment(size int64, own bool) (*segment, error) {
	f := first{generation: r.generation.Add(1), own: own, unsynced: r.durability == None, seed: rand.Uint64()}
	name := segmentName(r.dir, f.generation)
	file, err := r.fsys.Create(name, size)
	if isFull(err) {
		r.quota, r.quotaAt = r.used(), time.Now()
		r.measure()
		return nil, fmt.Errorf("%w: no room on the disk for a segment of %s: free some, or lower --max-size (%w)", blob.ErrFull, humanize.IBytes(uint64(size)), err)
	}
	if err != nil {
		return nil, err
	}
	s := newSegment(r, name, file, size)
	s.first = f
	_, err = file.WriteAt(f.encode(), 0)
	if err == nil {
		s.writes.Add(1)
		if !mutant.NameUnsynced {
			err = r.fsys.SyncDir(r.dir)
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), r.fsys.Remove(name))
	}
	r.order = append(r.order, s)
	r.setTable(func(t map[uint32]*segment) { t[f.generation] = s })
	r.measure()
	return s, nil
}

// setTable replaces the table that readers look segments up in by a changed copy.
func (r *Ring) setTable(change func(map[uint32]*segment)) {
	t := maps.Clone(*r.table.Load())
	change(t)
	if mutant.NoTurn {
		sim.Point("table changed")
	}
	r.table.Store(&t)
}

// remove takes a segment that the ledger does not name out of the ring. Its removal is durable before
// anything else is removed. The caller holds the turn.
func (r *Ring) remove(s *segment) error {
	s.victim.Store(true)
	if r.nameOwed { // of the last removal, which must not be undone when this one is not
		if err := r.fsys.SyncDir(r.dir); err != nil {
			return err
		}
	}
	if err := r.fsys.Remove(s.name); err != nil {
		return err // it stays in the ring, to be tried again
	}
	s.owed.Store(s.charge())
	r.leaving.Add(s.owed.Load())
	r.order = slices.DeleteFunc(r.order, func(o *segment) bool { return o == s })
	r.setTable(func(t map[uint32]*segment) { delete(t, s.generation) })
	r.removed = time.Now()
	s.unref()
	err := r.fsys.SyncDir(r.dir)
	r.nameOwed = err != nil
	r.measure()
	return err
}

// removeOwn gives back the segment of a big blob that was abandoned.
func (r *Ring) removeOwn(s *segment) {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	if !slices.Contains(r.order, s) {
		return // evicted already, or the ring is closed
	}
	if err := r.remove(s); err != nil {
		r.log.Warn("remove", slog.String("segment", s.name), slog.Any("error", err))
	}
	r.serveAndWake()
}
