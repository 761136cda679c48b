package execution

import (
	"context"
	"fmt"
	"slices"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A Registration is what a worker says when it connects.
type Registration struct {
	Name       string                    // for people; several workers may have the same
	Session    string                    // made by the worker's process at its start; the same at each of its connections
	Properties []*repb.Platform_Property // what it offers; names that are no amounts may come several times
	Slots      int                       // how many actions it runs at once
	Draining   bool                      // it was told to drain, maybe by an earlier scheduler
	// Running names all assignments that the worker still has: those that it runs, and those of which it has
	// no Acknowledge. It says Complete of the latter again.
	Running []Running
}

// Running is an assignment that a worker has from an earlier connection, maybe to an earlier scheduler.
type Running struct {
	ID      string
	Key     action.Key
	Started time.Time
}

// Load is how busy a worker is.
type Load struct {
	Known  bool    // the rest is set
	CPU    float64 // share of all processors, 0 to 1
	Memory int64   // bytes in use
}

// A Kind says what an Instruction is.
type Kind int

// The kinds.
const (
	Assign      Kind = iota + 1 // run Action; ID names the assignment
	Cancel                      // stop the assignment ID and say Complete, with any status; also if it is not known
	Acknowledge                 // the Complete of ID has arrived
	Drain                       // there will be no assignments; Leave when what runs has ended
)

func (k Kind) String() string { return [...]string{"", "assign", "cancel", "acknowledge", "drain"}[k] }

// An Instruction is what a worker is to do. The messages are shared: read only.
type Instruction struct {
	Kind    Kind
	ID      string
	Key     action.Key
	Action  *repb.Action
	Command *repb.Command
	Timeout time.Duration // of the command: the action's, or the longest there is
	Attempt int           // from 1
	Queued  time.Time
}

// A Session is one connection of a worker. When it has ended, by whatever side, its methods do nothing.
type Session struct {
	s     *Scheduler
	w     *worker
	wake  chan struct{}
	ended error // why; nil while it goes on
}

func (x *Session) notify() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

func (x *Session) end(why error) {
	if x.ended == nil {
		x.ended = why
		x.notify()
	}
}

// What bounds the memory that one worker can ask for.
const (
	maxRunning = 10_000 // assignments that it comes back with
	maxOutbox  = 20_000 // instructions that it does not take
)

// Connect registers a worker, or connects one anew that has the same Session. It keeps its actions as far as
// Running names them; what Running does not name has not reached it and is queued again. Of what the scheduler
// does not know, an action that nobody else runs is adopted: a client that executes it joins, and if none does
// within LeaveGrace, it is cancelled. All else is cancelled.
//
// A disconnected worker of the same name with another Session is taken for dead. Errors are *action.FieldErrors,
// or ErrClosed.
func (s *Scheduler) Connect(r Registration) (*Session, error) {
	switch {
	case r.Name == "":
		return nil, invalid("name", "a worker needs one")
	case r.Session == "":
		return nil, invalid("session", "a worker needs one")
	case r.Slots < 1:
		return nil, invalid("slots", "%d, a worker needs at least one", r.Slots)
	case len(r.Running) > maxRunning:
		return nil, invalid("running", "%d assignments, at most %d are taken", len(r.Running), maxRunning)
	}
	c, err := s.parseCapacity(r.Properties)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	for _, old := range slices.Clone(s.workers) {
		if old.name == r.Name && old.id != r.Session && old.session == nil {
			old.lose("was started anew")
		}
	}
	w := s.reconnected(r.Session)
	if w == nil {
		w = &worker{s: s, id: r.Session, assignments: map[string]*assignment{}}
		if len(s.workers) == 0 {
			s.settles = time.Now().Add(s.o.Settle)
		}
		s.workers = append(s.workers, w)
	}
	c.used = w.capacity.used
	if c.used == nil {
		c.used = map[string]int64{}
	}
	w.name, w.properties, w.slots, w.capacity = r.Name, r.Properties, r.Slots, c
	w.draining = w.draining || r.Draining
	w.session = &Session{s: s, w: w, wake: make(chan struct{}, 1)}
	w.hear()
	w.listen()
	s.o.Log.Info("a worker has connected", "worker", w.name, "slots", w.slots, "running", len(r.Running))
	session := w.session
	w.reconcile(r.Running)
	if w.draining {
		w.tell(Instruction{Kind: Drain})
	}
	s.changed()
	return session, nil
}

// reconnected returns the worker of a session with its old connection ended, or nil if there is none.
func (s *Scheduler) reconnected(id string) *worker {
	i := slices.IndexFunc(s.workers, func(w *worker) bool { return w.id == id })
	if i < 0 {
		return nil
	}
	w := s.workers[i]
	s.silence(w.grace)
	if w.session != nil {
		w.session.end(ErrReplaced)
	}
	return w
}

// reconcile brings together what the worker runs and what it is thought to run.
func (w *worker) reconcile(running []Running) {
	s := w.s
	named := map[string]bool{}
	for _, r := range running {
		named[r.ID] = true
	}
	// What was not fetched is told now. What was, the registration answers.
	w.outbox = slices.DeleteFunc(w.outbox, func(i Instruction) bool { return i.Kind != Assign })
	var lost []*assignment
	for _, a := range w.held() {
		switch {
		case !a.delivered:
		case !named[a.id] || mutant.GraceForgets:
			lost = append(lost, a)
			a.release()
		case a.cancelled:
			a.cancelled = false
			a.cancel()
		}
	}
	for _, r := range running {
		if w.assignments[r.ID] == nil {
			s.adopt(w, r)
		}
	}
	for _, a := range lost {
		if t := a.task; t.on == a {
			t.on = nil
			t.retry(a, "WORKER_LOST", codes.Unavailable, "worker "+w.name+" does not know of it after its connection broke")
		}
	}
	if len(w.outbox) > 0 {
		w.session.notify()
	}
}

// Next returns the next instruction, and waits for it. After the session has ended it returns ErrReplaced, ErrLost,
// ErrUnresponsive, ErrLeft or ErrClosed.
func (x *Session) Next(ctx context.Context) (Instruction, error) {
	for {
		i, ok, err := x.next()
		if ok || err != nil {
			return i, err
		}
		select {
		case <-x.wake:
		case <-ctx.Done():
			return Instruction{}, ctx.Err()
		}
	}
}

func (x *Session) next() (i Instruction, ok bool, err error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.ended != nil {
		return i, false, x.ended
	}
	if len(x.w.outbox) == 0 {
		return i, false, nil
	}
	i = x.w.outbox[0]
	x.w.outbox[0] = Instruction{}
	x.w.outbox = x.w.outbox[1:]
	if a := x.w.assignments[i.ID]; a != nil && i.Kind == Assign {
		a.delivered = true
	}
	return i, true, nil
}

// live runs do under the lock if the session goes on.
func (x *Session) live(do func(w *worker)) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.ended == nil && !x.s.closed {
		x.w.hear()
		do(x.w)
	}
}

// Heartbeat says that the worker is alive. Everything else that it says does too.
func (x *Session) Heartbeat(l Load) { x.live(func(w *worker) { w.load = l }) }

// Progress says how far an assignment is: Executing or Uploading; other states are ignored. Timestamps that meta has
// become known to clients.
func (x *Session) Progress(id string, state State, meta *repb.ExecutedActionMetadata) {
	x.live(func(w *worker) {
		a := w.assignments[id]
		if a == nil || a.task.on != a || !(state == Executing || state == Uploading) || state < a.task.state {
			return
		}
		t := a.task
		if t.state != state {
			t.to(state)
			limit := t.timeout + x.s.o.Slack
			if state == Uploading {
				limit = x.s.o.Slack
			}
			a.limit(limit)
		}
		t.note(func(m *repb.ExecutedActionMetadata) { copyTimes(m, meta) })
		t.changed()
	})
}

// Leave ends the session of a worker that goes for good. What it still has goes to others.
func (x *Session) Leave() {
	x.live(func(w *worker) {
		x.end(ErrLeft)
		w.session = nil
		w.lose("left")
	})
}

// Close says that the connection broke. The worker may connect again within Grace.
func (x *Session) Close() {
	x.live(func(w *worker) {
		x.end(ErrLeft)
		w.away()
	})
}

func (w *worker) drain() {
	if w.draining {
		return
	}
	w.draining = true
	w.tell(Instruction{Kind: Drain})
	w.s.changed()
}

// Drain lets the workers of a name finish what they run and gives them no more. It returns ErrNotFound if there is none.
func (s *Scheduler) Drain(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, w := range slices.Clone(s.workers) {
		if w.name == name {
			found = true
			w.drain()
		}
	}
	if !found {
		return fmt.Errorf("%w: worker %q", ErrNotFound, name)
	}
	return nil
}
