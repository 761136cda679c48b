package segment

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/ledger"
)

// A request asks for one extent. If data is nil, only the header is written and the caller streams
// the bytes; else the record is written whole.
type request struct {
	key    ledger.Key
	size   int64
	sum    uint64
	data   []byte
	extent *extent // the answer
	err    error   // or why there is none
}

// A batch is what one caller queued.
type batch struct {
	requests []*request
	done     chan struct{}
}

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
	case r.turn <- struct{}{}:
		select {
		case <-b.done: // the last owner served it
		default:
			r.serve()
		}
		<-r.turn
	}
	return requests[0].err
}

// serve appends all that is queued. The caller holds the turn.
func (r *Ring) serve() {
	r.mu.Lock()
	queue := r.queue
	r.queue = nil
	r.mu.Unlock()
	a := appender{ring: r}
	for _, b := range queue {
		for _, req := range b.requests {
			if r.closed.Load() {
				req.err = blob.ErrClosed
			} else {
				a.add(req)
			}
		}
	}
	a.flush()
	for _, b := range queue {
		close(b.done)
	}
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
	if span(req.size) > a.ring.segmentSize/4 {
		a.flush()
		req.extent, req.err = a.ring.ownSegment(req)
		return
	}
	seg := a.ring.active
	if seg == nil || !seg.fits(req.size) {
		a.flush()
		if req.err = a.ring.rotate(); req.err != nil {
			return
		}
		seg = a.ring.active
	}
	e := seg.handOut(req.key, req.size)
	req.extent = e
	if len(a.buf) == 0 {
		a.seg, a.off = seg, e.off
	}
	a.buf = seg.appendHeader(a.buf, header{req.key, req.size, req.sum}, e.off)
	a.in = append(a.in, req)
	if req.data == nil {
		a.flush() // the bytes come later, from their writer
		return
	}
	a.buf = append(a.buf, req.data...)
	a.buf = append(a.buf, make([]byte, seg.end-a.off-int64(len(a.buf)))...)
	if len(a.buf) >= appendSize {
		a.flush()
	}
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

// rotate seals the active segment, and those of big blobs that have come, and makes the next one,
// evicting if there is no room. The caller holds the turn.
func (r *Ring) rotate() error {
	for _, s := range r.order {
		if !s.sealed && (s == r.active || s.settled()) {
			if err := s.seal(); err != nil {
				r.log.Error("seal", slog.Any("error", err))
			}
		}
	}
	r.active = nil
	if err := r.removeUnnamed(); err != nil {
		return err
	}
	s, err := r.newSegment(r.segmentSize, false)
	if err == nil {
		r.active = s
	}
	return err
}

// removeUnnamed removes the sealed segments in which nothing was ever published, whatever their
// place: all uploads into them failed. No result lies in them, so order does not matter.
func (r *Ring) removeUnnamed() error {
	for _, s := range slices.Clone(r.order) {
		if s.sealed && !s.named.Load() && s.refs.Load() == 1 { // the ring's: nobody can publish any more
			if err := r.remove(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// settled reports whether no extent of s waits for bytes.
func (s *segment) settled() bool {
	return !slices.ContainsFunc(s.extents, func(e *extent) bool { return state(e.state.Load()) == open })
}

// ownSegment makes a segment for one big blob.
func (r *Ring) ownSegment(req *request) (*extent, error) {
	s, err := r.newSegment(req.size+ownOverhead, true)
	if err != nil {
		return nil, err
	}
	e := s.handOut(req.key, req.size)
	_, err = s.file.WriteAt(s.appendHeader(nil, header{key: req.key, size: req.size}, e.off), e.off)
	if err == nil && req.data != nil {
		err = e.writeAt(req.data, 0)
	}
	if err != nil {
		e.abandon()
		return nil, errors.Join(fmt.Errorf("write segment %s: %w", s.name, err), r.remove(s))
	}
	return e, nil
}

// newSegment makes a segment of size bytes, the newest of the ring, evicting the oldest until there
// is room. Its name is durable before it hands out an extent.
func (r *Ring) newSegment(size int64, own bool) (*segment, error) {
	for r.used()+size > r.maxSize {
		if err := r.evictOldest(); err != nil {
			return nil, err
		}
	}
	f := first{generation: r.generation + 1, own: own, seed: rand.Uint64()}
	name := segmentName(r.dir, f.generation)
	file, err := r.fsys.Create(name, size)
	for errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		if evictErr := r.evictOldest(); evictErr != nil {
			return nil, fmt.Errorf("%w: no room on the disk for a segment of %s: free some, or lower --max-size (%w)", blob.ErrFull, humanize.IBytes(uint64(size)), err)
		}
		file, err = r.fsys.Create(name, size)
	}
	if err != nil {
		return nil, err
	}
	r.generation++
	s := newSegment(r, name, file, size)
	s.first = f
	_, err = file.WriteAt(f.encode(), 0)
	if err == nil {
		s.writes.Add(1)
		err = r.fsys.SyncDir(r.dir)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), r.fsys.Remove(name))
	}
	r.order = append(r.order, s)
	r.setTable(func(t map[uint32]*segment) { t[f.generation] = s })
	return s, nil
}

// setTable replaces the table that readers look segments up in by a changed copy.
func (r *Ring) setTable(change func(map[uint32]*segment)) {
	t := maps.Clone(*r.table.Load())
	change(t)
	r.table.Store(&t)
}

// evictOldest removes the oldest segment, but for the active one, if nothing in it is pinned or leased.
// A big blob's own segment goes by itself: held, or while its upload lasts, it stays, and the next one
// is looked at. No results lie in it, and theirs is the order that counts. The caller holds the turn.
func (r *Ring) evictOldest() error {
	err := r.full("nothing but the active segment may go")
	for _, s := range r.order {
		if s == r.active || s.own && s.refs.Load() > 1 {
			continue
		}
		if err = r.evict(s); !s.own || !errors.Is(err, blob.ErrFull) {
			return err
		}
	}
	return err
}

// evict removes s if nothing in it is pinned or leased.
func (r *Ring) evict(s *segment) error {
	if s.lines == nil {
		s.lines = s.list()
	}
	// A full ring is asked again and again; what stood in the way mostly still does.
	for n := range s.lines {
		i := (s.holder + n) % len(s.lines)
		if l := s.lines[i]; r.ledger.Held(l.key, placeOf(s.generation, l.off)) {
			s.holder = i
			return r.full("the oldest segment holds leased blobs")
		}
	}
	// From here on uploads into s are refused, in the section that would publish them; what is
	// published already is condemned below.
	s.victim.Store(true)
	for _, l := range s.lines {
		if !r.ledger.Condemn(l.key, placeOf(s.generation, l.off)) {
			s.victim.Store(false)
			return r.full("a blob in the oldest segment was asked for")
		}
	}
	r.evicted.Add(1)
	r.log.Debug("evict", slog.String("segment", s.name), slog.Int("records", len(s.lines)))
	return r.remove(s)
}

func (r *Ring) full(why string) error {
	return fmt.Errorf("%w: %s; raise --max-size (now %s) or shorten --lease", blob.ErrFull, why, humanize.IBytes(uint64(r.maxSize)))
}

// remove takes a segment that the ledger does not name out of the ring. Its removal is durable before
// anything else is removed.
func (r *Ring) remove(s *segment) error {
	s.victim.Store(true)
	if err := r.fsys.Remove(s.name); err != nil {
		return err // it stays in the ring, to be tried again
	}
	s.owed.Store(s.charge())
	r.leaving.Add(s.owed.Load())
	r.order = slices.DeleteFunc(r.order, func(o *segment) bool { return o == s })
	r.setTable(func(t map[uint32]*segment) { delete(t, s.generation) })
	s.unref()
	return r.fsys.SyncDir(r.dir)
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
}
