// Package tier is a Store made of two: a near one, which is fast and small, before a far one, which keeps more.
//
// Reads fall through and fill the near store. Writes go to the near store and climb from there to the far one:
// before they are acknowledged, or after (Options.WriteBack).
//
// # Invariants
//
//   - YesStands: a yes is one of the two stores' own. This package remembers nothing of what is where.
//   - OpenHolds: a Reader holds a pin of the store that it reads from, and until it has one in the near store,
//     the far one's.
//   - HandOver: any number of readers of one absent blob share one read of the far store. When that
//     fails, each goes on by itself.
//   - What has not climbed yet is pinned in the near store, and at most Options.Queue bytes are.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. One goroutine a blob fills the near store; Options.Uploads of
// them climb. Mutexes guard memory only.
//
// # Crashes
//
// What was to climb when the process ended is near still. Whoever opens the stores again says so with ClimbAll, but for
// records of which the far store has another value: which is the newer one nothing tells.
// A record may be far before the blobs that it names: package action serves no result with a hole.
package tier

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Near is what the near store must be.
type Near interface {
	blob.Batcher
	blob.Records
}

// A Far is what the far store must be.
type Far interface {
	Near
	blob.Keeper
}

// Options say how writes reach the far store.
type Options struct {
	// WriteBack acknowledges what the near store has. It climbs after that.
	WriteBack bool
	// Queue is how many bytes may wait to climb; whoever writes more waits. 0 is 1 GiB.
	Queue int64
	// Uploads is how many blobs climb at once. 0 is 32: small ones wait for round trips, not for bandwidth.
	Uploads int
	Log     *slog.Logger
}

// A Store is a blob.Batcher, a blob.Records and a blob.Keeper.
type Store struct {
	near      Near
	far       farStore
	writeBack bool
	log       *slog.Logger

	ctx     context.Context // of fetches; Close ends it
	stop    context.CancelFunc
	large   chan struct{} // held by who fetches a large blob
	fetches flights[fetch]
	loads   flights[load]
	puts    puts
	climbs  climbs

	counts counts
	said   atomic.Int64 // when the far store was complained about last, in seconds since 1970
}

type counts struct {
	fetched, unfilled, climbed, failed atomic.Int64
}

// Stats are what a Store did.
type Stats struct {
	Fetched   int64 `json:"fetched"`       // blobs and records that were read from the far store
	Unfilled  int64 `json:"unfilled"`      // of these, those that the near store did not take
	Climbed   int64 `json:"climbed"`       // blobs and records that were written to the far store
	Failed    int64 `json:"failed"`        // tries to write that came to nothing
	Waiting   int64 `json:"waiting"`       // blobs and records that wait to climb
	WaitBytes int64 `json:"waiting_bytes"` // bytes of these
}

var (
	_ blob.Batcher = (*Store)(nil)
	_ blob.Records = (*Store)(nil)
	_ blob.Keeper  = (*Store)(nil)
)

// New returns the store of near before far, which stay the caller's to close, after Close.
func New(near Near, far Far, o Options) *Store {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Queue == 0 {
		o.Queue = 1 << 30
	}
	if o.Uploads == 0 {
		o.Uploads = 32
	}
	s := &Store{near: near, far: farStore{far}, writeBack: o.WriteBack, log: o.Log, large: make(chan struct{}, largeFetches)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.climbs.begin(s.ctx, o)
	return s
}

// cutWithin is how long Close waits for what it has cut.
const cutWithin = 2 * time.Second

// Close waits until all that was acknowledged has climbed, or ctx ends: what is left stays near, and the error
// says how much. A request that the far store does not answer is not waited for then. Calls that are under way must
// have ended.
func (s *Store) Close(ctx context.Context) error {
	s.climbs.close()
	idle := make(chan struct{})
	go func() {
		s.climbs.workers.Wait()
		s.fetches.wait()
		close(idle)
	}()
	defer s.stop()
	var n int64
	cause := blob.ErrUnavailable
	select {
	case <-idle:
		n = s.climbs.unclimbed()
	case <-ctx.Done():
		n, _ = s.climbs.waiting()
		cause = ctx.Err()
		s.stop()
		cut := time.NewTimer(cutWithin)
		defer cut.Stop()
		select {
		case <-idle:
		case <-cut.C:
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d blobs and records did not reach the far store yet: %w", n, cause)
}

// Stats returns what the store did.
func (s *Store) Stats() Stats {
	waiting, bytes := s.climbs.waiting()
	return Stats{
		Fetched: s.counts.fetched.Load(), Unfilled: s.counts.unfilled.Load(),
		Climbed: s.counts.climbed.Load(), Failed: s.counts.failed.Load(),
		Waiting: waiting, WaitBytes: bytes,
	}
}

// Missing implements blob.Store: missing is what neither store has. The far store is asked of all, so that what
// is only near climbs again, and that what is used stays far.
func (s *Store) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	absent, err := s.near.Missing(ctx, ds)
	if err != nil {
		return digest.Set{}, err
	}
	lacking, err := s.far.Missing(ctx, ds)
	if err != nil {
		if ctx.Err() != nil {
			return digest.Set{}, err
		}
		s.complain("the far store did not say what it has; what is not near counts as missing", err)
		return absent, nil
	}
	var missing digest.Set
	for _, d := range lacking.List() {
		if absent.Has(d) {
			missing.Add(d)
		} else {
			s.Climb(ctx, d)
		}
	}
	return missing, nil
}

// complain logs that the far store does not answer as it should: each request would say so, so most of them don't.
func (s *Store) complain(text string, err error, more ...any) {
	now := time.Now().Unix()
	if last := s.said.Load(); now-last >= 10 && s.said.CompareAndSwap(last, now) {
		s.log.Warn(text, append(more, "error", err)...)
	}
}
