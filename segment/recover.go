package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
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
	if o.Lease < time.Second {
		return nil, fmt.Errorf("%w: --lease %s is less than a second", blob.ErrInvalid, o.Lease)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Ring{
		fsys: fsys, dir: dir, log: o.Log,
		maxSize: o.MaxSize, segmentSize: o.segmentSize, smallSize: o.smallSize,
		ledger: ledger.New(o.Lease),
		turn:   make(chan struct{}, 1),
		synced: syncer{turn: make(chan struct{}, 1)},
	}
	r.table.Store(&map[uint32]*segment{})
	for i := range r.slots {
		r.slots[i] = make(chan bool, 1)
	}
	return r, nil
}

// recover makes the ring what the listing of the directory says. The highest name that is listed stays
// until there is one above it, so that no generation is used again.
func (r *Ring) recover(ctx context.Context) error {
	found, err := r.listing()
	if err != nil {
		return err
	}
	leases := r.readLeases(found.leases)
	table := map[uint32]*segment{}
	litter := map[uint32]string{}
	for _, g := range found.segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := r.load(g, leases)
		if err != nil {
			return err
		}
		if s == nil {
			litter[g.generation] = segmentName(r.dir, g.generation)
			continue
		}
		r.order = append(r.order, s)
		table[g.generation] = s
	}
	r.table.Store(&table)
	for _, l := range found.leases {
		litter[l.generation] = leaseName(r.dir, l.generation)
	}
	highest := r.generation
	if err := r.clean(litter, highest); err != nil {
		return err
	}
	if err := r.begin(); err != nil {
		return err
	}
	if name, ok := litter[highest]; ok && r.generation > highest {
		return errors.Join(r.fsys.Remove(name), r.fsys.SyncDir(r.dir))
	}
	return nil
}

// clean removes litter. The one with the highest name only loses its bytes for now, which on a full
// disk may be what there must be room for.
func (r *Ring) clean(litter map[uint32]string, highest uint32) error {
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

// begin makes the active segment, and gives those that a crash left without a footer one.
func (r *Ring) begin() error {
	s, err := r.newSegment(r.segmentSize, false)
	switch {
	case err == nil:
		r.active = s
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), !errors.Is(err, blob.ErrFull):
		return err
	default:
		r.log.Warn("no room for new blobs until leases end", slog.Any("error", err))
	}
	for _, s := range r.order {
		if s != r.active && !s.sealed {
			if err := s.seal(); err != nil {
				return err
			}
		}
	}
	return nil
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
		r.generation = max(r.generation, f.generation)
	}
	return l, nil
}

// load reads one segment and tells the ledger what is in it. It returns nil if there is nothing.
func (r *Ring) load(g found, leases *leases) (*segment, error) {
	name := segmentName(r.dir, g.generation)
	file, err := r.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	s := newSegment(r, name, file, g.size)
	lines, err := s.recoverLines(g.generation)
	if err != nil && !errors.Is(err, errFormat) {
		return nil, errors.Join(err, file.Close())
	}
	if err != nil && !errors.Is(err, errUnwritten) {
		r.log.Warn("a segment that can't be read is removed", slog.String("segment", name), slog.Any("error", err))
	}
	for _, l := range lines {
		if l.state == complete {
			r.ledger.Restore(l.key, l.size, placeOf(s.generation, l.off), leases.has(l.key))
			s.named.Store(true)
		}
	}
	if !s.named.Load() {
		return nil, file.Close()
	}
	for _, l := range lines {
		if l.state == abandoned {
			s.punch(l)
		}
	}
	return s, nil
}

// recoverLines returns the lines of the footer, or of a scan where there is no whole footer. What is
// not known to be complete is hashed.
func (s *segment) recoverLines(generation uint32) ([]line, error) {
	b := make([]byte, firstSize)
	if err := s.readAt(b, 0); err != nil {
		return nil, err
	}
	var err error
	if s.first, err = decodeFirst(b); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	if s.generation != generation {
		return nil, fmt.Errorf("%s says that it is generation %d: %w", s.name, s.generation, errFormat)
	}
	lines, err := s.readFooter()
	if err == nil {
		s.sealed = true
	} else if !errors.Is(err, errFormat) {
		return nil, err
	} else if lines, err = s.scan(); err != nil {
		return nil, err
	}
	if err := s.verifyOpen(lines); err != nil {
		return nil, err
	}
	if !s.sealed {
		for _, l := range lines {
			e := &extent{seg: s, key: l.key, off: l.off, size: l.size}
			e.state.Store(uint32(l.state))
			s.extents = append(s.extents, e)
		}
	}
	return lines, nil
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

// readFooter returns the lines of the footer, or errFormat if there is no whole one.
func (s *segment) readFooter() ([]line, error) {
	at := s.size.Load() - trailerSize
	if at < firstSize {
		return nil, fmt.Errorf("%s has %d bytes: %w", s.name, s.size.Load(), errFormat)
	}
	t := make([]byte, trailerSize)
	if err := s.readAt(t, at); err != nil {
		return nil, err
	}
	n, sum, err := s.decodeTrailer(t, at)
	if err != nil {
		return nil, err
	}
	b, off := make([]byte, n*entrySize), at-n*entrySize
	if err := s.readAt(b, off); err != nil {
		return nil, err
	}
	if s.sum(b, off) != sum {
		return nil, fmt.Errorf("footer of %s: %w", s.name, errFormat)
	}
	lines := decodeLines(b)
	for _, l := range lines {
		if l.off < firstSize || l.size < 0 || l.size > off || l.off+span(l.size) > off {
			return nil, fmt.Errorf("footer of %s: record of %d bytes at %d: %w", s.name, l.size, l.off, errFormat)
		}
	}
	return lines, nil
}

// scan follows the headers from the first on, as far as they are whole, and sets where the footer can
// go. It never searches for a header: bytes that a client sent may look like one.
func (s *segment) scan() ([]line, error) {
	var lines []line
	b := make([]byte, headerSize)
	for s.end = firstSize; s.end+headerSize <= s.size.Load(); {
		if err := s.readAt(b, s.end); err != nil {
			return nil, err
		}
		h, err := s.decodeHeader(b, s.end)
		if err != nil || h.size > s.size.Load() || s.end+headerSize+h.size > s.size.Load() {
			break
		}
		lines = append(lines, line{key: h.key, size: h.size, off: s.end})
		s.end += span(h.size)
	}
	return lines, nil
}

// verify reads a record and says whether it is complete.
func (s *segment) verify(l line) (state, error) {
	b := make([]byte, headerSize)
	if err := s.readAt(b, l.off); err != nil {
		return abandoned, err
	}
	h, err := s.decodeHeader(b, l.off)
	if err != nil || h.key != l.key || h.size != l.size {
		return abandoned, nil
	}
	body := io.NewSectionReader(s.file, l.off+headerSize, l.size)
	if l.key.Kind == ledger.Record {
		sum := xxhash.New()
		if _, err := io.Copy(sum, body); err != nil {
			return abandoned, err
		}
		return verdict(sum.Sum64() == h.bodySum), nil
	}
	f := digest.Function(l.key.Kind)
	if !f.Valid() {
		return abandoned, nil
	}
	hash := f.NewHash()
	if _, err := io.CopyBuffer(hash, body, make([]byte, 1<<20)); err != nil {
		return abandoned, err
	}
	return verdict(bytes.Equal(hash.Sum(nil), l.key.Hash[:])), nil
}

func verdict(ok bool) state {
	if ok {
		return complete
	}
	return abandoned
}

// readAt fills b. The end of the file comes as errFormat: a crash can leave a file short.
func (s *segment) readAt(b []byte, off int64) error {
	if _, err := s.file.ReadAt(b, off); err == io.EOF {
		return fmt.Errorf("%s ends before byte %d: %w", s.name, off+int64(len(b)), errFormat)
	} else if err != nil {
		return fmt.Errorf("read segment %s: %w", s.name, err)
	}
	return nil
}
