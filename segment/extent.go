package segment

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// A segment is one file of the ring.
type segment struct {
	first
	name string // path
	file vfs.File
	ring *Ring

	// refs counts who uses the file: the ring, each Reader, each Writer. The last one closes it, and
	// only then are its bytes free.
	refs    atomic.Int32
	size    atomic.Int64 // of the file, in bytes
	punched atomic.Int64 // bytes in it that were given back to the file system
	owed    atomic.Int64 // what it is charged with after its removal, until its file is closed

	named   atomic.Bool // the ledger names something in it, or once did
	victim  atomic.Bool // being cleaned: publishes nothing more
	broken  atomic.Bool // a write failed: takes no more extents
	bad     atomic.Bool // a sync failed: publishes nothing more, gets no footer
	rescued atomic.Bool // bad, and all that the ledger named here lies elsewhere

	// What is written is durable when a sync that began after it has ended well. One sync runs at a
	// time: the kernel reports a failure once, and a second caller must not take that for success.
	writes  atomic.Int64 // counted after each write
	synced  atomic.Int64 // writes that a sync has covered
	syncing chan struct{}

	// The rest belongs to whoever holds the ring's turn.
	end     int64     // where the next extent begins
	extents []*extent // all that were handed out, until a footer lists them
	sealed  bool      // hands out no more extents

	rescueAfter time.Time // a rescue of a bad segment did not come about; not again before
	rescueShort bool      // unless there is room for it now, as there was not then
}

// An extent is a place for one record in a segment. It is handed out once.
type extent struct {
	seg   *segment
	key   ledger.Key
	off   int64 // of the header
	size  int64 // of the bytes after it
	at    uint32
	moved bool
	state atomic.Uint32
}

// place packs generation and offset. Offsets are multiples of 8, so 32 bits reach 32 GiB, and only a
// big blob's own segment is larger than a GiB, with its one record at the front.
func (e *extent) place() ledger.Place { return placeOf(e.seg.generation, e.off) }

func placeOf(generation uint32, off int64) ledger.Place {
	return ledger.Place(uint64(generation)<<32 | uint64(off/align))
}

func splitPlace(p ledger.Place) (generation uint32, off int64) {
	return uint32(p >> 32), int64(uint32(p)) * align
}

// writeAt writes p at pos of the record's bytes.
func (e *extent) writeAt(p []byte, pos int64) error {
	s := e.seg
	if _, err := s.file.WriteAt(p, e.off+headerSize+pos); err != nil {
		s.broken.Store(true)
		return fmt.Errorf("write segment %s: %w", s.name, err)
	}
	s.writes.Add(1)
	return nil
}

// writeSums writes the checksums behind a record whose bytes were streamed.
func (e *extent) writeSums(sums []uint64) error {
	if mutant.HeaderLate {
		e.writeHeader()
	}
	return e.writeAt(appendSums(nil, sums), padded(e.size))
}

// abandon ends an extent that nobody will ever read.
func (e *extent) abandon() {
	e.state.Store(uint32(abandoned))
	// After Close the directory may belong to another process, to whom an upload that is whole, though
	// it was refused here, is a blob.
	if !e.seg.ring.closed.Load() {
		e.seg.punch(e.line())
	}
	e.seg.unref()
}

// block is what file systems give back: whole ones inside a hole.
const block = 4096

// punch gives the bytes of an abandoned record back to the file system, if they are worth a system
// call. Uploads that fail must not fill the ring. A small record is verified before it is written, so
// none is abandoned but after a race.
func (s *segment) punch(l line) {
	if l.size <= s.ring.smallSize {
		return
	}
	first := (l.off + headerSize + block - 1) / block * block
	last := (l.off + headerSize + l.size) / block * block
	if last <= first {
		return
	}
	if err := s.file.Punch(first, last-first); err != nil {
		// It costs room until the segment goes, and nothing else.
		s.ring.log.Debug("punch", slog.String("segment", s.name), slog.Any("error", err))
		return
	}
	s.punched.Add(last - first)
}

// charge is what the segment counts for against the ring's limit, in bytes: its file without the
// holes, but never next to nothing, for a file also takes a descriptor and a name.
func (s *segment) charge() int64 {
	size := s.size.Load()
	return max(size-s.punched.Load(), min(size, s.ring.segmentSize/16))
}

func (e *extent) line() line {
	return line{key: e.key, size: e.size, off: e.off, state: state(e.state.Load()), moved: e.moved, at: e.at}
}

// maxLines bounds a segment's footer, which is made in memory, to 14 MiB.
const maxLines = 1 << 18

// left returns how many bytes the segment can still take, lines in the footer included.
func (s *segment) left() int64 {
	if s.sealed || s.broken.Load() || s.bad.Load() || len(s.extents) >= maxLines {
		return 0
	}
	return s.size.Load() - s.end - int64(len(s.extents))*entrySize - trailerSize
}

// room returns what a record of size bytes takes of left.
func room(size int64) int64 { return span(size) + entrySize }

// handOut returns the next extent. The caller, who holds the ring's turn, writes its header before
// anything that comes after it.
func (s *segment) handOut(req *request) *extent {
	e := &extent{seg: s, key: req.key, off: s.end, size: req.size, moved: req.moved, at: req.at}
	if e.at == 0 {
		e.at = uint32(time.Now().Unix())
	}
	s.end += span(req.size)
	s.extents = append(s.extents, e)
	s.refs.Add(1)
	return e
}

// tryRef takes a reference unless the last one is gone, with the segment or with Close.
func (s *segment) tryRef() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *segment) unref() {
	if s.refs.Add(-1) > 0 {
		return
	}
	if err := s.file.Close(); err != nil {
		s.ring.log.Warn("close", slog.String("segment", s.name), slog.Any("error", err))
	}
	if s.owed.Load() > 0 {
		s.ring.leaving.Add(-s.owed.Load())
		s.ring.wakeCleaner() // who may have waited for these bytes
	}
}

// seal writes the footer. Bytes are synced before the footer that vouches for them. Without a footer
// the segment is as good, but start-up has to hash it. The caller holds the ring's turn.
func (s *segment) seal() error {
	s.sealed = true
	if s.bad.Load() {
		return nil
	}
	lines := linesOf(s.extents) // before the sync: what is complete now is covered by it
	if mutant.SealUnsynced {
		// and go on
	} else if err := s.syncUnlessNone(); err != nil {
		return err
	}
	footer := s.encodeFooter(lines, s.end)
	total := s.end + int64(len(footer))
	if _, err := s.file.WriteAt(footer, s.end); err != nil {
		return fmt.Errorf("write footer of %s: %w", s.name, err)
	}
	if err := s.file.Truncate(total); err != nil {
		return fmt.Errorf("truncate %s: %w", s.name, err)
	}
	s.size.Store(total)
	if err := s.syncUnlessNone(); err != nil {
		return err
	}
	s.extents = nil
	return nil
}

// syncUnlessNone syncs, but for segments whose first block says that nobody does.
func (s *segment) syncUnlessNone() error {
	if s.unsynced {
		return nil
	}
	return s.sync()
}

// sync makes the segment's bytes durable. After a failure the kernel may have forgotten which pages
// it lost, so the segment is bad for good.
func (s *segment) sync() error {
	s.syncing <- struct{}{}
	defer func() { <-s.syncing }()
	if s.bad.Load() {
		return fmt.Errorf("segment %s: %w", s.name, errBadSegment)
	}
	writes := s.writes.Load()
	if mutant.EarlySynced {
		s.synced.Store(writes)
	}
	if err := s.file.Sync(); err != nil {
		s.bad.Store(!mutant.SyncAgain)
		s.ring.wakeCleaner() // to copy elsewhere what is here
		return fmt.Errorf("sync segment %s: %w", s.name, err)
	}
	s.synced.Store(writes)
	return nil
}

// dirty reports whether something was written that no sync has covered.
func (s *segment) dirty() bool { return s.synced.Load() < s.writes.Load() }

// list returns the lines of all records, of which only key and offset may be relied on. A footer that
// can't be read any more must not keep the segment from going: then the ledger says what it names there,
// which is all that matters. The caller holds the ring's turn, or s is sealed and he is the cleaner.
func (s *segment) list() []line {
	if s.extents != nil {
		return linesOf(s.extents)
	}
	var lines []line
	err := s.readFooter(func(l line) { lines = append(lines, l) })
	if err != nil {
		s.ring.log.Error("the footer is damaged; asking the ledger", slog.String("segment", s.name), slog.Any("error", err))
		lines = nil
		s.ring.ledger.Each(func(k ledger.Key, size int64, p ledger.Place, _ bool) {
			if generation, off := splitPlace(p); generation == s.generation {
				lines = append(lines, line{key: k, off: off, size: size})
			}
		})
	}
	return lines
}

func linesOf(extents []*extent) []line {
	lines := make([]line, len(extents))
	for i, e := range extents {
		lines[i] = e.line()
	}
	return lines
}

// newSegment returns a segment with one reference, the ring's.
func newSegment(r *Ring, name string, file vfs.File, size int64) *segment {
	s := &segment{ring: r, name: name, file: file, end: firstSize, syncing: make(chan struct{}, 1)}
	s.refs.Store(1)
	s.size.Store(size)
	return s
}

func segmentName(dir string, generation uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", generation, segmentExt))
}
