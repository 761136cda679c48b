package execution

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

func init() { strict = true }

// A rig is a scheduler with a store and an action cache, and what it logged.
type rig struct {
	*testing.T
	s     *Scheduler
	store *model.Store
	cache *action.Cache
	log   *logged
}

// logged is a log that may be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const aLease = 10 * time.Minute

// bubble runs a test with fake time on a rig that is past its settling.
func bubble(t *testing.T, change func(*Options), do func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change)
		time.Sleep(10 * time.Second)
		do(t, r)
		r.check()
	})
}

func newRig(t *testing.T, change func(*Options)) *rig {
	store := model.New(aLease)
	r := &rig{T: t, store: store, cache: action.New(store, store), log: new(logged)}
	o := Options{Actions: r.cache, Store: store, Lease: aLease, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	if change != nil {
		change(&o)
	}
	r.s = New(o)
	t.Cleanup(r.s.Close)
	return r
}

// put stores a message or text as a blob.
func (r *rig) put(m any) *repb.Digest {
	r.Helper()
	data, ok := m.([]byte)
	if !ok {
		var err error
		if data, err = proto.Marshal(m.(proto.Message)); err != nil {
			r.Fatal(err)
		}
	}
	d := digest.SHA256.Of(data)
	if err := blob.Put(context.Background(), r.store, d, data); err != nil {
		r.Fatal(err)
	}
	return protoOf(d)
}

func protoOf(d digest.Digest) *repb.Digest {
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

func digestOf(p *repb.Digest) digest.Digest {
	d, err := digest.New(digest.SHA256, p.Hash, p.SizeBytes)
	if err != nil {
		panic(err)
	}
	return d
}

// platformOf makes properties of texts like cpu=2.
func platformOf(texts ...string) (ps []*repb.Platform_Property) {
	for _, text := range texts {
		name, value, _ := strings.Cut(text, "=")
		ps = append(ps, &repb.Platform_Property{Name: name, Value: value})
	}
	return ps
}

// action stores an action that says its name, with one input, and returns its key.
func (r *rig) action(name string, change func(*repb.Action), platform ...string) action.Key {
	r.Helper()
	leaf := &repb.Directory{Files: []*repb.FileNode{{Name: "shared.h", Digest: r.put([]byte("shared"))}}}
	root := &repb.Directory{
		Files:       []*repb.FileNode{{Name: "in", Digest: r.put([]byte("input of " + name))}},
		Directories: []*repb.DirectoryNode{{Name: "leaf", Digest: r.put(leaf)}},
	}
	a := &repb.Action{
		CommandDigest:   r.put(&repb.Command{Arguments: []string{"echo", name}}),
		InputRootDigest: r.put(root),
		Timeout:         durationpb.New(time.Minute),
		Platform:        &repb.Platform{Properties: platformOf(platform...)},
	}
	if change != nil {
		change(a)
	}
	return action.Key{Instance: "main", Action: digestOf(r.put(a))}
}

func uncached(a *repb.Action) { a.DoNotCache = true }

// execute executes an action whose admission succeeds.
func (r *rig) execute(k action.Key, change ...func(*Request)) *Watch {
	r.Helper()
	req := Request{Key: k}
	for _, c := range change {
		c(&req)
	}
	w, err := r.s.Execute(context.Background(), req)
	if err != nil {
		r.Fatalf("Execute = %v", err)
	}
	return w
}

func as(invocation string) func(*Request) { return func(r *Request) { r.Invocation = invocation } }
func at(priority int32) func(*Request)    { return func(r *Request) { r.Priority = priority } }
func fresh(r *Request)                    { r.SkipCache = true }

// An answer is an operation, unpacked.
type answer struct {
	*longrunningpb.Operation
	meta *repb.ExecuteOperationMetadata
	resp *repb.ExecuteResponse
}

func (r *rig) unpack(op *longrunningpb.Operation, err error) answer {
	r.Helper()
	if err != nil {
		r.Fatalf("operation: %v", err)
	}
	a := answer{op, new(repb.ExecuteOperationMetadata), new(repb.ExecuteResponse)}
	if err := op.Metadata.UnmarshalTo(a.meta); err != nil {
		r.Fatal(err)
	}
	if op.GetResponse() != nil {
		if err := op.GetResponse().UnmarshalTo(a.resp); err != nil {
			r.Fatal(err)
		}
	}
	return a
}

// now returns the operation as it is.
func (r *rig) now(w *Watch) answer {
	r.Helper()
	synctest.Wait()
	r.s.mu.Lock()
	v := w.o.view()
	r.s.mu.Unlock()
	return r.unpack(v.proto())
}

// end follows w until it is done.
func (r *rig) end(w *Watch) answer {
	r.Helper()
	for {
		a := r.unpack(w.Next(context.Background()))
		if a.Done {
			if _, err := w.Next(context.Background()); err != io.EOF {
				r.Errorf("Next after done = %v, want EOF", err)
			}
			return a
		}
	}
}

func (r *rig) stage(w *Watch, want repb.ExecutionStage_Value) {
	r.Helper()
	if got := r.now(w).meta.Stage; got != want {
		r.Errorf("stage: got %v, want %v", got, want)
	}
}

// A hand is a worker that does what the test says.
type hand struct {
	*Session
	r   *rig
	reg Registration
}

// worker connects a worker with slots and properties.
func (r *rig) worker(name string, slots int, platform ...string) *hand {
	r.Helper()
	reg := Registration{Name: name, Session: "session of " + name, Slots: slots, Properties: platformOf(platform...)}
	return r.connect(reg)
}

func (r *rig) connect(reg Registration) *hand {
	r.Helper()
	x, err := r.s.Connect(reg)
	if err != nil {
		r.Fatalf("Connect = %v", err)
	}
	return &hand{x, r, reg}
}

// told returns the instructions that are there now, but for acknowledgements.
func (h *hand) told() (all []Instruction) {
	synctest.Wait()
	for {
		i, ok, err := h.next()
		if !ok || err != nil {
			return all
		}
		if i.Kind != Acknowledge {
			all = append(all, i)
		}
	}
}

// assigned returns the one assignment that there is now.
func (h *hand) assigned() Instruction {
	h.r.Helper()
	all := h.told()
	if len(all) != 1 || all[0].Kind != Assign {
		h.r.Fatalf("worker %s is told %v, want one assignment", h.reg.Name, all)
	}
	return all[0]
}

// nothing fails the test if there is an instruction.
func (h *hand) nothing() {
	h.r.Helper()
	if all := h.told(); len(all) > 0 {
		h.r.Errorf("worker %s is told %v, want nothing", h.reg.Name, all)
	}
}

// succeed completes an assignment with a result that has one output.
func (h *hand) succeed(i Instruction) {
	h.r.Helper()
	out := h.r.put([]byte("output of " + i.Command.GetArguments()[1]))
	h.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "out", Digest: out}}}})
	synctest.Wait()
}

func (h *hand) fail(i Instruction, code codes.Code, message string) {
	h.Complete(i.ID, &repb.ExecuteResponse{Status: &spb.Status{Code: int32(code), Message: message}})
	synctest.Wait()
}

// keep heartbeats for d.
func (h *hand) keep(d time.Duration) {
	for ; d > 0; d -= 10 * time.Second {
		time.Sleep(min(d, 10*time.Second))
		h.Heartbeat(Load{})
	}
	synctest.Wait()
}

// check fails the test if an invariant does not hold.
func (r *rig) check() {
	r.Helper()
	synctest.Wait()
	for _, wrong := range r.s.wrong() {
		r.Error(wrong)
	}
	if strings.Contains(r.log.String(), "level=ERROR") {
		r.Errorf("the log has errors:\n%s", r.log)
	}
}

// wrong returns which invariants do not hold. Nothing may be going on.
func (s *Scheduler) wrong() (all []string) {
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrongWorkers(say)
	s.wrongTasks(say)
	running, users := map[*invocation]int{}, map[*invocation]int{}
	for _, w := range s.workers {
		for _, a := range w.assignments {
			if a.inv != nil {
				running[a.inv]++
				users[a.inv]++
			}
		}
	}
	open := 0
	for name, o := range s.operations {
		if o.done {
			open++
			continue
		}
		users[o.inv]++
		if s.operations[o.name] != o || name != o.name {
			say("operation %s is filed as %s", o.name, name)
		}
		if _, ok := s.tasks[o.task]; !ok {
			say("OnceDone: operation %s is not done and its task is", o.name)
		}
		if len(o.watches) == 0 && (o.leaving == nil || o.leaving.index < 0) {
			say("OnceDone: nobody waits for operation %s, and no alarm ends it", o.name)
		}
	}
	if open != len(s.finished) {
		say("%d operations are done, %d are to be forgotten", open, len(s.finished))
	}
	if len(s.invocations) != len(users) {
		say("%d invocations, %d of them are used", len(s.invocations), len(users))
	}
	for _, v := range s.invocations {
		if v.running != running[v] || v.users != users[v] {
			say("invocation %q counts %d running and %d users, there are %d and %d", v.id, v.running, v.users, running[v], users[v])
		}
	}
	return all
}

func (s *Scheduler) wrongWorkers(say func(string, ...any)) {
	for _, w := range s.workers {
		used := map[string]int64{}
		for id, a := range w.assignments {
			if a.id != id || a.worker != w {
				say("SlotsCounted: worker %s holds %s of %s as %s", w.name, a.id, a.worker.name, id)
			}
			if a.backstop == nil || a.backstop.index < 0 {
				if w.session != nil {
					say("SlotsCounted: assignment %s has no deadline", id)
				}
			}
			if (a.task.on == a) == a.cancelled {
				say("SlotsCounted: assignment %s is cancelled: %v; its task is on it: %v", id, a.cancelled, a.task.on == a)
			}
			for _, m := range a.need.minimum {
				used[m.name] += m.n
			}
		}
		for name, n := range w.capacity.used {
			if n != used[name] {
				say("SlotsCounted: worker %s counts %s=%d, in use are %d", w.name, name, n, used[name])
			}
		}
		if w.session == nil && (w.grace == nil || w.grace.index < 0) {
			say("worker %s is disconnected, and no alarm ends it", w.name)
		}
		if w.session != nil && (w.silence == nil || w.silence.index < 0) {
			say("worker %s is connected, and no alarm watches it", w.name)
		}
		if w.keptFor != nil && (w.keptFor.kept != w || s.platforms[w.keptFor.need.key] != w.keptFor) {
			say("worker %s is kept for what does not wait for it", w.name)
		}
		if e := s.pick(w); e != nil {
			say("WorkConserved: worker %s could run action %s", w.name, e.task.key.Action)
		}
	}
}

func (s *Scheduler) wrongTasks(say func(string, ...any)) {
	keys, queued := map[action.Key]int{}, 0
	held := map[digest.Digest]int{}
	for t := range s.tasks {
		if !t.noCache {
			keys[t.key]++
		}
		if t.inputs != nil {
			for _, n := range t.inputs.nodes {
				held[n.digest]++
			}
		}
		if len(t.operations) == 0 && !t.adopted && t.state != Completing {
			say("a task %s has no operation", t.state)
		}
		if t.state.onWorker() != (t.on != nil) {
			say("a task %s has assignment %v", t.state, t.on)
		}
		if t.on != nil && t.on.worker.assignments[t.on.id] != t.on {
			say("a task is on an assignment that its worker does not have")
		}
		if (t.state == Queued) != (len(t.entries) > 0) {
			say("a task %s stands in %d lines", t.state, len(t.entries))
		}
		if t.state != Queued {
			continue
		}
		queued++
		p := s.platforms[t.need.key]
		if _, ok := p.tasks[t]; !ok {
			say("a queued task is not in its platform")
		}
		hope := p.hope != nil && p.hope.index >= 0
		able := false
		for _, w := range s.workers {
			able = able || w.able(&t.need)
		}
		if able == hope {
			say("a queued task has a worker: %v, and an alarm as it has none: %v", able, hope)
		}
		wishes := 0
		for _, e := range t.entries {
			for priority, n := range e.wishes {
				wishes += n
				if n < 1 || priority < e.priority {
					say("a queued task stands in line %q as %d, and is wished for %d times as %d", e.inv.id, e.priority, n, priority)
				}
			}
		}
		if wishes != len(t.operations) {
			say("a queued task is wished for %d times, by %d operations", wishes, len(t.operations))
		}
		for i, o := range t.operations {
			if o.index != i {
				say("operation %d of a task takes itself for %d", i, o.index)
			}
			if e := t.entries[o.inv]; e == nil || e.priority > o.priority {
				say("a queued task stands in line %q as %v, and its operation has priority %d", o.inv.id, e, o.priority)
			}
		}
	}
	for _, n := range keys {
		if n > 1 {
			say("RunsOnce: %d tasks have one key", n)
		}
	}
	for _, p := range s.platforms {
		queued -= len(p.tasks)
	}
	if queued != 0 {
		say("%d more tasks are queued than stand in platforms", queued)
	}
	s.trees.mu.Lock()
	defer s.trees.mu.Unlock()
	if len(held) != len(s.trees.nodes) {
		say("InputsHeld: %d directories are held, %d are used", len(s.trees.nodes), len(held))
	}
	for d, n := range held {
		if got := s.trees.nodes[d]; got == nil || got.users != n {
			say("InputsHeld: directory %s is held as %v, used by %d", d, got, n)
		}
	}
}

// blameOf returns the field that an error is about.
func blameOf(err error) string {
	var f *action.FieldError
	if errors.As(err, &f) {
		return f.Field
	}
	return fmt.Sprintf("none: %v", err)
}

func statusOf(c codes.Code) *spb.Status { return &spb.Status{Code: int32(c)} }
