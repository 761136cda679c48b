package execution

import (
	"context"
	"errors"
	"fmt"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A Request is what a client wants run.
type Request struct {
	Key        action.Key
	SkipCache  bool   // run it even if there is a result
	Priority   int32  // lower runs sooner
	Invocation string // RequestMetadata.tool_invocation_id; all requests without one share a turn
	Tool       string // for the log, as the next two
	Target     string
	Mnemonic   string
	StreamLogs bool // the metadata names stdout and stderr as they come
}

// Messages larger than this are not read. Together they fit into the 4 MiB that a worker receives at once.
const (
	maxAction  = 1 << 20
	maxCommand = 3<<20 - 64<<10
)

// Execute runs an action, or joins one that is running, or answers from the action cache. It returns when the
// action is queued or better. Missing inputs are a *blob.MissingError with all of them, malformed ones an
// *action.FieldError that names the field; ErrBusy says that there are too many operations. If ctx ends first, nothing is left behind.
func (s *Scheduler) Execute(ctx context.Context, r Request) (*Watch, error) {
	a, err := s.readAction(ctx, r.Key.Action)
	if err != nil {
		return nil, err
	}
	timeout, err := s.timeout(a)
	if err != nil {
		return nil, err
	}
	sim.Point("execution: action read")
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	if len(s.operations)-len(s.finished) >= s.o.MaxOperations {
		s.mu.Unlock()
		return nil, ErrBusy
	}
	t := s.joined(r, a)
	if t == nil {
		t = s.begin(r, a, timeout)
	}
	o := s.operation(t, r)
	w := o.watch()
	if t.state == Queued {
		t.line(o)
		s.place(t) // it may be urgent now
	}
	s.mu.Unlock()
	select {
	case <-t.ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, ErrClosed
	case err != nil && !o.done:
		o.forget()
		return nil, err
	case err != nil:
		return nil, err
	case t.refused != nil:
		if !o.done {
			o.forget()
		}
		return nil, t.refused
	}
	s.o.Log.Debug("execute", "operation", o.name, "action", t.key.Action.String(), "state", t.state.String(),
		"invocation", r.Invocation, "tool", r.Tool, "target", r.Target, "mnemonic", r.Mnemonic)
	return w, nil
}

// joined returns the task that r can join, or nil.
func (s *Scheduler) joined(r Request, a *repb.Action) *task {
	t := s.inflight[r.Key]
	if t == nil || a.GetDoNotCache() || mutant.RunsTwice {
		return nil
	}
	if r.SkipCache {
		t.mustRun = true
	}
	s.silence(t.lonely)
	return t
}

// begin makes a task and has its inputs looked at.
func (s *Scheduler) begin(r Request, a *repb.Action, timeout time.Duration) *task {
	t := s.newTask(r.Key)
	t.action, t.timeout, t.noCache, t.mustRun = a, timeout, a.GetDoNotCache(), r.SkipCache
	if !t.noCache {
		s.inflight[r.Key] = t
	}
	t.to(Checking)
	s.spawn(func(ctx context.Context) { s.admit(ctx, t) })
	return t
}

// timeout returns how long the command of a may run.
func (s *Scheduler) timeout(a *repb.Action) (time.Duration, error) {
	if a.GetTimeout() == nil {
		return s.o.MaxTimeout, nil
	}
	if err := a.Timeout.CheckValid(); err != nil {
		return 0, invalid("action.timeout", "%v", err)
	}
	d := a.Timeout.AsDuration()
	switch {
	case d < 0:
		return 0, invalid("action.timeout", "%s is negative", d)
	case d > s.o.MaxTimeout:
		return 0, invalid("action.timeout", "%s is longer than the maximum of %s", d, s.o.MaxTimeout)
	case d == 0:
		return s.o.MaxTimeout, nil
	}
	return d, nil
}

// admit answers a task that is checking from the action cache, or queues it, or refuses it.
func (s *Scheduler) admit(ctx context.Context, t *task) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	t.giveUp = cancel
	ask := t.state == Checking && !t.noCache && !t.mustRun
	s.mu.Unlock()
	if ask && s.cached(ctx, t) {
		return
	}
	s.read(ctx, t)
}

// cached ends the task if the action cache has its result and nobody wants it run all the same.
func (s *Scheduler) cached(ctx context.Context, t *task) bool {
	result, err := s.o.Actions.Get(ctx, t.key)
	if err != nil {
		if !errors.Is(err, blob.ErrNotFound) && ctx.Err() == nil {
			s.o.Log.Warn("the action cache does not answer", "action", t.key.Action.String(), "error", err)
		}
		return false
	}
	sim.Point("execution: cached result found")
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.state != Checking || t.mustRun {
		return false
	}
	t.end(&repb.ExecuteResponse{Result: result, CachedResult: true}, nil)
	close(t.ready)
	return true
}

// read reads and leases what the task needs, and queues it, unless a worker has it already.
func (s *Scheduler) read(ctx context.Context, t *task) {
	found, err := s.load(ctx, t)
	sim.Point("execution: inputs leased")
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(t.ready)
	if err != nil {
		s.trees.release(found.inputs)
		s.refuse(t, err)
		return
	}
	if t.state == Done {
		s.trees.release(found.inputs)
		return
	}
	t.action, t.command, t.need, t.inputs = found.action, found.command, found.need, found.inputs
	t.timeout, t.noCache = found.timeout, found.action.GetDoNotCache()
	switch a := t.on; {
	case t.state == Checking:
		t.to(Queued)
		t.enqueue()
	case t.noCache && t.state.onWorker():
		t.end(nil, nil) // who wanted it can't come back to it
	case a != nil:
		a.worker.capacity.take(&a.need, -1)
		a.need = t.need
		a.worker.capacity.take(&a.need, 1)
		a.limit(time.Until(a.held.Add(t.timeout + s.o.Slack)))
	}
}

// refuse ends a task that can't run. Its operations vanish: Execute returns err instead of them.
func (s *Scheduler) refuse(t *task, err error) {
	t.refused = err
	for len(t.operations) > 0 {
		t.operations[len(t.operations)-1].forget()
	}
	if t.state != Done && t.state != Completing {
		t.end(nil, nil)
	}
}

// What load found.
type loaded struct {
	action  *repb.Action
	command *repb.Command
	need    need
	timeout time.Duration
	inputs  *inputs
}

// load reads the action, if nobody has, its command, and all that lies below its input root, and leases all of it.
func (s *Scheduler) load(ctx context.Context, t *task) (l loaded, err error) {
	if l.action = t.action; l.action == nil {
		if l.action, err = s.readAction(ctx, t.key.Action); err != nil {
			return l, err
		}
	}
	if l.timeout, err = s.timeout(l.action); err != nil {
		return l, err
	}
	f := t.key.Action.Function
	name, err := parse("action.command_digest", f, l.action.GetCommandDigest())
	if err != nil {
		return l, err
	}
	root, err := parse("action.input_root_digest", f, l.action.GetInputRootDigest())
	if err != nil {
		return l, err
	}
	var absent digest.Set
	l.command = new(repb.Command)
	err = s.message(ctx, "action.command_digest", name, maxCommand, l.command)
	if errors.Is(err, blob.ErrNotFound) {
		absent.Add(name)
	} else if err != nil {
		return l, err
	}
	if l.inputs, err = s.lease(ctx, root, &absent, t.key.Action, name); err != nil {
		return l, err
	}
	if absent.Len() > 0 {
		return l, missing(absent.List()...)
	}
	if len(l.command.GetArguments()) == 0 {
		return l, invalid("command.arguments", "there is nothing to run")
	}
	field, platform := "action.platform", l.action.GetPlatform()
	if platform == nil {
		//lint:ignore SA1019 Clients of before version 2.2 say it there.
		field, platform = "command.platform", l.command.GetPlatform()
	}
	l.need, err = s.parseNeed(field, platform)
	return l, err
}

// readAction reads an Action.
func (s *Scheduler) readAction(ctx context.Context, d digest.Digest) (*repb.Action, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.StoreTimeout)
	defer cancel()
	a := new(repb.Action)
	err := s.message(ctx, "action_digest", d, maxAction, a)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, missing(d)
	}
	return a, err
}

// message reads the blob d as m. Errors name the field that has the digest.
func (s *Scheduler) message(ctx context.Context, field string, d digest.Digest, most int64, m proto.Message) error {
	if d.Size > most {
		return invalid(field, "%s is larger than the %d bytes that are read", d, most)
	}
	data, errs := s.store.GetAll(ctx, []digest.Digest{d})
	if errors.Is(errs[0], blob.ErrCorrupt) {
		return fmt.Errorf("%w: %v", blob.ErrNotFound, errs[0]) // whoever needs it has to bring it again
	}
	if errs[0] != nil {
		return errs[0]
	}
	if err := proto.Unmarshal(data[0], m); err != nil {
		return invalid(field, "blob %s is not a %s: %v", d, m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// parse reads a digest of a message.
func parse(field string, f digest.Function, p *repb.Digest) (digest.Digest, error) {
	if p == nil {
		return digest.Digest{}, invalid(field, "it is not set")
	}
	if p.GetSizeBytes() < 0 {
		return digest.Digest{}, invalid(field, "size %d is negative", p.GetSizeBytes())
	}
	d, err := digest.New(f, p.GetHash(), p.GetSizeBytes())
	if err != nil {
		return d, &action.FieldError{Field: field, Err: err}
	}
	return d, nil
}
