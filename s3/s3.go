// Package s3 is a Store, Records and Keeper on a bucket that several servers share: the ledger plus objects.
//
// Each server process is a session with a record in the bucket and a ledger in memory, which is loaded from a listing.
// Every blob is an object whose name says digest, session and number, and whose bytes begin with a frame, so the bucket
// alone is the truth. The register (the object "owner") is where a collection's decisions get one order.
//
// # Invariants
//
//   - Names are never reused: a key carries its session and a number. DELETE and PUT may come late, or twice.
//   - Bytes first, then the ledger: an object is there before the ledger names it.
//   - The ledger gives every yes; what was found by HEAD or LIST enters it first, through the door.
//   - CollectorSpares: an object is deleted only when every session that lives let go of it under its ledger's lock, no
//     session that ended has a yes that may still stand, no root that was read after all that names it, and the verdict
//     that says so is in the register.
//   - A session that could not renew its record in time gives no yes, ever again.
//   - Of several who change a root that they have read, on whichever server, one does; the others read it again.
//
// # Concurrency
//
// The ledger is as package ledger says. The door, a channel, is held by who adopts what the bucket has and by who lets
// go of it. Mutexes guard memory only, and no I/O is done under either. Uploads of one blob at a time go one after the
// other in a process: who comes second waits, and takes over if the first one fails.
//
// # Crashes
//
// Nothing local is needed. A session that crashed is declared dead, its yes stands for its lease, and then what it left
// is what everybody finds in the listing. A proposal without a verdict lets nothing be deleted; a verdict is carried
// out by the next who collects.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/boottime"
	"github.com/sarsen-build/sarsen/internal/gate"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// ErrSuspended says that this server could not reach the bucket for too long, so that others believe it dead. It starts
// again by itself when the bucket is back.
var ErrSuspended = errors.New("the bucket could not be reached for too long, this server begins anew there")

// Options say how a store behaves.
type Options struct {
	// Lease is how long a blob that was reported present stays readable, whoever collects. 0 is three hours.
	Lease time.Duration
	// Heartbeat is how long this server may fail to renew its session's record before it gives no yes any more. The
	// record is renewed four times as often. Others take it for dead after twice that. 0 is a minute.
	Heartbeat time.Duration
	Host      string // named to those who wait for this server; "" is none
	// Lookup makes Open, Keep and their like look in the bucket for a blob that the ledger does not know, since others
	// write there too. Missing never does: what it lists is uploaded again at worst. Nor are records looked for: a build
	// that finds no result runs, and most results that are asked for are nowhere.
	Lookup bool
	// SpoolFS and Spool are where uploads wait that are larger than a mebibyte; without them they wait in memory.
	SpoolFS vfs.FS
	Spool   string
	Log     *slog.Logger

	uncompressed bool                 // bytes are stored as they are, not compressed where that gains a sixteenth
	parallel     int                  // how many requests for blobs are under way at most; 0 is 64
	blockSize    int64                // 0 is blockSize
	chunk        int64                // blocks that a Reader gets at once; 0 is 8
	clock        func() time.Duration // nil is the time since the machine was started
	manual       bool                 // nothing is done in the background
	newID        func() string        // of sessions
}

// A Store is a blob.Batcher, blob.Records and blob.Keeper on a bucket.
type Store struct {
	bucket    bucket.Bucket
	lease     time.Duration
	heartbeat time.Duration
	host      string
	lookup    bool
	fsys      vfs.FS
	spool     string
	log       *slog.Logger
	packer    packer
	chunk     int64
	clock     func() time.Duration
	newID     func() string

	now    atomic.Pointer[life]
	slots  chan struct{} // one for each request under way
	calls  gate.Gate
	ctx    context.Context // of what no caller waits for; ended by Close
	stop   context.CancelFunc
	beats  sync.WaitGroup
	spools atomic.Uint64

	seen       seen          // of other sessions
	collecting chan struct{} // held by who collects in this process
	rootCache  rootCache

	counts counts
}

type counts struct {
	uploads, downloads, bytesUp, bytesDown, corrupt, deleted, lives atomic.Int64
}

// Stats are what a Store has and did.
type Stats struct {
	Session   string `json:"id"` // as others name it
	Blobs     int    `json:"blobs"`
	Records   int    `json:"records"`
	Pins      int    `json:"pins"`
	Leased    int64  `json:"leased"` // entries
	Uploads   int64  `json:"uploads"`
	Downloads int64  `json:"downloads"`
	BytesUp   int64  `json:"bytes_up"` // as they went over the wire
	BytesDown int64  `json:"bytes_down"`
	Corrupt   int64  `json:"corrupt"`  // objects whose bytes did not verify
	Deleted   int64  `json:"deleted"`  // objects, by this server's collections
	Sessions  int64  `json:"sessions"` // of this process; more than one if it was suspended
}

var (
	_ blob.Batcher = (*Store)(nil)
	_ blob.Records = (*Store)(nil)
	_ blob.Keeper  = (*Store)(nil)
)

// Open begins a session on a bucket and loads its ledger, which takes a request for a thousand objects.
func Open(ctx context.Context, b bucket.Bucket, o Options) (*Store, error) {
	s := newStore(b, o)
	l, err := s.begin(ctx)
	if err != nil {
		s.stop()
		return nil, err
	}
	if !o.manual {
		// The load may take longer than a heartbeat.
		s.beats.Go(func() { s.beat(l) })
	}
	if err := s.load(ctx, l); err != nil {
		s.stop()
		s.beats.Wait()
		return nil, errors.Join(fmt.Errorf("load the bucket's listing: %w", err), s.forsake(context.WithoutCancel(ctx), l))
	}
	s.now.Store(l)
	return s, nil
}

func newStore(b bucket.Bucket, o Options) *Store {
	s := &Store{
		bucket: b, lease: o.Lease, heartbeat: o.Heartbeat, host: o.Host, lookup: o.Lookup, fsys: o.SpoolFS, spool: o.Spool,
		log: o.Log, packer: packer{o.blockSize, o.uncompressed}, chunk: o.chunk, clock: o.clock, newID: o.newID,
		collecting: make(chan struct{}, 1), seen: seen{sessions: map[string]sighting{}},
	}
	if s.lease == 0 {
		s.lease = 3 * time.Hour
	}
	if s.heartbeat == 0 {
		s.heartbeat = time.Minute
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.packer.block == 0 {
		s.packer.block = blockSize
	}
	if s.chunk == 0 {
		s.chunk = 8
	}
	if s.clock == nil {
		s.clock = boottime.Now
	}
	if s.newID == nil {
		s.newID = newSession
	}
	if o.parallel == 0 {
		o.parallel = 64
	}
	s.slots = make(chan struct{}, o.parallel)
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Close ends the session. What it told others stands for its lease nevertheless. Open Readers stay readable. Uploads that
// the bucket does not take in a quarter of a heartbeat are given up.
func (s *Store) Close() error {
	idle, first := s.calls.Close()
	if !first {
		return nil
	}
	cut := time.AfterFunc(s.heartbeat/4, s.stop)
	<-idle
	cut.Stop()
	s.stop()
	s.beats.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), s.heartbeat)
	defer cancel()
	return s.finish(ctx, s.now.Load())
}

// beat renews the session's record and follows the register until the store is closed. When the session is over it
// begins another one.
func (s *Store) beat(l *life) {
	s.eachBeat(s.ctx, func() {
		next, err := s.beatOnce(s.ctx, l)
		if err != nil && s.ctx.Err() == nil {
			s.log.Warn("the bucket does not answer", "error", err)
		}
		l = next
	})
}

// eachBeat does something four times in a heartbeat, until ctx ends.
func (s *Store) eachBeat(ctx context.Context, do func()) {
	tick := time.NewTicker(s.heartbeat / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		do()
	}
}

// beatOnce renews and follows, and returns the life that goes on.
func (s *Store) beatOnce(ctx context.Context, l *life) (*life, error) {
	wait, cancel := context.WithTimeout(ctx, s.heartbeat/2)
	defer cancel()
	err := s.renew(wait, l)
	if err == nil {
		err = s.answer(wait, l)
	}
	if l.lost.Load() && l.listing.CompareAndSwap(false, true) {
		// That may take longer than the next renewal can wait.
		s.beats.Go(func() {
			defer l.listing.Store(false)
			if err := s.regain(s.ctx, l); err != nil && s.ctx.Err() == nil {
				s.log.Warn("the bucket could not be listed; it is tried again", "error", err)
			}
		})
	}
	if l.stands() || s.now.Load() == nil {
		return l, err
	}
	next, err := s.begin(ctx)
	if err != nil {
		return l, err
	}
	if err := s.loadAlive(ctx, next); err != nil {
		return l, errors.Join(err, s.forsake(context.WithoutCancel(ctx), next))
	}
	s.counts.lives.Add(1)
	s.log.Warn("this server was not heard of for too long and began a new session", "session", next.id, "before", l.id)
	// COMMIT: the new session gives every yes from here on.
	s.now.Store(next)
	return next, nil
}

// enter begins a call and returns the life that answers it.
func (s *Store) enter() (*life, error) {
	if !s.calls.Enter() {
		return nil, blob.ErrClosed
	}
	return s.now.Load(), nil
}

// Stats returns what the store has and did.
func (s *Store) Stats() Stats {
	l := s.now.Load()
	blobs, records, pins := l.ledger.Counts()
	leased, _ := l.ledger.Leased()
	c := &s.counts
	return Stats{
		Session: l.id, Blobs: blobs, Records: records, Pins: pins, Leased: leased,
		Uploads: c.uploads.Load(), Downloads: c.downloads.Load(), BytesUp: c.bytesUp.Load(), BytesDown: c.bytesDown.Load(),
		Corrupt: c.corrupt.Load(), Deleted: c.deleted.Load(), Sessions: c.lives.Load() + 1,
	}
}

// Size returns how many bytes the blobs have that this server knows of, each once and not compressed. It takes a while,
// as ledger.Each does.
func (s *Store) Size() (bytes int64) {
	s.now.Load().ledger.Each(func(k ledger.Key, size int64, _ ledger.Place, _ bool) {
		if k.Kind != ledger.Record {
			bytes += size
		}
	})
	return bytes
}

// Missing implements blob.Store.
func (s *Store) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	var missing digest.Set
	l, err := s.enter()
	if err != nil {
		return missing, err
	}
	defer s.calls.Leave()
	for _, d := range ds.List() {
		if err := ctx.Err(); err != nil {
			return missing, err
		}
		if d.IsEmpty() {
			continue
		}
		// No lease is written down: while a session's yes may stand, nothing is collected.
		if ok, _ := l.ledger.Lease(keyOf(d), d.Size); !ok {
			missing.Add(d)
		}
	}
	return missing, l.yes()
}

// Knows reports whether the ledger has a blob. That is no yes, and leases nothing.
func (s *Store) Knows(d digest.Digest) bool {
	have, ok := s.now.Load().ledger.SizeOf(keyOf(d))
	return ok && have == d.Size
}

// KnowsRecord reports whether the ledger has a record.
func (s *Store) KnowsRecord(key [32]byte) bool {
	_, ok := s.now.Load().ledger.SizeOf(recordKey(key))
	return ok
}

// Refresh adopts what others wrote since the ledger was loaded.
func (s *Store) Refresh(ctx context.Context) error {
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	if err := s.follow(ctx, l); err != nil {
		return err
	}
	return s.list(ctx, l, false)
}

type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
