package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// A Damage is a record or a segment that does not verify.
type Damage struct {
	Segment string        // path
	Offset  int64         // of the record in it
	Size    int64         // of the record's bytes, or of the segment
	Digest  digest.Digest // of a blob
	Record  [32]byte      // the key of a record, if it is one
	Value   []byte        // what is left of a record's bytes; nil if nothing can be read
	Err     error
}

// IsRecord reports whether a record is damaged, and not a blob.
func (d Damage) IsRecord() bool { return d.Record != [32]byte{} }

// IsSegment reports whether the segment as a whole can't be read.
func (d Damage) IsSegment() bool { return !d.IsRecord() && d.Digest.Function == 0 }

// A Survey counts what was verified.
type Survey struct {
	Segments, Records, Bytes int64
	Unfinished               int64 // records that nobody was told of: an upload that a crash cut short
	Damaged                  int64
}

// Check reads every segment in dir and calls found for what does not verify. It changes nothing, and
// wants no process to have the directory: of a ring in use it would see half.
func Check(ctx context.Context, fsys vfs.FS, dir string, found func(Damage)) (Survey, error) {
	return Inspect(ctx, fsys, dir, found, func(*View) error { return nil })
}

// Inspect is Check, and then calls read with what is whole.
func Inspect(ctx context.Context, fsys vfs.FS, dir string, found func(Damage), read func(*View) error) (Survey, error) {
	var n Survey
	r := &Ring{fsys: fsys, dir: dir, log: slog.New(slog.DiscardHandler)}
	lock, err := fsys.Lock(dir)
	if err != nil {
		return n, err
	}
	defer lock.Close()
	l, err := r.listing()
	if err != nil {
		return n, err
	}
	_, restarted := r.readLeases(l)
	c := &checker{ring: r, survey: &n, found: found, voids: map[ledger.Place]bool{}, restarted: restarted, view: newView()}
	defer c.view.close()
	for _, pass := range []func(*segment) error{c.findVoids, c.check} {
		for _, f := range l.segments {
			if err := ctx.Err(); err != nil {
				return n, err
			}
			s, err := c.open(f)
			if err == nil && s != nil {
				err = pass(s)
			}
			if err != nil {
				return n, err
			}
		}
	}
	c.settle()
	return n, read(c.view)
}

// A checker verifies the segments of a ring that is not in use.
type checker struct {
	ring      *Ring
	survey    *Survey
	found     func(Damage)
	voids     map[ledger.Place]bool
	restarted bool
	view      *View
	dead      []dead
}

// A dead incarnation is one that was quarantined, or is damaged.
type dead struct {
	key    ledger.Key
	place  ledger.Place
	damage *Damage // nil if it was quarantined
}

// open returns the segment of a file, which stays open with the view, or nil if there is none in it.
func (c *checker) open(f found) (*segment, error) {
	s, ok := c.view.segments[f.generation]
	if ok {
		return s, nil
	}
	name := segmentName(c.ring.dir, f.generation)
	file, err := c.ring.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	s = newSegment(c.ring, name, file, f.size)
	err = s.readFirst(f.generation)
	if err == nil {
		c.view.segments[f.generation] = s
		return s, nil
	}
	if !errors.Is(err, errFormat) {
		return nil, errors.Join(err, file.Close())
	}
	// Start-up takes it for litter, which it is if a crash came before the first block. What was written
	// there and is another one now was a segment.
	if !errors.Is(err, errUnwritten) && f.size >= firstSize {
		c.survey.Damaged++
		c.found(Damage{Segment: name, Size: f.size, Err: err})
	}
	c.view.segments[f.generation] = nil
	return nil, file.Close()
}

// lines returns the footer's lines, or those of a scan, in which nothing is known to be complete.
func (c *checker) lines(s *segment) (lines []line) {
	if err := s.readFooter(func(l line) { lines = append(lines, l) }); err == nil {
		return lines
	}
	return s.scan()
}

func (c *checker) findVoids(s *segment) error {
	for _, l := range c.lines(s) {
		if l.key.Kind != kindVoid {
			continue
		}
		if _, p, err := s.readVoid(l); err == nil {
			c.voids[p] = true
		}
	}
	return nil
}

func (c *checker) check(s *segment) error {
	c.survey.Segments++
	for _, l := range c.lines(s) {
		p := placeOf(s.generation, l.off)
		if l.state == abandoned {
			continue
		}
		if c.voids[p] {
			c.bury(l, p, nil)
			continue
		}
		var damage *Damage
		promised := l.state == complete && !(s.unsynced && c.restarted)
		switch c.survey.add(s, l, promised, func(d Damage) { damage = &d }) {
		case complete:
			c.view.add(l, p)
		case abandoned:
			c.bury(l, p, damage)
		}
	}
	return nil
}

// bury takes in an incarnation that settle takes out again: until then it stands before older ones.
func (c *checker) bury(l line, p ledger.Place, damage *Damage) {
	if l.key.Kind.Versioned() {
		c.view.add(l, p) // an older one of a record was superseded, an older one of a blob is as good
	}
	c.dead = append(c.dead, dead{l.key, p, damage})
}

// settle takes what is dead out of the view, as start-up does, and reports the damage, but for that of
// incarnations that were superseded: nobody will ever read those.
func (c *checker) settle() {
	last := map[ledger.Key]ledger.Place{}
	for _, d := range c.dead {
		last[d.key] = max(last[d.key], d.place)
	}
	for _, d := range c.dead {
		named := c.view.ledger.Drop(d.key, d.place)
		if !d.key.Kind.Versioned() {
			rd, ok := c.view.find(d.key, -1)
			named = d.place == last[d.key] && (!ok || placeOf(rd.seg.generation, rd.off-headerSize) < d.place)
		}
		if named && d.damage != nil {
			c.found(*d.damage)
		} else if d.damage != nil {
			c.survey.Damaged--
		}
	}
}

// add verifies one record, counts it and returns its state: complete, open if it may be a crash's,
// because no footer calls it complete, or abandoned if it is damaged.
func (n *Survey) add(s *segment, l line, promised bool, found func(Damage)) state {
	got, err := s.verify(l)
	switch {
	case err == nil && got == complete:
		n.Records++
		n.Bytes += l.size
		return complete
	case errors.Is(err, blob.ErrClosed):
		return open // nobody waits for the answer
	case !promised:
		n.Unfinished++
		return open
	}
	if err == nil {
		err = s.corrupt(l.off, "does not verify")
	}
	n.Damaged++
	d := Damage{Segment: s.name, Offset: l.off, Size: l.size, Err: err}
	if l.key.Kind.Versioned() || l.key.Kind == kindVoid {
		d.Record, d.Value = l.key.Hash, make([]byte, l.size)
		if s.readAt(d.Value, l.off+headerSize) != nil {
			d.Value = nil
		}
	} else {
		d.Digest = digest.Digest{Function: digest.Function(l.key.Kind), Hash: l.key.Hash, Size: l.size}
	}
	found(d)
	return abandoned
}

// verify reads a record and says whether it is complete: its blocks have their checksums, and a blob its
// hash.
func (s *segment) verify(l line) (state, error) {
	b := make([]byte, headerSize)
	if err := s.readAt(b, l.off); err != nil {
		s.ring.log.Debug("verify", slog.Any("error", err))
		return abandoned, nil
	}
	h, err := s.decodeHeader(b, l.off)
	if err != nil || h.key != l.key || h.size != l.size {
		return abandoned, nil
	}
	hash := hash.Hash(nil)
	if !l.key.Kind.Versioned() && l.key.Kind != kindVoid {
		f := digest.Function(l.key.Kind)
		if !f.Valid() {
			return abandoned, nil
		}
		hash = f.NewHash()
	}
	rd := &reader{seg: s, key: l.key, off: l.off + headerSize, size: l.size}
	if l.size == 0 {
		_, err := s.read(l.key, l.off, 0)
		return verdict(err == nil), nil
	}
	buf := make([]byte, min(l.size, appendSize))
	for pos := int64(0); pos < l.size; pos += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), l.size-pos)]
		if s.ring.closed.Load() {
			return abandoned, blob.ErrClosed
		}
		if _, err := rd.readAgain(buf, pos); err != nil {
			s.ring.log.Debug("verify", slog.Any("error", err))
			return abandoned, nil
		}
		if hash != nil {
			_, _ = hash.Write(buf) // hashes never fail
		}
	}
	return verdict(hash == nil || bytes.Equal(hash.Sum(nil), l.key.Hash[:])), nil
}

func verdict(ok bool) state {
	if ok {
		return complete
	}
	return abandoned
}

// Scrub verifies everything that the ledger names, from the disk, quarantines what does not verify, and
// calls found for it. Others go on meanwhile; pause, if not nil, is called before each segment.
func (r *Ring) Scrub(ctx context.Context, pause func() error, found func(Damage)) (Survey, error) {
	var n Survey
	table := *r.table.Load()
	order := make([]*segment, 0, len(table))
	for _, s := range table {
		order = append(order, s)
	}
	slices.SortFunc(order, func(a, b *segment) int { return int(a.generation) - int(b.generation) })
	for _, s := range order {
		if pause != nil {
			if err := pause(); err != nil {
				return n, err
			}
		}
		if err := r.scrubSegment(ctx, s, &n, found); err != nil {
			return n, err
		}
	}
	return n, ctx.Err()
}

func (r *Ring) scrubSegment(ctx context.Context, s *segment, n *Survey, found func(Damage)) error {
	if !s.tryRef() {
		return nil // it has gone
	}
	defer s.unref()
	r.turn <- struct{}{}
	lines := s.list()
	<-r.turn
	if err := s.file.DropCache(); err != nil {
		return err
	}
	n.Segments++
	for _, l := range lines {
		p := placeOf(s.generation, l.off)
		if err := ctx.Err(); err != nil || r.closed.Load() {
			return err
		}
		if l.key.Kind == kindVoid || !r.ledger.Names(l.key, p) {
			continue
		}
		if n.add(s, l, true, found) == abandoned {
			r.quarantine(l.key, p, s.corrupt(l.off, "does not verify"))
		}
	}
	return nil
}

// scrubTime is in how long the scrubber sees everything once. A week is what disks with checksums of
// their own (ZFS, btrfs) are commonly scrubbed in or less, and a terabyte in a week is 1.7 MB a second.
const scrubTime = 7 * 24 * time.Hour

// scrub is the scrubber's goroutine. It begins anywhere, so that restarts do not spare the same segments.
func (r *Ring) scrub() {
	defer close(r.scrubbed)
	if r.tick < 0 {
		return
	}
	for {
		table := *r.table.Load()
		select {
		case <-time.After(scrubTime / time.Duration(len(table)+1)):
		case <-r.stop:
			return
		}
		skip := rand.IntN(len(table) + 1)
		for _, s := range table {
			if skip--; skip > 0 {
				continue
			}
			if err := r.scrubSegment(context.Background(), s, new(Survey), func(Damage) {}); err != nil {
				r.log.Warn("scrub", slog.String("segment", s.name), slog.Any("error", err))
			}
			break
		}
	}
}

// quarantine makes the ledger forget an incarnation that does not verify, also after a restart. Its bytes
// stay until their segment goes.
func (r *Ring) quarantine(k ledger.Key, p ledger.Place, why error) {
	if !r.ledger.Drop(k, p) {
		return // moved or gone since
	}
	r.damaged.Add(1)
	r.log.Error("quarantined", slog.String("key", fmt.Sprintf("%x", k.Hash)), slog.Any("error", why))
	body := le.AppendUint64([]byte{byte(k.Kind)}, uint64(p))
	var req *request
	var err error
	for range attempts { // a failed write ends its segment; the next attempt goes to another one
		req = &request{key: ledger.Key{Kind: kindVoid, Hash: k.Hash}, size: int64(len(body)), data: body, by: mover}
		if err = r.append(req); err == nil {
			break
		}
	}
	if err == nil {
		req.extent.admitted()
		req.extent.seg.unref()
		err = req.extent.seg.syncHeld()
	}
	if err != nil {
		r.log.Warn("a restart will find it damaged again", slog.Any("error", err))
	}
}

// readVoid returns which incarnation a void record names.
func (s *segment) readVoid(l line) (ledger.Key, ledger.Place, error) {
	b, err := s.read(l.key, l.off, l.size)
	if err != nil {
		return ledger.Key{}, 0, err
	}
	if len(b) != 9 {
		return ledger.Key{}, 0, s.corrupt(l.off, "a void record of %d bytes", len(b))
	}
	return ledger.Key{Kind: ledger.Kind(b[0]), Hash: l.key.Hash}, ledger.Place(le.Uint64(b[1:])), nil
}

// voids reports whether a void record in s still says something: the segment that it speaks of is there.
func (r *Ring) voids(s *segment, l line) bool {
	_, p, err := s.readVoid(l)
	generation, _ := splitPlace(p)
	return err == nil && (*r.table.Load())[generation] != nil && generation != s.generation
}

// EachRecord calls do with the value of every record, until do returns an error. It leases nothing.
func (r *Ring) EachRecord(ctx context.Context, do func(key [32]byte, value []byte) error) error {
	for _, k := range r.RecordKeys() {
		rec, err := r.readRecord(k)
		if err != nil {
			continue // gone or damaged since, and then that was said
		}
		if err := do(k, rec.Value); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Blobs returns all blobs that are present, in no order. It leases nothing.
func (r *Ring) Blobs() (all []digest.Digest) {
	r.ledger.Each(func(k ledger.Key, size int64, _ ledger.Place, _ bool) {
		if f := digest.Function(k.Kind); k.Kind != ledger.Record && k.Kind != ledger.Root && f.Valid() {
			all = append(all, digest.Digest{Function: f, Hash: k.Hash, Size: size})
		}
	})
	return all
}

// RecordKeys returns the keys of all records, in no order. It leases nothing.
func (r *Ring) RecordKeys() (all [][32]byte) {
	r.ledger.Each(func(k ledger.Key, _ int64, _ ledger.Place, _ bool) {
		if k.Kind == ledger.Record {
			all = append(all, k.Hash)
		}
	})
	return all
}
