package execution

import (
	"fmt"
	"slices"
	"strings"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/action"
)

// A task is one action on its way to a result.
type task struct {
	s          *Scheduler
	number     uint64 // who came first
	key        action.Key
	state      State
	operations []*operation // not done, in no order; each knows its place

	action   *repb.Action
	command  *repb.Command
	inputs   *inputs // nil until they are leased
	need     need
	timeout  time.Duration
	noCache  bool // Action.do_not_cache: not joined, not looked up, not put
	mustRun  bool // somebody wants no cached result
	adopted  bool // a worker came with it
	ready    chan struct{}
	refused  error  // why it was not admitted; set before ready is closed
	giveUp   func() // ends the asking of store and action cache
	lonely   *alarm // of an adopted task: rings when nobody came for it
	entries  map[*invocation]*entry
	waits    time.Time // when it was queued last
	on       *assignment
	attempts int
	shunned  map[string]bool // sessions of workers that failed it
	trouble  []string        // what went wrong, in words
	// meta is what is known about the run. It is replaced, never changed: others hold it.
	meta  *repb.ExecutedActionMetadata
	logs  logs
	share int // bytes of the response for each operation
}

func (s *Scheduler) newTask(k action.Key) *task {
	t := &task{
		s: s, number: s.number(), key: k, ready: make(chan struct{}),
		entries: map[*invocation]*entry{}, shunned: map[string]bool{},
		meta: &repb.ExecutedActionMetadata{QueuedTimestamp: timestamppb.Now()},
	}
	s.tasks[t] = struct{}{}
	return t
}

// changed tells everybody who watches.
func (t *task) changed() {
	for _, o := range t.operations {
		o.notify()
	}
}

// note changes a copy of what is known about the run.
func (t *task) note(change func(m *repb.ExecutedActionMetadata)) {
	m := proto.CloneOf(t.meta)
	change(m)
	t.meta = m
}

// detach takes the task from its worker, who is told to stop if he still may be at it.
func (t *task) detach() {
	if a := t.on; a != nil {
		t.on = nil
		a.cancel()
	}
}

// end makes the task done, and with it all its operations: with a response, or with an error.
func (t *task) end(resp *repb.ExecuteResponse, failed *spb.Status) {
	s := t.s
	if t.state == Queued {
		t.dequeue()
	}
	if !t.to(Done) {
		return
	}
	t.detach()
	s.silence(t.lonely)
	if t.giveUp != nil {
		t.giveUp()
	}
	if s.inflight[t.key] == t {
		delete(s.inflight, t.key)
	}
	delete(s.tasks, t)
	s.trees.release(t.inputs)
	t.inputs, t.command = nil, nil // operations keep the task for long
	t.logs.end()
	s.keepLogs(t)
	if meta := resp.GetResult().GetExecutionMetadata(); meta != nil {
		t.meta = meta
	}
	if resp != nil && len(t.operations) > 0 {
		t.share = proto.Size(resp) / len(t.operations)
	}
	for len(t.operations) > 0 {
		t.operations[len(t.operations)-1].end(resp, failed)
	}
}

// fail ends the task with an ExecuteResponse that has an error.
func (t *task) fail(code codes.Code, format string, args ...any) {
	st := &spb.Status{Code: int32(code), Message: fmt.Sprintf(format, args...)}
	t.end(&repb.ExecuteResponse{Status: st, Message: t.story()}, nil)
}

// story tells what went wrong, for people.
func (t *task) story() string { return strings.Join(t.trouble, "; ") }

// retry queues the task again after a worker was lost or at fault, or ends it after too many tries with code.
func (t *task) retry(a *assignment, reason string, code codes.Code, why string) {
	s := t.s
	t.trouble = append(t.trouble, fmt.Sprintf("attempt %d of %d: %s", t.attempts, s.o.MaxAttempts, why))
	s.o.Log.Warn("an action is given out again or given up", "action", t.key.Action.String(), "attempt", t.attempts, "of", s.o.MaxAttempts, "why", why)
	detail, err := anypb.New(&errdetails.ErrorInfo{Reason: reason, Domain: "sarsen", Metadata: map[string]string{
		"worker": a.worker.name, "attempt": fmt.Sprint(t.attempts), "message": why,
	}})
	// What the next worker does is not what this one did.
	was := t.meta
	t.meta = &repb.ExecutedActionMetadata{QueuedTimestamp: was.QueuedTimestamp, AuxiliaryMetadata: slices.Clone(was.AuxiliaryMetadata)}
	if err == nil {
		t.meta.AuxiliaryMetadata = append(t.meta.AuxiliaryMetadata, detail)
	}
	t.shunned[a.worker.id] = true
	t.detach()
	switch {
	case len(t.operations) == 0:
		t.end(nil, nil)
	case t.attempts >= s.o.MaxAttempts:
		t.fail(code, "given up after %d attempts; the last: %s", t.attempts, why)
	case t.to(Queued):
		t.enqueue()
		s.after(shunFor, func() {
			if t.state == Queued {
				s.place(t)
			}
		})
	}
}

// drop takes an operation that is about to end from its task. With the last one a task that is not about to end
// anyway is cancelled.
func (t *task) drop(o *operation) {
	t.unline(o)
	last := len(t.operations) - 1
	t.operations[o.index] = t.operations[last]
	t.operations[o.index].index = o.index
	t.operations[last] = nil
	t.operations = t.operations[:last]
	if len(t.operations) == 0 && t.state != Completing && t.state != Done {
		t.end(nil, nil)
	}
}
