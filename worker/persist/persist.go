// Package persist keeps tools running from action to action, as Bazel's persistent workers are, where a
// client asks for it. Here such a process is called a tool, since a worker is something else.
//
// A client sets the platform property persistentWorkerKey (Bazel does with
// --experimental_remote_mark_tool_inputs, for actions that say supports-workers), or one of supports-workers=1
// and requires-worker-protocol. The protocol is proto or, if persistentWorkerProtocol or
// requires-worker-protocol says so, json. Files of the tool have the node property bazel_tool_input. The
// command line is complete as it is: its arguments @FILE and --flagfile=FILE are the work, the others, with
// --persistent_worker after them, start the tool. It reads a WorkRequest from its standard input and writes a
// WorkResponse to its standard output, one after the other.
//
// An action that can't be served so (no flag file, no file marked as the tool's, no namespaces on this
// machine) runs as any other does, and is counted.
//
// # How a process that stays sees inputs that change
//
// Each tool has a directory of its own, its home, which is what its sandbox shows at sandbox.Home. For a
// request the entries of the staged root are renamed into it, and all that is there is renamed back before
// outputs are collected. Only the directories on the way to the working directory stay. They are held open
// from before the tool began, so no name that the tool can change is ever followed.
//
// # Invariants
//
//   - Two actions share a process only if these are the same: tool files (paths, digests), command line without
//     flag files, environment, working directory, limits, protocol, instance and the client's key.
//   - Between two requests the home holds nothing of either. What stays is the process's memory, what it
//     holds open, and its private /tmp.
//   - A process serves one request at a time. One that did anything but answer it once never gets another.
//   - No staged file that others share can be written to: a tool with a user of its own may not, any other
//     gets copies.
//
// # Concurrency
//
// A Pool may be used by many goroutines. A tool belongs to one of them, or to the list of idle ones.
//
// # Crashes
//
// Tools die with the sandbox's runner, and that with the worker. Homes are removed with the worker's
// directory at its next start.
package persist

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// Errors that are the tool's fault.
var (
	// ErrProtocol says that the tool does not speak the protocol, so that another attempt would end in the same way.
	ErrProtocol = errors.New("the persistent worker does not speak its protocol")
	// ErrDied says that the tool's process ended while it worked. The action may be run again.
	ErrDied = errors.New("the persistent worker died")
)

// Options say what a Pool is.
type Options struct {
	Dir      string                 // for homes, on the file system of the staged roots
	Runner   *sandbox.Runner        // runs tools, and what can't be served by one
	Remove   func(dir string) error // removes what a command may have left
	MaxIdle  int                    // idle processes; 0 is 4
	IdleTime time.Duration          // after which an idle process is ended; 0 is 5 minutes
	Log      *slog.Logger           // nil discards
}

// Stats count since the Pool was made.
type Stats struct {
	Started  int64 // processes
	Reused   int64 // requests that went to a process that had served another
	Died     int64 // processes that ended, or were killed for what they did, in the middle of a request
	Retired  int64 // processes that were ended while idle
	Ordinary int64 // actions that asked for a persistent worker and ran as any other
	Idle     int64 // processes, at this moment
}

// A Pool runs actions that ask for a persistent worker.
type Pool struct {
	o Options

	mu     sync.Mutex
	idle   []*tool // the one that has been idle longest first
	stats  Stats
	seq    int
	closed bool
	ending sync.WaitGroup
}

// New returns a Pool without processes.
func New(o Options) *Pool {
	if o.MaxIdle == 0 {
		o.MaxIdle = 4
	}
	if o.IdleTime == 0 {
		o.IdleTime = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Pool{o: o}
}

// Stats returns the counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Idle = int64(len(p.idle))
	return s
}

// Close ends all processes. No call of Run may be under way.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, t := range idle {
		t.timer.Stop()
		p.end(t)
	}
	p.ending.Wait()
}

// Run does what sandbox.Runner's Run does, by a process that stays if it can be. Then Spec.Stderr gets the output of
// the response, Spec.Stdout is empty, and the outcome has no Usage. Errors beside those of the Runner: ErrProtocol,
// ErrDied.
func (p *Pool) Run(ctx context.Context, a Action) (sandbox.Outcome, error) {
	var q *request
	var err error
	switch {
	case !p.o.Runner.Confines():
		err = errors.New("there are no namespaces to keep it in")
	case p.o.Runner.Home() != sandbox.Home:
		err = errors.New("each action of this worker has a root of its own")
	default:
		q, err = newRequest(a)
	}
	if err != nil {
		p.count(func(s *Stats) { s.Ordinary++ })
		p.o.Log.Debug("an action that asks for a persistent worker runs without", "id", a.Spec.ID, "why", err)
		return p.o.Runner.Run(ctx, a.Spec)
	}
	defer q.staged.close()
	if err := p.protect(a.Spec.Root); err != nil {
		return sandbox.Outcome{}, err
	}
	t, err := p.take(q)
	if err != nil {
		return sandbox.Outcome{}, err
	}
	out, err := t.serve(ctx, q)
	if t.why == nil {
		p.give(t)
	} else {
		if t.diedAlone() {
			p.count(func(s *Stats) { s.Died++ })
			p.o.Log.Warn("a persistent worker is given up", "id", a.Spec.ID, "tool", a.Spec.Args[0], "why", t.why)
		}
		p.end(t)
	}
	return out, err
}

func (p *Pool) count(f func(*Stats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.stats)
}

// protect sees to it that the tool can't change what others share below root.
func (p *Pool) protect(root string) error {
	if _, ok := p.o.Runner.Owner(); ok {
		return p.o.Runner.Adopt(root)
	}
	return unshare(root)
}

// take returns a process for q: an idle one that is well, else a new one.
func (p *Pool) take(q *request) (*tool, error) {
	for {
		t := p.takeIdle(q.key)
		if t == nil {
			return p.start(q)
		}
		why := t.quiet()
		if why == nil {
			p.count(func(s *Stats) { s.Reused++ })
			p.o.Log.Debug("a persistent worker is used again", "process", t.name, "requests", t.served)
			return t, nil
		}
		p.count(func(s *Stats) { s.Died++ })
		p.o.Log.Warn("a persistent worker is given up", "process", t.name, "tool", q.spec.Args[0], "why", why)
		p.end(t)
	}
}

func (p *Pool) takeIdle(key [32]byte) *tool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if t := p.idle[i]; t.key == key && t.timer.Stop() {
			p.idle = slices.Delete(p.idle, i, i+1)
			return t
		}
	}
	return nil
}

// start makes a tool, whose process begins with its first request.
func (p *Pool) start(q *request) (*tool, error) {
	p.mu.Lock()
	p.seq++
	name := "tool-" + strconv.Itoa(p.seq)
	p.stats.Started++
	p.mu.Unlock()
	t := &tool{key: q.key, name: name, dir: filepath.Join(p.o.Dir, name), runner: p.o.Runner, ended: make(chan struct{})}
	if err := os.Mkdir(t.dir, 0o711); err != nil {
		return nil, err
	}
	err := t.makeHome(q)
	if err == nil {
		t.pipes, err = sandbox.NewPipes()
	}
	if err != nil {
		p.end(t)
		return nil, fmt.Errorf("persistent worker: %w", err)
	}
	t.tap = &tap{r: t.pipes.Out}
	t.codec = q.protocol.codec(t.tap)
	p.o.Log.Debug("a persistent worker is started", "process", name, "tool", q.spec.Args[0])
	return t, nil
}

// give keeps t for later, and ends the one that has been idle longest if there are too many.
func (p *Pool) give(t *tool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.timer = time.AfterFunc(p.o.IdleTime, func() { p.expire(t) })
	p.idle = append(p.idle, t)
	for len(p.idle) > p.o.MaxIdle || p.closed && len(p.idle) > 0 {
		oldest := p.idle[0]
		p.idle = p.idle[1:]
		oldest.timer.Stop()
		p.retire(oldest)
	}
}

// expire ends t unless somebody took it just now.
func (p *Pool) expire(t *tool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, t); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		p.retire(t)
	}
}

// retire ends t, which is in no list any more. The lock is held.
func (p *Pool) retire(t *tool) {
	p.stats.Retired++
	p.o.Log.Debug("an idle persistent worker is ended", "process", t.name, "requests", t.served)
	p.ending.Go(func() { p.end(t) })
}

// end kills the process of t and removes its home.
func (p *Pool) end(t *tool) {
	t.close()
	if err := p.o.Remove(t.dir); err != nil {
		p.o.Log.Warn("a persistent worker's directory could not be removed; it will be at the next start", "error", err)
	}
}
