// Package segment is a blob.Store on one disk: a ring of append-only segments under a ledger.
//
// The ring is the listing of one directory: every <generation>.seg is in it. The active one takes new
// records, a big blob has one of its own, and when there is no room the oldest goes whole. There is no
// state file that could disagree. Blobs and records (action results) lie in the same segments.
//
// # Invariants
//
//   - Names are never reused: generations only grow, and an extent is handed out once.
//   - Bytes first, then the ledger: a record is published only when its bytes are written and
//     verified, and condemned before its segment is removed (TestSeeded, TestSeededLife).
//   - RingIsDisk: a segment is in the ring if and only if its file exists; the active one is never
//     evicted.
//   - Position is order: updates of one record hold the key's slot from extent to publication, so the
//     last one on disk is the newest.
//
// # Concurrency
//
// One goroutine at a time holds the ring's turn, a channel; it hands out extents, appends what is
// queued in one write, seals, rotates and evicts. A key's slot is a channel too. Both are held across
// I/O; a slot's holder may wait for the turn, never the other way round. Mutexes guard memory only.
//
// # Crashes
//
// A sealed segment ends in a footer, written after its bytes were synced. Start-up reads footers,
// and hashes what a footer calls open and what lies in a segment without one. Blobs are acknowledged
// when they are written; a record only after it and everything written before it is synced.
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
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// The bounds of a segment's size. Smaller ones would make many files of a large ring, larger ones
// would evict too much at once.
const (
	minSegment = 16 << 20
	maxSegment = 1 << 30
	// segments is how many of them a ring of middling size has.
	segments = 64
)

// MinSize is the smallest ring: four segments, so that evicting one leaves most of it.
const MinSize = 4 * minSegment

// ErrLocked is returned by Open if another process has the directory.
var ErrLocked = vfs.ErrLocked

// Options say how large a ring is and how long its yes holds.
type Options struct {
	MaxSize int64         // bytes on disk, at least MinSize
	Lease   time.Duration // how long a blob that was reported present stays readable
	Log     *slog.Logger

	// Tests make small rings; 0 is what a server has.
	segmentSize, smallSize int64
}

// A Ring is a blob.Store, blob.Batcher and blob.Records in one directory.
type Ring struct {
	fsys        vfs.FS
	dir         string
	log         *slog.Logger
	maxSize     int64
	segmentSize int64
	smallSize   int64
	ledger      *ledger.Ledger
	lock        io.Closer

	turn  chan struct{}        // held by whoever acts as the ring's owner
	slots [slotCount]chan bool // held by whoever changes a record of that slot
	table atomic.Pointer[map[uint32]*segment]
	// leaving is what removed segments are charged with that somebody still reads or writes.
	leaving atomic.Int64

	closed atomic.Bool // no extent is handed out any more, nothing published

	mu     sync.Mutex
	queue  []*batch
	synced syncer

	// The rest belongs to whoever holds the turn.
	order      []*segment // oldest first, the active one included
	active     *segment   // nil if there was no room for one
	generation uint32     // the highest that was ever used here

	evicted atomic.Int64
}

const slotCount = 1024

var (
	_ blob.Batcher = (*Ring)(nil)
	_ blob.Records = (*Ring)(nil)
)

// Stats is what a ring holds now.
type Stats struct {
	Blobs           int   `json:"blobs"`
	Records         int   `json:"records"`
	Pins            int   `json:"pins"`
	Segments        int   `json:"segments"`
	SegmentBytes    int64 `json:"segment_bytes"`
	UsedBytes       int64 `json:"used_bytes"`
	MaxBytes        int64 `json:"max_bytes"`
	EvictedSegments int64 `json:"evicted_segments"`
}

// Stats returns what the ring holds now.
func (r *Ring) Stats() Stats {
	blobs, records, pins := r.ledger.Counts()
	return Stats{
		Blobs: blobs, Records: records, Pins: pins,
		Segments:        len(*r.table.Load()),
		SegmentBytes:    r.segmentSize,
		UsedBytes:       r.used(),
		MaxBytes:        r.maxSize,
		EvictedSegments: r.evicted.Load(),
	}
}

// used returns how many bytes count against the ring's limit.
func (r *Ring) used() int64 {
	used := r.leaving.Load()
	for _, s := range *r.table.Load() {
		used += s.charge()
	}
	return used
}

// MaxBlobSize returns the size of the largest blob that the ring can ever hold, in bytes: it needs a
// segment of its own beside the active one.
func (r *Ring) MaxBlobSize() int64 { return r.maxSize - r.segmentSize - ownOverhead }

// ownOverhead is what a blob's own segment takes beside the blob.
const ownOverhead = firstSize + headerSize + align + entrySize + trailerSize

// Missing implements blob.Store.
func (r *Ring) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	var missing digest.Set
	for _, d := range ds.List() {
		if !d.IsEmpty() && !r.ledger.Lease(keyOf(d), d.Size) {
			missing.Add(d)
		}
	}
	if err := r.standing(); err != nil {
		return digest.Set{}, err
	}
	return missing, ctx.Err()
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
	return w, nil
}

func (r *Ring) mayCreate(d digest.Digest) error {
	if d.Size < 0 || !d.Function.Valid() {
		return fmt.Errorf("%w: a blob needs a size and a known digest function", blob.ErrInvalid)
	}
	if d.Size > r.MaxBlobSize() {
		return fmt.Errorf("%w, which is %s with --max-size %s", blob.ErrTooLarge, humanize.IBytes(uint64(r.MaxBlobSize())), humanize.IBytes(uint64(r.maxSize)))
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
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	var errs []error
	for _, s := range r.order {
		if !s.sealed {
			errs = append(errs, s.seal())
		} else if s.dirty() {
			errs = append(errs, s.sync())
		}
	}
	r.active = nil
	errs = append(errs, r.writeLeases())
	for _, s := range r.order {
		s.unref()
	}
	r.order = nil
	return errors.Join(append(errs, r.lock.Close())...)
}
