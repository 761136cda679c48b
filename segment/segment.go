// Package segment is a blob.Store on one disk: a ring of append-only segments under a ledger.
//
// The ring is the listing of one directory: every <generation>.seg is in it. The active one takes new
// records, a big blob has one of its own, and when there is no room the oldest goes whole. There is no
// state file that could disagree. Blobs, records (action results) and roots lie in the same segments.
//
// # Invariants
//
//   - Names are never reused: generations only grow, and an extent is handed out once.
//   - Bytes first, then the ledger: a record is published only when its bytes are written and
//     verified, and condemned before its segment is removed (TestSeeded, TestSeededLife).
//   - RingIsDisk: a segment is in the ring if and only if its file exists; the active one is never
//     evicted.
//   - Copies first: what is moved is on the disk before the ledger names it there, and its old segment
//     goes after that.
//   - Position is order: updates of one record hold the key's slot from extent to publication, so the
//     last one on disk is the newest.
//
// # Concurrency
//
// One goroutine at a time holds the ring's turn, a channel; it hands out extents, appends what is
// queued in one write, seals and rotates. One goroutine, the cleaner, makes room; it takes the turn for
// each write and removal. A key's slot is a channel too. All are held across I/O; a slot's holder may
// wait for the turn, never the other way round, and never for the cleaner, who takes slots. Mutexes guard
// memory only.
//
// # Crashes
//
// A sealed segment ends in a footer, written after its bytes were synced. Start-up reads footers,
// and hashes what a footer calls open and what lies in a segment without one; then it keeps what roots
// name. When blobs and records are
// synced before they are acknowledged is said by Durability. Leases are written down (leases.go).
package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// The bounds of a segment's size. Smaller ones would make many files of a large ring, larger ones
// would evict too much at once.
const (
	minSegment = 4 << 20
	maxSegment = 1 << 30
	// segments is how many of them a ring of middling size has, minSegments how many the smallest.
	segments    = 64
	minSegments = 6
)

// MinSize is the smallest ring, in bytes.
const MinSize = 64 << 20

// ErrLocked is returned by Open if another process has the directory.
var ErrLocked = vfs.ErrLocked

// A Durability says what is synced to the disk before it is acknowledged.
type Durability string

// The durabilities. After a kill nothing acknowledged is lost with any of them; they differ in what a
// power cut may take.
const (
	Group Durability = "group" // results, after all blobs before them; blobs are acknowledged when written
	Sync  Durability = "sync"  // every blob and every result
	None  Durability = "none"  // nothing; start-up after a power cut hashes everything
)

// Options say how large a ring is and how long its yes holds.
type Options struct {
	MaxSize    int64         // bytes on disk, at least MinSize
	Lease      time.Duration // how long a blob that was reported present stays readable
	Durability Durability    // "" is Group
	Log        *slog.Logger

	// Tests make small rings; 0 is what a server has. A negative tick is none.
	segmentSize, smallSize int64
	tick                   time.Duration
}

// A Ring is a blob.Store, blob.Batcher, blob.Records and blob.Keeper in one directory.
type Ring struct {
	fsys        vfs.FS
	dir         string
	log         *slog.Logger
	lease       time.Duration
	durability  Durability
	segmentSize int64
	smallSize   int64
	tick        time.Duration
	ledger      *ledger.Ledger
	lock        io.Closer
	leases      *leaseLog
	roots       names

	maxSize atomic.Int64
	limit   atomic.Int64 // maxSize, or less where the disk is nearly full

	turn  chan struct{}   // held by whoever acts as the ring's owner
	broom chan struct{}   // held by whoever cleans
	slots [slotCount]slot // held by whoever changes a record of that slot
	table atomic.Pointer[map[uint32]*segment]
	// leaving is what removed segments are charged with that somebody still reads or writes.
	leaving          atomic.Int64
	generation       atomic.Uint32 // the highest that was ever used here
	activeGeneration atomic.Uint32

	closed     atomic.Bool // no extent is handed out any more, nothing published
	wake, stop chan struct{}
	cleaned    chan struct{} // closed when the cleaner has gone
	scrubbed   chan struct{} // closed when the scrubber has gone
	evicted    atomic.Int64  // segments
	refused    atomic.Int64  // writes, for want of room
	damaged    atomic.Int64  // records that did not verify

	mu     sync.Mutex
	queue  []*batch
	synced syncer

	// The rest belongs to whoever holds the turn.
	order     []*segment // oldest first, the active one included
	active    *segment   // nil if there was no room for one
	waiting   []*batch   // for room
	buf       []byte     // of the appender, kept from one to the next
	headroom  int64      // bytes that segments may still be made of
	loan      int64      // bytes that the cleaner may take beyond that
	diskFree  int64
	quota     int64          // bytes in use when the system last said that there was no room for more
	quotaAt   time.Time      // when that was
	nameOwed  bool           // a removal could not be synced
	removed   time.Time      // when the last segment was
	served    int            // extents that uploaders and putters got
	looked    int            // segments that were cleaned one after another without gain
	fullUntil ledger.Quarter // no room is to be expected before this one
	fullPins  int            // that were held when that was found
	fullWhy   error
}

const slotCount = 1024

var (
	_ blob.Batcher = (*Ring)(nil)
	_ blob.Records = (*Ring)(nil)
	_ blob.Keeper  = (*Ring)(nil)
)

// Stats is what a ring holds now.
type Stats struct {
	Blobs           int   `json:"blobs"`
	Records         int   `json:"records"`
	Pins            int   `json:"pins"`
	Segments        int   `json:"segments"`
	SegmentBytes    int64 `json:"segment_bytes"`
	UsedBytes       int64 `json:"used_bytes"`
	MaxBytes        int64 `json:"max_bytes"`    // as set
	LimitBytes      int64 `json:"limit_bytes"`  // less than that where the disk is nearly full
	LeasedBytes     int64 `json:"leased_bytes"` // but not kept
	Roots           int   `json:"roots"`
	KeptBytes       int64 `json:"kept_bytes"` // by roots
	EvictedSegments int64 `json:"evicted_segments"`
	RefusedWrites   int64 `json:"refused_writes"`  // for want of room
	DamagedRecords  int64 `json:"damaged_records"` // that did not verify
}

// Stats returns what the ring holds now.
func (r *Ring) Stats() Stats {
	blobs, records, pins := r.ledger.Counts()
	_, leased := r.ledger.Leased()
	_, kept := r.ledger.Kept()
	return Stats{
		Blobs: blobs, Records: records, Pins: pins,
		Segments:        len(*r.table.Load()),
		SegmentBytes:    r.segmentSize,
		UsedBytes:       r.used(),
		MaxBytes:        r.maxSize.Load(),
		LimitBytes:      r.limit.Load(),
		LeasedBytes:     leased,
		Roots:           r.roots.len(),
		KeptBytes:       kept,
		EvictedSegments: r.evicted.Load(),
		RefusedWrites:   r.refused.Load(),
		DamagedRecords:  r.damaged.Load(),
	}
}

// MaxBlobSize returns the size of the largest blob that the ring can ever hold, in bytes: it needs a
// segment of its own beside the active one and what is the cleaner's, and its checksums.
func (r *Ring) MaxBlobSize() int64 {
	n := r.maxSize.Load() - r.segmentSize - r.reserve() - r.leaseRoom() - ownOverhead - headerSize
	return n - n/(blockSize/8)
}

// ownOverhead is what a blob's own segment takes beside the record.
const ownOverhead = firstSize + entrySize + trailerSize

// Missing implements blob.Store.
func (r *Ring) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	var missing digest.Set
	var due dues
	for _, d := range ds.List() {
		if d.IsEmpty() {
			continue
		}
		if ok, quarter := r.ledger.Lease(keyOf(d), d.Size); !ok {
			missing.Add(d)
		} else if quarter != 0 {
			due.add(d, quarter)
		}
	}
	if err := r.writeDown(&due); err != nil {
		// No yes that a restart would forget.
		r.log.Error("blobs are called missing that are there", slog.Int("blobs", len(due.digests)), slog.Any("error", err))
		for _, d := range due.digests {
			missing.Add(d)
		}
	}
	if err := r.standing(); err != nil {
		return digest.Set{}, err
	}
	return missing, ctx.Err()
}

// dues are leases that are to be written down before a yes is given.
type dues struct {
	digests  []digest.Digest
	quarters []ledger.Quarter
	tags     []uint64
}

func (u *dues) add(d digest.Digest, quarter ledger.Quarter) {
	u.digests = append(u.digests, d)
	u.quarters = append(u.quarters, quarter)
	u.tags = append(u.tags, keyOf(d).Tag())
}

func (r *Ring) writeDown(u *dues) error {
	if err := r.leases.append(u.tags); err != nil {
		return err
	}
	if len(u.digests) > 0 {
		sim.Point("leases written down")
	}
	for i, d := range u.digests {
		r.ledger.Recorded(keyOf(d), u.quarters[i])
	}
	return nil
}

// writeDownOne is writeDown for what was just published, or lost to what was there.
func (r *Ring) writeDownOne(k ledger.Key, due ledger.Quarter) error {
	if due == 0 {
		return nil
	}
	if err := r.leases.append([]uint64{k.Tag()}); err != nil {
		return err
	}
	r.ledger.Recorded(k, due)
	return nil
}

func keyOf(d digest.Digest) ledger.Key {
	return ledger.Key{Kind: ledger.Kind(d.Function), Hash: d.Hash}
}

// Open implements blob.Store.
func (r *Ring) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d.IsEmpty() {
		return emptyReader{}, nil
	}
	rd, err := r.open(keyOf(d), d.Size)
	if err != nil {
		return nil, &blob.Error{Op: "open", Digest: d, Err: err}
	}
	return rd, nil
}

// Create implements blob.Store.
func (r *Ring) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	if err := r.mayCreate(d); err != nil {
		return nil, &blob.Error{Op: "create", Digest: d, Err: err}
	}
	w := &writer{ring: r, want: d}
	if d.Size <= r.smallSize {
		return w, nil
	}
	w.hash = d.Function.NewHash()
	if pin, ok := r.ledger.Pin(keyOf(d), d.Size, func(ledger.Place, int64) {}); ok {
		w.winner = &pin // the bytes are still verified, but written nowhere
		return w, nil
	}
	req := &request{key: keyOf(d), size: d.Size}
	if err := r.append(req); err != nil {
		return nil, &blob.Error{Op: "create", Digest: d, Err: err}
	}
	w.extent = req.extent
	w.sums = w.extent.seg.newSummer(w.extent.off)
	return w, nil
}

func (r *Ring) mayCreate(d digest.Digest) error {
	if d.Size < 0 || !d.Function.Valid() {
		return fmt.Errorf("%w: a blob needs a size and a known digest function", blob.ErrInvalid)
	}
	if d.Size > r.MaxBlobSize() {
		return fmt.Errorf("%w, which is %s with --max-size %s", blob.ErrTooLarge, humanize.IBytes(uint64(r.MaxBlobSize())), humanize.IBytes(uint64(r.maxSize.Load())))
	}
	if have, ok := r.ledger.SizeOf(keyOf(d)); ok && have != d.Size {
		return fmt.Errorf("%w: the blob with that hash has %d bytes", blob.ErrMismatch, have)
	}
	return nil
}

// Close seals the active segment, syncs, and lets go of the directory. Calls that are under way fail
// with blob.ErrClosed; open Readers stay readable.
func (r *Ring) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	close(r.stop)
	<-r.cleaned
	<-r.scrubbed
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.refuseWaiting(blob.ErrClosed)
	var errs []error
	for _, s := range r.order {
		if s.bad.Load() && !s.rescued.Load() {
			errs = append(errs, fmt.Errorf("segment %s: %w", s.name, errBadSegment))
		} else if !s.sealed {
			errs = append(errs, s.seal())
		} else if s.dirty() && !s.unsynced && !s.bad.Load() {
			errs = append(errs, s.sync())
		}
	}
	r.active = nil
	errs = append(errs, r.leases.close())
	for _, s := range r.order {
		s.unref()
	}
	r.order = nil
	return errors.Join(append(errs, r.lock.Close())...)
}
