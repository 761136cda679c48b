// Package files is a blob.Store on linkable files: the ledger plus one directory.
//
// Each blob is one immutable file, which workers hard-link into the trees that actions see. An executable
// blob is a file of its own, so that no permission of a shared inode ever changes.
//
// The directory holds <hash>-<size>[-<function>][-x].<incarnation> for each blob (SHA-256 is not named),
// part.<incarnation> for what is being written, and format, which says what the names mean.
//
// # Invariants
//
//   - Names are never reused: the incarnation counts up in each run, above the number of the run, which
//     counts up in format.
//   - Bytes first, then the ledger: a blob is written as a private file, verified, given its mode, named,
//     and then published. It leaves the ledger before its file goes.
//   - First wins: who publishes second removes his own file.
//   - OpenHolds: Open and Link pin the blob from the lookup until they are through.
//   - What has a name is never written to, and keeps its mode and times: 0444, or 0555 for executables.
//   - Bounded: the blocks of all files, and of those that are being written, are at most MaxSize. Links that
//     others still hold to what was evicted are theirs.
//
// That nobody writes through a link is the duty of whoever runs actions: the owner of a file may change
// its mode. GetAll hashes what it reads; Open and Link do not.
//
// # Concurrency
//
// One goroutine, the cleaner, evicts. It goes round as a clock: what was used since the last look stays
// for a turn, so that about the least recently used goes first; what is pinned or leased always stays.
// Writers wait for it only when there is no room. Mutexes guard memory only.
//
// This process may hold descriptors of executables for writing while they are made, so it must not fork:
// the child would hold them too, and running them would fail with ETXTBSY (golang.org/issue/22315).
// Actions are run by another process.
//
// # Crashes
//
// This is a cache of what a server has: nothing is synced and no lease outlives the process. After a
// kill every named file is whole, and private ones are removed. After a power cut, which another
// boot number shows (vfs.FS.Boot), or in another format, everything is removed.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/gate"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// ErrLocked is returned by Open if another process has the directory.
var ErrLocked = vfs.ErrLocked

// Options say how large a store is and how long its yes holds.
type Options struct {
	MaxSize int64 // bytes on disk, in whole blocks of 4 KiB
	// Lease is how long a blob that was reported present stays. Leased blobs can't be evicted, so that a
	// long lease makes a small store full. 0 is a minute.
	Lease time.Duration
	Log   *slog.Logger
}

// A Store is a blob.Batcher on linkable files.
type Store struct {
	fsys   vfs.LinkFS
	name   string
	dir    vfs.Dir
	lock   io.Closer
	log    *slog.Logger
	ledger *ledger.Ledger
	room   *room
	calls  gate.Gate

	incarnation atomic.Uint64
	wake, stop  chan struct{}
	cleaned     chan struct{} // closed when the cleaner has gone
	broom       chan struct{} // held by whoever cleans

	counts counts
}

type counts struct {
	evicted, corrupt, linked, reflinked, copied atomic.Int64
}

// Stats are what a Store has and did.
type Stats struct {
	Blobs, Pins   int   // executables are blobs of their own
	Bytes         int64 // of the disk, what is being written included
	Evicted       int64 // blobs
	Corrupt       int64 // blobs whose file was gone or had other bytes
	Linked        int64 // by Link, as hard links
	Cloned        int64 // by Link, as reflinks
	Copied        int64 // by Link, as copies
	MaxSize, Free int64 // bytes
}

// Open opens the store in dir, which it makes if need be, on the operating system's files. Another
// process that has it is ErrLocked.
func Open(dir string, o Options) (*Store, error) {
	return open(vfs.OS{}, dir, o)
}

func open(fsys vfs.LinkFS, dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Lease == 0 {
		o.Lease = time.Minute
	}
	if o.MaxSize <= 0 {
		return nil, fmt.Errorf("%w: the file store needs a size", blob.ErrInvalid)
	}
	if err := fsys.MakeDir(dir); err != nil {
		return nil, err
	}
	lock, err := fsys.Lock(dir)
	if err != nil {
		return nil, err
	}
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Store{
		fsys: fsys, name: dir, dir: d, lock: lock, log: o.Log,
		ledger: ledger.New(o.Lease),
		room:   newRoom(o.MaxSize),
		wake:   make(chan struct{}, 1), stop: make(chan struct{}), cleaned: make(chan struct{}),
		broom: make(chan struct{}, 1),
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), d.Close(), lock.Close())
	}
	go s.clean()
	return s, nil
}

// Close ends the cleaner and lets go of the directory. Calls that are under way end first; open Readers
// stay readable.
func (s *Store) Close() error {
	idle, first := s.calls.Close()
	if !first {
		return nil
	}
	close(s.stop)
	<-s.cleaned
	<-idle
	return errors.Join(s.dir.Close(), s.lock.Close())
}

// Stats returns what the store has and did.
func (s *Store) Stats() Stats {
	blobs, _, pins := s.ledger.Counts()
	used := s.room.inUse()
	return Stats{
		Blobs: blobs, Pins: pins, Bytes: used,
		Evicted: s.counts.evicted.Load(), Corrupt: s.counts.corrupt.Load(),
		Linked: s.counts.linked.Load(), Cloned: s.counts.reflinked.Load(), Copied: s.counts.copied.Load(),
		MaxSize: s.room.max, Free: s.room.max - used,
	}
}

// Missing implements blob.Store.
func (s *Store) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	var missing digest.Set
	if !s.calls.Enter() {
		return missing, blob.ErrClosed
	}
	defer s.calls.Leave()
	for _, d := range ds.List() {
		if err := ctx.Err(); err != nil {
			return missing, err
		}
		if d.IsEmpty() {
			continue
		}
		// No lease outlives the process, so none is ever written down.
		if ok, _ := s.ledger.Lease(keyOf(d, false), d.Size); !ok {
			missing.Add(d)
		}
	}
	return missing, nil
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d.IsEmpty() {
		return emptyReader{}, nil
	}
	if !s.calls.Enter() {
		return nil, &blob.Error{Op: "open", Digest: d, Err: blob.ErrClosed}
	}
	defer s.calls.Leave()
	r, err := s.open(d)
	if err != nil {
		return nil, &blob.Error{Op: "open", Digest: d, Err: err}
	}
	return r, nil
}

func (s *Store) open(d digest.Digest) (*reader, error) {
	h, ok := s.pin(d, false)
	if !ok {
		return nil, blob.ErrNotFound
	}
	sim.Point("pinned")
	f, err := s.openFile(h)
	if err != nil {
		h.pin.Release()
		return nil, err
	}
	return &reader{file: f, size: h.size, pin: h.pin}, nil
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	if !s.calls.Enter() {
		return nil, &blob.Error{Op: "create", Digest: d, Err: blob.ErrClosed}
	}
	defer s.calls.Leave()
	w, err := s.create(ctx, d)
	if err != nil {
		return nil, &blob.Error{Op: "create", Digest: d, Err: err}
	}
	return w, nil
}

func (s *Store) mayCreate(d digest.Digest) error {
	if d.Size < 0 || !d.Function.Valid() {
		return fmt.Errorf("%w: a blob needs a size and a known digest function", blob.ErrInvalid)
	}
	if charge(d.Size) > s.room.max {
		return s.tooLarge()
	}
	if have, ok := s.ledger.SizeOf(keyOf(d, false)); ok && have != d.Size {
		return fmt.Errorf("%w: the blob with that hash has %d bytes", blob.ErrMismatch, have)
	}
	return nil
}

func (s *Store) tooLarge() error {
	return fmt.Errorf("%w, which is %s, the size of the worker's file store", blob.ErrTooLarge, humanize.IBytes(uint64(s.room.max)))
}

// GetAll implements blob.Batcher. What does not hash to its digest is dropped, and not found.
func (s *Store) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	for i, d := range ds {
		if data[i], errs[i] = s.get(ctx, d); errs[i] != nil {
			data[i], errs[i] = nil, &blob.Error{Op: "get", Digest: d, Err: errs[i]}
		}
	}
	return data, errs
}

func (s *Store) get(ctx context.Context, d digest.Digest) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if d.IsEmpty() {
		return []byte{}, nil
	}
	if !s.calls.Enter() {
		return nil, blob.ErrClosed
	}
	defer s.calls.Leave()
	h, ok := s.pin(d, false)
	if !ok {
		return nil, blob.ErrNotFound
	}
	defer h.pin.Release()
	f, err := s.openFile(h)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, h.size)
	if _, err := f.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if got := d.Function.Of(data); got.Hash != d.Hash {
		return nil, s.drop(h, blob.Mismatch(d, got))
	}
	return data, nil
}
