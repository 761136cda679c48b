package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// Open opens the ring in dir, which is made if it is not there, and takes the directory for this
// process. It returns ErrLocked if another one has it.
func Open(ctx context.Context, fsys vfs.FS, dir string, o Options) (*Ring, error) {
	r, err := newRing(fsys, dir, o)
	if err != nil {
		return nil, err
	}
	if err := fsys.MakeDir(dir); err != nil {
		return nil, err
	}
	if r.lock, err = fsys.Lock(dir); err != nil {
		return nil, err
	}
	if err := r.recover(ctx); err != nil {
		for _, s := range r.order {
			s.unref()
		}
		return nil, errors.Join(err, r.lock.Close())
	}
	go r.clean()
	go r.scrub()
	if mutant.MarkLate {
		go r.markLate()
	}
	r.wakeCleaner() // the limit may be lower than it was
	return r, nil
}

func newRing(fsys vfs.FS, dir string, o Options) (*Ring, error) {
	if o.segmentSize == 0 {
		if o.MaxSize < MinSize {
			return nil, fmt.Errorf("%w: --max-size %s is less than the smallest ring, %s", blob.ErrInvalid, humanize.IBytes(uint64(max(o.MaxSize, 0))), humanize.IBytes(MinSize))
		}
		o.segmentSize = min(max(o.MaxSize/segments, minSegment), maxSegment)
	}
	if o.smallSize == 0 {
		o.smallSize = smallSize
	}
	if o.tick == 0 {
		o.tick = lookAgain
	}
	if o.Durability == "" {
		o.Durability = Group
	}
	if !slices.Contains([]Durability{Group, Sync, None}, o.Durability) {
		return nil, fmt.Errorf("%w: --durability %q is none of group, sync, none", blob.ErrInvalid, o.Durability)
	}
	if o.Lease < time.Second {
		return nil, fmt.Errorf("%w: --lease %s is less than a second", blob.ErrInvalid, o.Lease)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Ring{
		fsys: fsys, dir: dir, log: o.Log,
		lease: o.Lease, durability: o.Durability,
		segmentSize: o.segmentSize, smallSize: o.smallSize, tick: o.tick,
		ledger:   ledger.New(o.Lease),
		turn:     make(chan struct{}, 1),
		broom:    make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
		cleaned:  make(chan struct{}),
		scrubbed: make(chan struct{}),
		synced:   syncer{turn: make(chan struct{}, 1)},
	}
	r.maxSize.Store(o.MaxSize)
	r.leases = newLeaseLog(r)
	r.table.Store(&map[uint32]*segment{})
	return r, r.checkSize(o.MaxSize)
}

// recover makes the ring what the listing of the directory says. The highest name that is listed stays
// until there is one above it, so that no generation is used again.
func (r *Ring) recover(ctx context.Context) error {
	found, err := r.listing()
	if err != nil {
		return err
	}
	was, restarted := r.readLeases(found)
	defer was.release()
	l := &loader{ring: r, was: was, restarted: restarted, litter: map[uint32]string{}}
	if err := l.run(ctx, found.segments); err != nil {
		return err
	}
	if !mutant.MarkLate {
		if err := r.mark(ctx); err != nil {
			return err
		}
	}
	highest := r.generation.Load()
	if err := r.clearLitter(l.litter, highest); err != nil {
		return err
	}
	if err := r.begin(was, found.leases); err != nil {
		return err
	}
	if name, ok := l.litter[highest]; ok && r.generation.Load() > highest {
		return errors.Join(r.fsys.Remove(name), r.fsys.SyncDir(r.dir))
	}
	return nil
}

// clearLitter removes litter. The one with the highest name only loses its bytes for now, which on a
// full disk may be what there must be room for.
func (r *Ring) clearLitter(litter map[uint32]string, highest uint32) error {
	for _, generation := range slices.Sorted(maps.Keys(litter)) {
		name := litter[generation]
		if generation < highest {
			if err := errors.Join(r.fsys.Remove(name), r.fsys.SyncDir(r.dir)); err != nil {
				return err
			}
			continue
		}
		file, err := r.fsys.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(file.Truncate(0), file.Sync(), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// begin gives segments that a crash left without a footer one, makes the active segment, and begins the
// lease log. Where there is no room the ring can still be read, and the cleaner makes some.
func (r *Ring) begin(was *leased, logs []found) error {
	r.activeGeneration.Store(r.generation.Load() + 1) // if there is no room now, the next one is above
	err := r.rotate(0, false)
	if errors.Is(err, errNoRoom) || errors.Is(err, blob.ErrFull) {
		r.log.Info("the cleaner has to make room first", slog.Any("error", err))
	} else if err != nil {
		return err
	}
	err = r.leases.carry(was, logs)
	if isFull(err) {
		r.log.Warn("no room for a lease log: blobs are called missing until there is", slog.Any("error", err))
		return nil
	}
	return err
}

// A found file is one whose name has a generation.
type found struct {
	generation uint32
	size       int64
}

type listing struct{ segments, leases []found } // oldest first

func (r *Ring) listing() (l listing, err error) {
	infos, err := r.fsys.List(r.dir)
	if err != nil {
		return l, err
	}
	for _, info := range infos {
		ext := filepath.Ext(info.Name)
		n, err := strconv.ParseUint(strings.TrimSuffix(info.Name, ext), 10, 32)
		if err != nil || len(info.Name) != 10+len(ext) {
			continue // not ours
		}
		f := found{uint32(n), info.Size}
		switch ext {
		case segmentExt:
			l.segments = append(l.segments, f)
		case leaseExt:
			l.leases = append(l.leases, f)
		default:
			continue
		}
		r.generation.Store(max(r.generation.Load(), f.generation))
	}
	return l, nil
}

// A loader reads segments and tells the ledger what is in them.
type loader struct {
	ring      *Ring
	was       *leased
	restarted bool // the machine was, since the last process: what was not synced may be gone

	mu     sync.Mutex
	litter map[uint32]string // by generation
	voids  []void
	err    error
}

// A void is a record that names a damaged incarnation.
type void struct {
	seg *segment
	line
}

// perWorker is how many segments are worth a goroutine of their own.
const perWorker = 32

func (l *loader) run(ctx context.Context, segments []found) error {
	r := l.ring
	loaded := make([]*segment, len(segments))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(segments)/perWorker+1) {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(segments); n = int(next.Add(1)) - 1 {
				s, err := l.load(segments[n])
				if err == nil {
					err = ctx.Err()
				}
				l.mu.Lock()
				if loaded[n] = s; err == nil && s == nil {
					l.litter[segments[n].generation] = segmentName(r.dir, segments[n].generation)
				}
				l.err = errors.Join(l.err, err)
				stop := l.err != nil
				l.mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	table := map[uint32]*segment{}
	for _, s := range loaded {
		if s != nil {
			r.order = append(r.order, s)
			table[s.generation] = s
		}
	}
	r.table.Store(&table)
	if l.err == nil {
		l.obey()
	}
	return l.err
}

// obey takes damaged incarnations out of the ledger, which then names another one of the blob if there
// is one. An older one of a record was superseded.
func (l *loader) obey() {
	voided, dropped := map[ledger.Place]bool{}, map[ledger.Key]bool{}
	for _, v := range l.voids {
		k, p, err := v.seg.readVoid(v.line)
		if err != nil {
			l.ring.log.Warn("which record is damaged can't be read; it will be found again", slog.Any("error", err))
			continue
		}
		if voided[p] = true; l.ring.ledger.Drop(k, p) && !k.Kind.Versioned() {
			dropped[k] = true
		}
	}
	if len(dropped) == 0 {
		return
	}
	for _, s := range l.ring.order {
		for _, n := range s.list() {
			p := placeOf(s.generation, n.off)
			if n.state == abandoned || !dropped[n.key] || voided[p] {
				continue
			}
			if n.state == open { // the footer came before the end of the upload
				if got, err := s.verify(n); err != nil || got != complete {
					continue
				}
			}
			l.ring.ledger.Restore(ledger.Found{Key: n.key, Size: n.size, Place: p, Lease: l.was.has(&n, s.generation)})
		}
	}
}

// load reads one segment. It returns nil if there is nothing in it.
func (l *loader) load(g found) (*segment, error) {
	r := l.ring
	name := segmentName(r.dir, g.generation)
	file, err := r.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	s := newSegment(r, name, file, g.size)
	var gone, whole []line
	err = s.recoverLines(g.generation, l.restarted, func(n line) {
		switch {
		case n.state == abandoned:
			gone = append(gone, n)
		case n.state != complete:
		case n.key.Kind == kindVoid:
			s.named.Store(true)
			l.mu.Lock()
			l.voids = append(l.voids, void{s, n})
			l.mu.Unlock()
		default:
			s.named.Store(true)
			if whole = append(whole, n); len(whole) == restoreAtOnce {
				l.restore(s, whole)
				whole = whole[:0]
			}
		}
	})
	l.restore(s, whole)
	if err != nil && !errors.Is(err, errFormat) {
		return nil, errors.Join(err, file.Close())
	}
	if err != nil && !errors.Is(err, errUnwritten) {
		r.log.Warn("a segment that can't be read is removed", slog.String("segment", name), slog.Any("error", err))
	}
	if !s.named.Load() {
		return nil, file.Close()
	}
	for _, n := range gone {
		s.punch(n)
	}
	return s, nil
}

// restoreAtOnce is how many lines the ledger gets at a time: some dozen for each of its shards.
const restoreAtOnce = 1 << 14

func (l *loader) restore(s *segment, lines []line) {
	found := make([]ledger.Found, len(lines))
	for i := range lines { // apart from the rest, so that the processor asks for the memory of several
		found[i].Lease = l.was.has(&lines[i], s.generation)
	}
	for i := range lines {
		n, f := &lines[i], &found[i]
		f.Key, f.Size, f.Place = n.key, n.size, placeOf(s.generation, n.off)
	}
	l.ring.ledger.Restore(found...)
}

// readFirst reads the first block of the segment with that generation.
func (s *segment) readFirst(generation uint32) error {
	b := make([]byte, firstSize)
	if err := s.readAt(b, 0); err != nil {
		return err
	}
	var err error
	if s.first, err = decodeFirst(b); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if s.generation != generation {
		return fmt.Errorf("%s says that it is generation %d: %w", s.name, s.generation, errFormat)
	}
	return nil
}

// recoverLines calls do with the lines of the footer, or of a scan where there is no whole footer. What
// is not known to be complete is hashed.
func (s *segment) recoverLines(generation uint32, restarted bool, do func(line)) error {
	if err := s.readFirst(generation); err != nil {
		return err
	}
	var unsure []line
	trusted := !s.unsynced || !restarted
	err := s.readFooter(func(l line) {
		if l.state == complete && !trusted {
			l.state = open
		}
		if l.state == open || !trusted {
			unsure = append(unsure, l)
		} else {
			do(l)
		}
	})
	if err != nil {
		unsure = s.scan()
	} else if s.sealed = trusted; s.unsynced {
		s.writes.Add(1) // not synced yet, for all we know
	}
	if err := s.verifyOpen(unsure); err != nil {
		return err
	}
	for _, l := range unsure {
		do(l)
		if !s.sealed {
			e := &extent{seg: s, key: l.key, off: l.off, size: l.size, moved: l.moved, at: l.at}
			e.state.Store(uint32(l.state))
			s.extents = append(s.extents, e)
		}
	}
	return nil
}

// verifyOpen settles the state of lines that no footer vouches for. Whoever wrote them may have been
// killed before any sync, or have seen one fail, after which the kernel shows bytes that the disk does
// not have. So they are synced first, and then read from the disk.
func (s *segment) verifyOpen(lines []line) error {
	if !slices.ContainsFunc(lines, func(l line) bool { return l.state == open }) {
		return nil
	}
	if err := errors.Join(s.sync(), s.file.DropCache()); err != nil {
		return err
	}
	for i := range lines {
		if lines[i].state == open {
			var err error
			if lines[i].state, err = s.verify(lines[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// readFooter calls do with the lines of the footer, or returns errFormat if there is no whole one.
func (s *segment) readFooter(do func(line)) error {
	at := s.size.Load() - trailerSize
	if at < firstSize {
		return fmt.Errorf("%s has %d bytes: %w", s.name, s.size.Load(), errFormat)
	}
	t := make([]byte, trailerSize)
	if err := s.readAt(t, at); err != nil {
		return err
	}
	n, sum, err := s.decodeTrailer(t, at)
	if err != nil {
		return err
	}
	b, off := make([]byte, n*entrySize), at-n*entrySize
	if err := s.readAt(b, off); err != nil {
		return err
	}
	if s.sum(b, off) != sum {
		return fmt.Errorf("footer of %s: %w", s.name, errFormat)
	}
	s.end = off
	for i := 0; i < len(b); i += entrySize {
		if l := decodeLine(b[i:]); !holds(l.off, l.size, off) {
			return fmt.Errorf("footer of %s: record of %d bytes at %d: %w", s.name, l.size, l.off, errFormat)
		}
	}
	for i := 0; i < len(b); i += entrySize {
		do(decodeLine(b[i:]))
	}
	return nil
}

// scan follows the headers from the first on, as far as they are whole, and sets where the footer can
// go. It never searches for a header: bytes that a client sent may look like one.
func (s *segment) scan() []line {
	var lines []line
	b := make([]byte, headerSize)
	for s.end = firstSize; s.end+headerSize <= s.size.Load(); {
		err := s.readAt(b, s.end)
		if err != nil && !errors.Is(err, errFormat) {
			s.ring.log.Error("what follows can't be read, and is lost", slog.String("segment", s.name), slog.Int64("offset", s.end), slog.Any("error", err))
			break
		}
		h, err := s.decodeHeader(b, s.end)
		if err != nil || !holds(s.end, h.size, s.size.Load()) {
			break
		}
		lines = append(lines, line{key: h.key, size: h.size, off: s.end, moved: h.moved})
		s.end += span(h.size)
	}
	return lines
}

// readAt fills b. The end of the file comes as errFormat: a crash can leave a file short.
func (s *segment) readAt(b []byte, off int64) (err error) {
	for range attempts {
		_, err = s.file.ReadAt(b, off)
		if err == io.EOF {
			return fmt.Errorf("%s ends before byte %d: %w", s.name, off+int64(len(b)), errFormat)
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("read segment %s: %w", s.name, err)
}
