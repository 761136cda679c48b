package execution

import (
	"context"
	"fmt"
	"io"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

// An operation is what one client was promised.
type operation struct {
	s        *Scheduler
	name     string
	task     *task
	index    int // in the task's operations
	bytes    int // its share of the response
	inv      *invocation
	priority int32
	streams  bool // its metadata names the logs
	watches  map[*Watch]struct{}
	leaving  *alarm // rings when nobody has waited for long

	done     bool
	since    time.Time // it is done
	meta     *repb.ExecutedActionMetadata
	response *repb.ExecuteResponse // of what is done, or
	failed   *spb.Status           // why there is none
}

// operation makes an operation that waits for t.
func (s *Scheduler) operation(t *task, r Request) *operation {
	o := &operation{
		s: s, name: "operations/" + nameOf(s.number()), task: t, inv: s.invocation(r.Invocation),
		priority: r.Priority, streams: r.StreamLogs, watches: map[*Watch]struct{}{}, index: len(t.operations),
	}
	s.operations[o.name] = o
	t.operations = append(t.operations, o)
	return o
}

func (o *operation) notify() {
	for w := range o.watches {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// end makes the operation done.
func (o *operation) end(resp *repb.ExecuteResponse, failed *spb.Status) {
	s := o.s
	if o.done {
		s.o.Log.Error("an operation ends twice", "operation", o.name)
		return
	}
	if resp == nil && failed == nil {
		failed = &spb.Status{Code: int32(codes.Canceled), Message: "the operation was cancelled"}
	}
	o.done, o.since, o.response, o.failed, o.meta = true, time.Now(), resp, failed, o.task.meta
	s.silence(o.leaving)
	o.task.drop(o)
	s.leave(o.inv)
	s.finished = append(s.finished, o)
	if resp != nil {
		o.bytes = o.task.share
		s.finishedBytes += o.bytes
	}
	for len(s.finished) > s.o.MaxDone || s.finishedBytes > maxDoneBytes {
		s.forgetFirst()
	}
	if s.expiry == nil {
		s.expiry = s.after(s.o.KeepDone, s.expire)
	}
	o.notify()
}

// maxDoneBytes is how large the responses of all finished operations that are kept may be.
const maxDoneBytes = 256 << 20

func (s *Scheduler) forgetFirst() {
	s.finishedBytes -= s.finished[0].bytes
	delete(s.operations, s.finished[0].name)
	s.finished[0] = nil
	s.finished = s.finished[1:]
}

// expire forgets what has been done for long.
func (s *Scheduler) expire() {
	s.expiry = nil
	for len(s.finished) > 0 && time.Since(s.finished[0].since) >= s.o.KeepDone {
		s.forgetFirst()
	}
	if len(s.finished) > 0 {
		s.expiry = s.after(time.Until(s.finished[0].since.Add(s.o.KeepDone)), s.expire)
	}
}

// forget removes an operation that nobody was told of.
func (o *operation) forget() {
	o.s.silence(o.leaving)
	o.task.drop(o)
	o.s.leave(o.inv)
	delete(o.s.operations, o.name)
	o.done = true
}

// await starts the time after which an operation that nobody waits for is cancelled, anew.
func (o *operation) await() {
	if o.done || len(o.watches) > 0 {
		return
	}
	o.s.silence(o.leaving)
	o.leaving = o.s.after(o.s.o.LeaveGrace, func() {
		o.end(nil, &spb.Status{
			Code:    int32(codes.Canceled),
			Message: fmt.Sprintf("cancelled: nobody waited for the operation or asked for it for %s", o.s.o.LeaveGrace),
		})
	})
}

// A view is what is to be known of an operation at an instant.
type view struct {
	name     string
	task     *task
	stage    repb.ExecutionStage_Value
	streams  bool
	done     bool
	meta     *repb.ExecutedActionMetadata
	response *repb.ExecuteResponse
	failed   *spb.Status
}

func (o *operation) view() view {
	v := view{o.name, o.task, o.task.state.stage(), o.streams, o.done, o.task.meta, o.response, o.failed}
	if o.done {
		v.stage, v.meta = repb.ExecutionStage_COMPLETED, o.meta
	}
	return v
}

// proto makes the message. It takes time, and no lock.
func (v *view) proto() (*longrunningpb.Operation, error) {
	k := v.task.key.Action
	meta := &repb.ExecuteOperationMetadata{
		Stage:                    v.stage,
		ActionDigest:             &repb.Digest{Hash: k.Hex(), SizeBytes: k.Size},
		DigestFunction:           repb.DigestFunction_Value(k.Function),
		PartialExecutionMetadata: v.meta,
	}
	if v.streams {
		meta.StdoutStreamName, meta.StderrStreamName = logName(v.name, Stdout), logName(v.name, Stderr)
	}
	packed, err := anypb.New(meta)
	if err != nil {
		return nil, err
	}
	op := &longrunningpb.Operation{Name: v.name, Metadata: packed, Done: v.done}
	switch {
	case v.failed != nil:
		op.Result = &longrunningpb.Operation_Error{Error: v.failed}
	case v.response != nil:
		if packed, err = anypb.New(v.response); err != nil {
			return nil, err
		}
		op.Result = &longrunningpb.Operation_Response{Response: packed}
	}
	return op, nil
}

// A Watch follows one operation. Close it when done.
type Watch struct {
	s     *Scheduler
	o     *operation
	wake  chan struct{}
	begun bool
	ended bool
}

// watch makes a Watch.
func (o *operation) watch() *Watch {
	w := &Watch{s: o.s, o: o, wake: make(chan struct{}, 1)}
	o.watches[w] = struct{}{}
	o.s.silence(o.leaving)
	o.leaving = nil
	return w
}

// Name returns the operation's name.
func (w *Watch) Name() string { return w.o.name }

// Next returns the operation as it is, at the first call at once and then when it has changed; several changes may
// come as one. After it was returned as done comes io.EOF. ErrClosed says that the scheduler is shutting down, and
// nothing about the operation.
func (w *Watch) Next(ctx context.Context) (*longrunningpb.Operation, error) {
	if w.ended {
		return nil, io.EOF
	}
	if w.begun {
		select {
		case <-w.wake:
		case <-w.s.ctx.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.begun = true
	w.s.mu.Lock()
	v, closed := w.o.view(), w.s.closed
	if !v.done && !closed {
		// What happened so far is in v.
		select {
		case <-w.wake:
		default:
		}
	}
	w.s.mu.Unlock()
	if closed && !v.done {
		return nil, ErrClosed
	}
	w.ended = v.done
	return v.proto()
}

// Close says that this client leaves. When no client is left, the operation is cancelled after LeaveGrace, and the
// action with it if no other operation waits for that.
func (w *Watch) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if _, open := w.o.watches[w]; !open {
		return
	}
	delete(w.o.watches, w)
	w.o.await()
}
