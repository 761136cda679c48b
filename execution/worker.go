package execution

import (
	"slices"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A worker runs assignments. It outlives its connections: one that breaks may be made anew within the grace time.
type worker struct {
	s           *Scheduler
	name        string
	id          string // of the session
	properties  []*repb.Platform_Property
	capacity    capacity
	slots       int
	assignments map[string]*assignment
	draining    bool
	assigned    uint64    // the number of its last assignment
	keptFor     *platform // for which it is to make room; see starve.go

	session *Session // nil while it is disconnected
	outbox  []Instruction
	seen    time.Time // when it said something last
	load    Load
	silence *alarm // rings when it was silent for too long
	grace   *alarm // rings when it was disconnected for too long
}

// An assignment is one try of a task on a worker. It holds a slot and what the task needs until the worker says
// that it ended, also after the task was cancelled or given to another.
type assignment struct {
	id        string
	number    uint64
	task      *task
	worker    *worker
	inv       *invocation // whose share it counts in
	need      need
	began     time.Time // as the worker says if it came with it: by its clock
	held      time.Time // when it was made here
	delivered bool      // the worker was told
	cancelled bool      // the worker is to stop
	backstop  *alarm    // rings when the worker should have answered
}

// open reports whether w takes another assignment, if that fits.
func (w *worker) open() bool {
	return w.session != nil && !w.draining && len(w.assignments) < w.slots
}

// lighter reports whether w has less to do than v.
func (w *worker) lighter(v *worker) bool {
	if a, b := len(w.assignments)*v.slots, len(v.assignments)*w.slots; a != b {
		return a < b
	}
	if w.load.CPU != v.load.CPU && w.load.Known && v.load.Known {
		return w.load.CPU < v.load.CPU
	}
	return w.assigned < v.assigned
}

// tell queues an instruction. A worker that lets too many of them wait loses its connection.
func (w *worker) tell(i Instruction) {
	if len(w.outbox) >= maxOutbox {
		if w.session != nil {
			w.s.o.Log.Warn("a worker does not take what it is told", "worker", w.name, "instructions", len(w.outbox))
			w.session.end(ErrUnresponsive)
			w.away()
		}
		if i.Kind == Acknowledge { // it is said again for what the worker says again
			return
		}
	}
	w.outbox = append(w.outbox, i)
	if w.session != nil {
		w.session.notify()
	}
}

// assign gives w the task whose turn it is.
func (s *Scheduler) assign(w *worker, e *entry) {
	t := e.task
	s.platforms[t.need.key].unkeep()
	a := s.hold(w, t, s.run+"-"+nameOf(s.number()), e.inv)
	t.dequeue()
	t.to(Assigned)
	t.on = a
	t.attempts++
	t.changed()
	a.limit(t.timeout + s.o.Slack)
	w.tell(Instruction{
		Kind: Assign, ID: a.id, Key: t.key, Action: t.action, Command: t.command, Timeout: t.timeout,
		Attempt: t.attempts, Queued: t.meta.QueuedTimestamp.AsTime(),
	})
}

// hold makes an assignment and takes what it uses. It counts for v, which may be nil.
func (s *Scheduler) hold(w *worker, t *task, id string, v *invocation) *assignment {
	now := time.Now()
	a := &assignment{id: id, number: s.number(), task: t, worker: w, need: t.need, began: now, held: now}
	w.assignments[id] = a
	w.assigned = a.number
	w.capacity.take(&a.need, 1)
	if v != nil {
		a.inv = v
		v.users++
		v.running++
		v.served = a.number
	}
	return a
}

// release gives back what an assignment uses. It may be called once.
func (a *assignment) release() {
	s, w := a.worker.s, a.worker
	if w.assignments[a.id] != a {
		s.o.Log.Error("an assignment ends twice", "assignment", a.id)
		return
	}
	delete(w.assignments, a.id)
	if !mutant.AmountKept {
		w.capacity.take(&a.need, -1)
	}
	s.silence(a.backstop)
	if a.inv != nil {
		a.inv.running--
		s.leave(a.inv)
	}
}

// limit lets the task go elsewhere if the worker has not answered in d.
func (a *assignment) limit(d time.Duration) {
	s := a.worker.s
	s.silence(a.backstop)
	a.backstop = s.after(d, func() {
		if a.task.on == a {
			a.task.retry(a, "WORKER_SILENT", codes.DeadlineExceeded, "worker "+a.worker.name+" did not answer in time")
		}
	})
}

// cancel tells the worker to stop. What it was not told of ends at once.
func (a *assignment) cancel() {
	s, w := a.worker.s, a.worker
	if a.cancelled || w.assignments[a.id] != a {
		return
	}
	a.cancelled = true
	if !a.delivered {
		w.outbox = slices.DeleteFunc(w.outbox, func(i Instruction) bool { return i.ID == a.id })
		a.release()
		s.refill(w)
		return
	}
	w.tell(Instruction{Kind: Cancel, ID: a.id})
	s.silence(a.backstop)
	a.backstop = s.after(s.o.CancelGrace, func() {
		s.o.Log.Warn("a worker does not stop a cancelled action", "worker", w.name, "action", a.task.key.Action.String())
		if w.session != nil {
			w.session.end(ErrUnresponsive)
			w.away()
		}
	})
}

// refill is fill as soon as the step that is going on has ended: tasks may not be given out in its midst.
func (s *Scheduler) refill(w *worker) {
	s.after(0, func() {
		if slices.Contains(s.workers, w) {
			s.fill(w)
		}
	})
}

// held returns the assignments in the order in which they came.
func (w *worker) held() []*assignment {
	all := make([]*assignment, 0, len(w.assignments))
	for _, a := range w.assignments {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *assignment) int { return int(int64(a.number) - int64(b.number)) })
	return all
}

// away starts the time within which a worker whose connection ended may come back.
func (w *worker) away() {
	s := w.s
	w.session = nil
	s.silence(w.silence)
	s.silence(w.grace)
	w.grace = s.after(s.o.Grace, func() { w.lose("did not come back after its connection broke") })
}

// hear notes that the worker said something.
func (w *worker) hear() { w.seen = time.Now() }

// listen loses the worker once it has been silent for LostAfter.
func (w *worker) listen() {
	s := w.s
	s.silence(w.silence)
	left := time.Until(w.seen.Add(s.o.LostAfter))
	if left > 0 {
		w.silence = s.after(left, w.listen)
		return
	}
	w.lose("said nothing for " + s.o.LostAfter.String())
}

// lose removes the worker. What it was running goes to others.
func (w *worker) lose(why string) {
	s := w.s
	s.silence(w.silence)
	s.silence(w.grace)
	if w.session != nil {
		w.session.end(ErrLost)
		w.session = nil
	}
	s.workers = slices.DeleteFunc(s.workers, func(other *worker) bool { return other == w })
	if w.keptFor != nil {
		w.keptFor.unkeep()
	}
	s.forgetFormer()
	s.recent = append(s.recent, former{w.capacity, time.Now()})
	held := w.held()
	s.o.Log.Warn("a worker is gone", "worker", w.name, "why", why, "actions", len(held))
	for _, a := range held {
		a.release()
	}
	for _, a := range held {
		if t := a.task; t.on == a {
			t.on = nil
			t.retry(a, "WORKER_LOST", codes.Unavailable, "worker "+w.name+" "+why)
		}
	}
	s.changed()
}
