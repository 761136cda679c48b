// Package execution is the scheduler: it takes actions from clients, gives them to workers, and answers with
// their results.
//
// A task is one action on its way to a result. An operation is what one client was promised; several operations
// may wait for one task. An assignment is one try of a task on a worker, and holds a slot there.
//
// The life of a task:
//
//	                ┌───────── answered from the action cache, refused, given up ──────────┐
//	                │                                                                      ▼
//	Execute ─▶ checking ─▶ queued ─▶ assigned ─▶ executing ─▶ uploading ─▶ completing ─▶ done
//	                        ▲ │  │       │            │            │           │           ▲
//	                        │ │  │       ├────────────┴────────────┴───────────┤           │
//	                        └─│──│───────┤ worker lost, silent or at fault;    │           │
//	                          │  │       │ result with a hole                  │           │
//	                          │  │       └─────────────────────────────────────┴───────────┤
//	                          │  └──── no worker can ever run it ──────────────────────────┘
//	                          └─────▶ executing: a worker came back and is still at it
//
// Whatever is not done may be cancelled, or given up after too many attempts, and is done then. Assigned and
// executing may skip what a worker did not report.
//
// A worker that registers with an action that nobody here knows makes a task that begins as executing. The table is
// in state.go; a step that is not in it is an error in the log, and a panic in tests.
//
// Stages as clients see them: checking is CACHE_CHECK; queued QUEUED; assigned, executing, uploading and
// completing EXECUTING; done COMPLETED.
//
// # Who runs what
//
// By priority, lower numbers first; then the invocation with the fewest running actions; then the one that was
// served longest ago; then first come. A platform that no worker has fails the operation: its ExecuteResponse
// has the status FAILED_PRECONDITION, with a message that names the property and the closest worker. That is
// after UnsatisfiableTimeout. If that is not set, it is at once if there are workers, and after a minute if there are
// none, or if one that has it left or drains since, or in the first Settle after the first worker came.
//
// Errors of the request itself (a missing or malformed input) are errors of Execute, and make no operation.
// A cancelled operation ends with Operation.error CANCELLED, everything else with an ExecuteResponse.
//
// # Invariants
//
//   - OnceDone: every operation becomes done exactly once, and stays as it is.
//   - SlotsCounted: what a worker has in use is the sum of its assignments; each ends exactly once.
//   - WorkConserved: no worker is idle while a queued task fits it. There are two exceptions, both bounded: a task
//     waits 10 s for a worker other than the one that failed it, and a worker is kept free for a task that needs
//     much of it and starved for WarnAfter.
//   - RunsOnce: of identical actions in flight, unless they say do_not_cache, one runs.
//   - InputsHeld: from admission until it is done, all inputs of a task are leased.
//   - Complete: no success is answered for a result that names a missing blob.
//
// # Concurrency
//
// All methods may be called from many goroutines at once; a Watch and Session.Next belong to one each. All state
// is under one mutex; nothing under it blocks. The store and the action cache are asked by goroutines that hold
// nothing and look again, when they come back, whether the task still wants to know.
//
// # Crashes
//
// Nothing is kept on disk. After a restart an operation is not found, and its client executes again. A worker
// that is still running the action says so when it registers, and the new Execute joins it.
package execution

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// Actions is the action cache. An action.Cache is one.
type Actions interface {
	// Get returns a result with everything that it names leased, or blob.ErrNotFound.
	Get(ctx context.Context, k action.Key) (*repb.ActionResult, error)
	// Put makes result the result of k, or returns a *blob.MissingError.
	Put(ctx context.Context, k action.Key, result *repb.ActionResult) error
	// Lease leases everything that result names and returns what of it is missing.
	Lease(ctx context.Context, f digest.Function, result *repb.ActionResult) (digest.Set, error)
}

// Options say how a Scheduler behaves. Zero values mean the defaults.
type Options struct {
	Actions Actions    // required
	Store   blob.Store // required
	Log     *slog.Logger

	Lease      time.Duration // how long the store's yes holds; inputs are leased anew every quarter; 10 min
	LostAfter  time.Duration // a worker that says nothing for so long is lost; 30 s
	Grace      time.Duration // how long a worker whose connection broke may come back; 30 s
	LeaveGrace time.Duration // how long an operation lives that nobody waits for; 60 s
	// UnsatisfiableTimeout is how long an action waits for a worker that has its platform. If it is not set: not at all
	// if there are workers that can't, else 60 s.
	UnsatisfiableTimeout time.Duration
	Settle               time.Duration // how long after the first worker others may take to register; 10 s
	WarnAfter            time.Duration // what is queued for so long is warned about; 60 s
	MaxTimeout           time.Duration // the longest Action.timeout; also the default of actions without one; 1 h
	Slack                time.Duration // what staging and uploading may take on top of the timeout; 5 min
	CancelGrace          time.Duration // how long a worker may take to stop a cancelled action; 30 s
	StoreTimeout         time.Duration // how long the store or the action cache may take to answer; 2 min
	KeepDone             time.Duration // how long a finished operation can be asked for; 5 min
	MaxDone              int           // how many finished operations are kept; 10,000
	MaxOperations        int           // how many operations may be under way; 100,000
	MaxAttempts          int           // how often an action is given to a worker in all; 3
	Minimum              []string      // platform properties that are amounts, beside cpu and memory
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		v    *time.Duration
		want time.Duration
	}{
		{&o.Lease, 10 * time.Minute}, {&o.LostAfter, 30 * time.Second}, {&o.Grace, 30 * time.Second},
		{&o.LeaveGrace, time.Minute}, {&o.Settle, 10 * time.Second},
		{&o.WarnAfter, time.Minute}, {&o.MaxTimeout, time.Hour}, {&o.Slack, 5 * time.Minute},
		{&o.CancelGrace, 30 * time.Second}, {&o.StoreTimeout, 2 * time.Minute}, {&o.KeepDone, 5 * time.Minute},
	} {
		if *d.v == 0 {
			*d.v = d.want
		}
	}
	if o.MaxDone == 0 {
		o.MaxDone = 10_000
	}
	if o.MaxOperations == 0 {
		o.MaxOperations = 100_000
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 3
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// A Scheduler runs actions on workers. Call Close when done.
type Scheduler struct {
	o       Options
	store   blob.Batcher
	minimum map[string]bool
	trees   trees
	ctx     context.Context // of everything that goes on by itself
	stop    context.CancelFunc
	going   sync.WaitGroup
	run     string // tells this scheduler's names from those of one before it

	mu            sync.Mutex
	closed        bool
	alarms        alarms
	last          uint64 // the newest number given to anything
	tasks         map[*task]struct{}
	inflight      map[action.Key]*task // those that may be joined
	operations    map[string]*operation
	finished      []*operation // by the time at which they became done
	finishedBytes int          // of their responses
	expiry        *alarm       // of the first of them
	platforms     map[string]*platform
	invocations   map[string]*invocation
	workers       []*worker // in the order in which they came
	recent        []former
	settles       time.Time // until then workers may still be coming
	oldLogs       oldLogs
}

// New returns a scheduler without workers.
func New(o Options) *Scheduler {
	o.setDefaults()
	s := &Scheduler{
		o:           o,
		store:       blob.Batches(o.Store),
		minimum:     map[string]bool{"cpu": true, "memory": true},
		run:         randomHex(),
		settles:     time.Now().Add(o.Settle),
		tasks:       map[*task]struct{}{},
		inflight:    map[action.Key]*task{},
		operations:  map[string]*operation{},
		platforms:   map[string]*platform{},
		invocations: map[string]*invocation{},
	}
	for _, name := range o.Minimum {
		s.minimum[name] = true
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.alarms.wake = make(chan struct{}, 1)
	s.going.Go(s.ring)
	s.going.Go(s.renew)
	return s
}

// Close ends the scheduler. Clients and workers get ErrClosed. Workers are told to stop nothing: they report
// what they run to the next scheduler.
func (s *Scheduler) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	for _, o := range s.operations {
		o.notify()
	}
	for _, w := range s.workers {
		if w.session != nil {
			w.session.end(ErrClosed)
		}
	}
	for t := range s.tasks {
		t.logs.end()
	}
	s.mu.Unlock()
	s.stop()
	s.going.Wait()
}

// number returns a number that nothing else here has. The order of numbers is that of asking.
func (s *Scheduler) number() uint64 {
	s.last++
	return s.last
}

// spawn runs do beside everything else, with a context that ends with the scheduler or after StoreTimeout. Only
// to be called under the lock, so that Close does not miss it.
func (s *Scheduler) spawn(do func(ctx context.Context)) {
	if s.closed {
		return
	}
	s.going.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, s.o.StoreTimeout)
		defer cancel()
		do(ctx)
	})
}

// randomHex returns 16 digits that nobody can guess.
func randomHex() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// nameOf returns a name whose order is that of numbers, and which nobody can guess.
func nameOf(number uint64) string { return fmt.Sprintf("%012x-%s", number, randomHex()) }
