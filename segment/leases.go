package segment

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/offheap"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// A lease outlives the process. What was written since a lease log was begun is leased because of where
// it lies: the log says from which segment on. Every other yes that opens a new quarter appends eight
// bytes of the key to the log before it is given. A log serves one quarter at least, and is removed when
// nothing that it names can be leased any more.
//
// The log is never synced. Its header names the run of the machine; start-up in another run, after which
// the end of the log may be missing, leases everything: too much, never too little. So it does when a
// log is damaged.
const (
	segmentExt = ".seg"
	leaseExt   = ".leases"

	leaseMagic      = "SARSENl2"
	leaseHeaderSize = 64
	chunkHeaderSize = 16

	// maxLogs is how many logs there are at once: one for each quarter in which something may be leased,
	// one that was carried over, and one that is being removed.
	maxLogs = ledger.Span + 3

	flagClean = 1 // of a log: the process ended well, and this is all that was leased
	flagAll   = 1 // of a chunk: everything is leased
)

// A leaseLog is where yeses are written down.
type leaseLog struct {
	ring *Ring
	// bytes is the size of all logs, which counts against the ring's limit.
	bytes atomic.Int64
	// since is the generation from which on segments are leased by the log in use.
	since atomic.Uint32

	turn chan struct{} // held by whoever writes
	mu   sync.Mutex
	next *chunk // what has not begun to be written, if somebody waits for it

	// The rest belongs to whoever holds the turn.
	closed  bool
	file    vfs.File
	quarter ledger.Quarter // in which file was begun
	off     int64
	all     bool // the log in use says that everything is leased
	current oldLog
	old     []oldLog
}

// An oldLog is a log that is kept for what it names.
type oldLog struct {
	name  string
	bytes int64
	until ledger.Quarter // the last in which something that it names may be leased
}

// A chunk is the tags of several callers, written at once.
type chunk struct {
	tags []uint64
	done chan struct{}
	err  error
}

func newLeaseLog(r *Ring) *leaseLog {
	l := &leaseLog{ring: r, turn: make(chan struct{}, 1)}
	l.since.Store(everySegment) // while there is no log, nothing is recorded by where it lies
	return l
}

func leaseName(dir string, generation uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", generation, leaseExt))
}

// append writes tags down. When it returns nil, a process that is killed has still said so.
func (l *leaseLog) append(tags []uint64) error {
	if len(tags) == 0 || mutant.LeaseUnlogged {
		return nil
	}
	l.mu.Lock()
	if l.next == nil {
		l.next = &chunk{done: make(chan struct{})}
	}
	mine := l.next
	mine.tags = append(mine.tags, tags...)
	l.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case l.turn <- struct{}{}:
	}
	defer func() { <-l.turn }()
	l.mu.Lock()
	begin := l.next == mine
	if begin {
		l.next = nil
	}
	l.mu.Unlock()
	if begin {
		mine.err = l.write(mine.tags)
		close(mine.done)
	}
	<-mine.done // ended before the turn was free, if it was not ours to begin
	return mine.err
}

// write appends one chunk, to the next log if the quarter is over. The caller holds the turn.
func (l *leaseLog) write(tags []uint64) error {
	if l.closed {
		return blob.ErrClosed
	}
	if now := l.ring.ledger.Now(); l.file == nil || now > l.quarter {
		if err := l.begin(now); err != nil {
			return err
		}
	}
	return l.put(tags, false)
}

// begin makes the next log and removes those whose time has passed.
func (l *leaseLog) begin(now ledger.Quarter) error {
	since := l.ring.activeGeneration.Load()
	name, file, err := l.create(since)
	if err != nil {
		return err
	}
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			l.ring.log.Warn("close", slog.String("file", l.current.name), slog.Any("error", err))
		}
		// What was published just now may have been stamped a moment later, in the next quarter.
		l.current.until, l.current.bytes = now+ledger.Span+1, l.off
		l.old = append(l.old, l.current)
	}
	l.file, l.quarter, l.off, l.all, l.current = file, now, leaseHeaderSize, false, oldLog{name: name}
	l.since.Store(since)
	l.expire(now)
	return nil
}

// create makes a log that leases the segments from since on.
func (l *leaseLog) create(since uint32) (string, vfs.File, error) {
	name, h, file, err := l.newFile(since)
	if err != nil {
		return "", nil, err
	}
	if _, err := file.WriteAt(h.encode(), 0); err != nil {
		return "", nil, errors.Join(err, file.Close(), l.ring.fsys.Remove(name))
	}
	l.bytes.Add(leaseHeaderSize)
	return name, file, nil
}

func (l *leaseLog) newFile(since uint32) (string, leaseHeader, vfs.File, error) {
	r := l.ring
	h := leaseHeader{generation: r.generation.Add(1), since: since, boot: bootSum(r.fsys)}
	name := leaseName(r.dir, h.generation)
	file, err := r.fsys.Create(name, 0)
	return name, h, file, err
}

// expire removes the logs whose time has passed. If the removal is undone by a crash, too much is leased.
func (l *leaseLog) expire(now ledger.Quarter) {
	kept := l.old[:0]
	for _, o := range l.old {
		if now <= o.until {
			kept = append(kept, o)
		} else if err := l.ring.fsys.Remove(o.name); err != nil {
			l.ring.log.Warn("remove", slog.String("file", o.name), slog.Any("error", err))
		} else {
			l.bytes.Add(-o.bytes)
		}
	}
	l.old = kept
}

// put appends one chunk to the log in use. Where that would become too long, the log says that everything
// is leased instead.
func (l *leaseLog) put(tags []uint64, all bool) error {
	if l.all {
		return nil
	}
	if all = all || l.off+int64(8*len(tags)) > l.ring.leaseRoom()/maxLogs; all {
		tags = nil
	}
	b := encodeChunk(tags, all, l.off)
	if _, err := l.file.WriteAt(b, l.off); err != nil {
		return fmt.Errorf("write lease log: %w", err)
	}
	l.off += int64(len(b))
	l.bytes.Add(int64(len(b)))
	l.all = all
	return nil
}

// carry begins the first log of this process, which says what the last one's said, and removes those. If
// it can't, they are kept for as long as what they name may be leased.
func (l *leaseLog) carry(was *leased, files []found) error {
	r := l.ring
	now := r.ledger.Now()
	for _, f := range files {
		l.bytes.Add(f.size)
		l.old = append(l.old, oldLog{leaseName(r.dir, f.generation), f.size, now + ledger.Span + 1})
	}
	since := min(was.since, r.activeGeneration.Load())
	name, file, err := l.create(since)
	if err != nil {
		return err
	}
	l.file, l.quarter, l.off, l.current = file, now, leaseHeaderSize, oldLog{name: name}
	if was.all || len(was.tags) > 0 {
		err = l.put(was.tags, was.all)
	}
	if err == nil {
		err = r.fsys.SyncDir(r.dir) // or a power cut may leave the older one as the newest
	}
	if err != nil {
		l.file = nil
		return errors.Join(err, file.Close(), r.fsys.Remove(name))
	}
	l.since.Store(since)
	for len(l.old) > 0 && err == nil {
		o := l.old[0]
		if err = r.fsys.Remove(o.name); err == nil {
			l.bytes.Add(-o.bytes)
			l.old = l.old[1:]
		}
	}
	return err
}

// close writes down exactly what is leased, durably, in a log that makes all others obsolete.
func (l *leaseLog) close() error {
	r := l.ring
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.closed = true
	var tags []uint64
	r.ledger.Each(func(k ledger.Key, _ int64, _ ledger.Place, leased bool) {
		if leased {
			tags = append(tags, k.Tag())
		}
	})
	_, h, file, err := l.newFile(everySegment)
	if err != nil {
		return err
	}
	// The header says that this is all that was leased, so it comes when that is there.
	_, err = file.WriteAt(encodeChunk(tags, false, leaseHeaderSize), leaseHeaderSize)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		h.clean = true
		_, err = file.WriteAt(h.encode(), 0)
	}
	if err = errors.Join(err, file.Sync(), file.Close(), r.fsys.SyncDir(r.dir)); err != nil {
		return err
	}
	if l.file != nil {
		err = errors.Join(l.file.Close(), r.fsys.Remove(l.current.name))
	}
	for _, o := range l.old {
		err = errors.Join(err, r.fsys.Remove(o.name))
	}
	l.file, l.old = nil, nil
	return errors.Join(err, r.fsys.SyncDir(r.dir))
}

// everySegment is above every generation: a log with this since leases nothing by place.
const everySegment = 1<<32 - 1

// A leaseHeader is the first bytes of a log.
type leaseHeader struct {
	generation, since uint32
	clean             bool
	boot              uint64 // which run of the machine
}

func bootSum(fsys vfs.FS) uint64 { return xxh3.HashString(fsys.Boot()) }

func (h leaseHeader) encode() []byte {
	b := make([]byte, leaseHeaderSize)
	copy(b, leaseMagic)
	le.PutUint32(b[8:], h.generation)
	if h.clean {
		le.PutUint32(b[12:], flagClean)
	}
	le.PutUint32(b[16:], h.since)
	le.PutUint64(b[24:], h.boot)
	le.PutUint64(b[56:], xxh3.Hash(b[:56]))
	return b
}

func decodeLeaseHeader(b []byte) (leaseHeader, error) {
	if len(b) < leaseHeaderSize || string(b[:8]) != leaseMagic || le.Uint64(b[56:]) != xxh3.Hash(b[:56]) {
		return leaseHeader{}, fmt.Errorf("lease log header: %w", errFormat)
	}
	return leaseHeader{le.Uint32(b[8:]), le.Uint32(b[16:]), le.Uint32(b[12:])&flagClean != 0, le.Uint64(b[24:])}, nil
}

// encodeChunk returns the chunk that lies at off.
func encodeChunk(tags []uint64, all bool, off int64) []byte {
	b := make([]byte, chunkHeaderSize, chunkHeaderSize+8*len(tags))
	le.PutUint32(b, uint32(len(tags)))
	if all {
		le.PutUint32(b[4:], flagAll)
	}
	b = appendSums(b, tags)
	le.PutUint64(b[8:], chunkSum(b, off))
	return b
}

// chunkSum covers the count, the flags, the tags and where they lie.
func chunkSum(b []byte, off int64) uint64 {
	h := xxh3.NewSeed(uint64(off))
	_, _ = h.Write(b[:8]) // never fails
	_, _ = h.Write(b[chunkHeaderSize:])
	return h.Sum64()
}

// leased is what the last process's logs say.
type leased struct {
	all   bool
	since uint32
	tags  []uint64
	set   []byte // words of bits for tags, off the heap: a false match leases one too many
}

// has reports whether what lies in a segment of that generation is to be leased.
func (l *leased) has(n *line, generation uint32) bool {
	if l.all || generation >= l.since && !n.moved {
		return true
	}
	if len(l.set) == 0 {
		return false
	}
	word, mask := l.bits(n.key.Tag())
	return le.Uint64(l.set[word:])&mask == mask
}

// bits returns where a tag's word is in set, and its two bits there: in one word, so that memory is waited for once.
func (l *leased) bits(tag uint64) (word, mask uint64) {
	word, _ = bits.Mul64(tag, uint64(len(l.set)/8))
	return 8 * word, 1<<(tag&63) | 1<<(tag>>6&63)
}

// index makes set, of sixteen bits a tag.
func (l *leased) index() {
	l.set = offheap.Allocate(8 * (len(l.tags)/4 + 1))
	for _, tag := range l.tags {
		word, mask := l.bits(tag)
		le.PutUint64(l.set[word:], le.Uint64(l.set[word:])|mask)
	}
}

// release gives the memory back. Nothing is asked of l after it.
func (l *leased) release() { offheap.Release(l.set) }

// readLeases returns what the logs say, and whether the machine was started again since the newest. A
// clean log that is newer than everything else is the only one that counts.
func (r *Ring) readLeases(l listing) (was *leased, restarted bool) {
	if n := len(l.leases); n > 0 && l.leases[n-1].generation == r.generation.Load() {
		was = &leased{since: everySegment}
		if h, err := r.readLeaseLog(l.leases[n-1], was); err == nil && h.clean && l.leases[n-1].size > leaseHeaderSize {
			was.index()
			return was, !r.sameBoot(h)
		}
	}
	was = &leased{since: everySegment, all: len(l.leases) == 0}
	restarted = was.all
	for _, f := range l.leases {
		h, err := r.readLeaseLog(f, was)
		if err != nil {
			r.log.Warn("everything is leased anew", slog.String("file", leaseName(r.dir, f.generation)), slog.Any("error", err))
		}
		restarted = restarted || !r.sameBoot(h)
		was.all = was.all || err != nil || restarted
		was.since = min(was.since, h.since)
	}
	was.index()
	return was, restarted
}

func (r *Ring) sameBoot(h leaseHeader) bool { return r.fsys.Boot() != "" && h.boot == bootSum(r.fsys) }

// readLeaseLog adds what one log says to was.
func (r *Ring) readLeaseLog(f found, was *leased) (leaseHeader, error) {
	file, err := r.fsys.Open(leaseName(r.dir, f.generation))
	if err != nil {
		return leaseHeader{}, err
	}
	defer file.Close()
	b := make([]byte, f.size)
	if _, err := file.ReadAt(b, 0); err != nil && err != io.EOF {
		return leaseHeader{}, err
	}
	h, err := decodeLeaseHeader(b)
	if err != nil {
		return h, err
	}
	return h, was.decode(b)
}

// decode adds the chunks of a log. One that was cut short was never acknowledged, but can't be told from
// one that was damaged.
func (l *leased) decode(b []byte) error {
	l.tags = slices.Grow(l.tags, len(b)/8)
	for off := leaseHeaderSize; off < len(b); {
		c := b[off:]
		if len(c) < chunkHeaderSize {
			return fmt.Errorf("lease log at %d: %w", off, errFormat)
		}
		n := int(le.Uint32(c))
		if n > (len(c)-chunkHeaderSize)/8 || le.Uint64(c[8:]) != chunkSum(c[:chunkHeaderSize+8*n], int64(off)) {
			return fmt.Errorf("lease log at %d: %w", off, errFormat)
		}
		c = c[:chunkHeaderSize+8*n]
		l.all = l.all || le.Uint32(c[4:])&flagAll != 0
		l.tags = append(l.tags, decodeSums(c[chunkHeaderSize:])...)
		off += len(c)
	}
	return nil
}
