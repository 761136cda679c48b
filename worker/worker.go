// Package worker runs actions for a scheduler: it stages the inputs, runs the command in a sandbox,
// collects the outputs and answers.
//
// # Invariants
//
//   - A completion is said in each stream until the scheduler has received it.
//   - A result is sent only after every blob that it names is in the server's store.
//   - Nothing of an action outlives it: no process, and no file but its blobs; but for a persistent worker where
//     the client asks for one (package persist).
//
// # Concurrency
//
// Each assignment is a goroutine. Only the goroutine of Run reads and writes the stream.
//
// # Crashes
//
// A worker that is killed forgets what it ran; the scheduler gives it to others. Work directories that
// are left are removed at the next start.
package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/worker/persist"
	"github.com/sarsen-build/sarsen/worker/sandbox"
	"github.com/sarsen-build/sarsen/worker/stage"
)

// Options says what a Worker is. All but Log, Version and Connected must be set.
type Options struct {
	Connect func(context.Context) (pb.Workers_ConnectClient, error) // begins a stream to the scheduler
	Name    string                                                  // unique among the scheduler's workers
	Dir     string                                                  // for work directories, on the same file system as the stager's files
	Slots   int
	Version string

	Properties []*repb.Platform_Property
	Stager     *stage.Stager
	Store      blob.Batcher // the scheduler's, where outputs go
	Runner     *sandbox.Runner
	Log        *slog.Logger

	// Connected is called, if set, when the scheduler has welcomed the worker for the first time.
	Connected func()
}

// A Worker runs actions.
type Worker struct {
	Options
	session string
	tools   *persist.Pool
	out     chan *pb.FromWorker // to the stream, dropped where there is none
	ended   chan struct{}       // something was completed

	mu       sync.Mutex
	tasks    map[string]*task // until the scheduler has received their completion
	draining bool
	running  sync.WaitGroup
}

// A task is an assignment that runs here.
type task struct {
	*pb.Assignment
	started time.Time
	cancel  context.CancelFunc
	done    *pb.Completion // set when it has ended
	said    bool           // in this stream
}

// New returns a Worker. What earlier ones left in its work directory is removed.
func New(o Options) (*Worker, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Dir = filepath.Join(o.Dir, "work")
	if err := removeAll(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, err
	}
	if err := spread(o.Dir); err != nil {
		return nil, err
	}
	tools := persist.New(persist.Options{Dir: o.Dir, Runner: o.Runner, Remove: removeAll, MaxIdle: 2 * o.Slots, Log: o.Log})
	return &Worker{Options: o, session: rand.Text(), tools: tools, out: make(chan *pb.FromWorker, 64), ended: make(chan struct{}, 1), tasks: map[string]*task{}}, nil
}

// The pause before another attempt to connect: doubled from the first to the last, and a random part of it.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 20 * time.Second
)

// Run serves the scheduler until ctx ends, connecting again whenever the stream breaks. Then it stops
// what runs.
func (w *Worker) Run(ctx context.Context) error {
	defer w.tools.Close()
	defer w.stopAll()
	pause := firstPause
	for {
		began := time.Now()
		err := w.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errDrained) {
			return nil
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		wait := pause/2 + mathrand.N(pause)
		w.Log.Warn("the stream to the scheduler broke; what runs goes on", slog.Any("error", err), slog.Duration("again in", wait))
		pause = min(2*pause, lastPause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// errDrained says that the scheduler asked for nothing more, and all is done.
var errDrained = errors.New("drained")

// serve is one stream.
func (w *Worker) serve(ctx context.Context) error {
	// The stream outlives ctx by as much as it takes to say goodbye, but for its beginning.
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	begun := context.AfterFunc(ctx, cancel)
	defer begun()
	stream, err := w.Connect(streaming)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.FromWorker{Message: &pb.FromWorker_Registration{Registration: w.registration()}}); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return fmt.Errorf("the scheduler began with %T instead of a welcome", first.Message)
	}
	begun()
	w.Log.Info("connected to the scheduler", slog.Int("slots", w.Slots), slog.String("worker", w.Name))
	if w.Connected != nil {
		w.Connected()
		w.Connected = nil
	}
	in, broken := make(chan *pb.ToWorker), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case in <- m:
			case <-streaming.Done():
				return
			}
		}
	}()
	return w.converse(ctx, stream, welcome.Heartbeat.AsDuration(), in, broken)
}

// converse reads and writes the stream until it breaks. What was completed while there was none is said first.
func (w *Worker) converse(ctx context.Context, stream pb.Workers_ConnectClient, heartbeat time.Duration, in <-chan *pb.ToWorker, broken <-chan error) error {
	w.unsay()
	beat := time.NewTicker(max(heartbeat, time.Second/10))
	defer beat.Stop()
	for {
		var err error
		select {
		case m := <-in:
			w.obey(ctx, m)
		case <-w.ended:
			err = w.sayCompleted(stream)
		case m := <-w.out:
			err = stream.Send(m)
		case <-beat.C:
			err = stream.Send(&pb.FromWorker{Message: &pb.FromWorker_Heartbeat{Heartbeat: w.heartbeat()}})
		case err = <-broken:
		case <-ctx.Done():
			leave(stream, broken)
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if w.drained() {
			leave(stream, broken)
			return errDrained
		}
	}
}

// leaveWithin is how long the scheduler may take to hear that a worker leaves. After that it finds out by itself.
const leaveWithin = 2 * time.Second

// leave says that this worker goes for good, and waits until that has been heard.
func leave(stream pb.Workers_ConnectClient, broken <-chan error) {
	_ = stream.Send(&pb.FromWorker{Message: &pb.FromWorker_Leaving{Leaving: &pb.Leaving{}}})
	_ = stream.CloseSend()
	select {
	case <-broken:
	case <-time.After(leaveWithin):
	}
}
