package execution

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// Complete says that an assignment ended, and how: with a result and no status (or OK), or DEADLINE_EXCEEDED
// with what there is of a result, or another status and none. UNAVAILABLE, RESOURCE_EXHAUSTED, INTERNAL and CANCELLED
// are taken for trouble of the worker's own, and the action is tried elsewhere. An assignment that is not this
// worker's any more is ignored. Complete keeps resp and may change it. An Acknowledge follows.
func (x *Session) Complete(id string, resp *repb.ExecuteResponse) {
	x.live(func(w *worker) {
		s := x.s
		w.tell(Instruction{Kind: Acknowledge, ID: id})
		a := w.assignments[id]
		if a == nil {
			return
		}
		a.release()
		if t := a.task; t.on == a {
			t.on = nil
			t.to(Completing)
			now := timestamppb.Now()
			resp := answerable(resp)
			s.spawn(func(ctx context.Context) { s.settle(ctx, t, a, resp, now) })
			t.changed()
		}
		s.fill(w)
	})
}

// What an answer may have, in bytes: all of it, so that with what goes around it a client with gRPC's default limit
// of 4 MiB receives it; and a worker's words, since those of all attempts are in the answer.
const (
	maxResponse = 3<<20 + 512<<10
	maxWords    = 4 << 10
)

// answerable returns resp, or what is wrong with it if clients could not receive it.
func answerable(resp *repb.ExecuteResponse) *repb.ExecuteResponse {
	if n := proto.Size(resp); n > maxResponse {
		st := &spb.Status{Code: int32(codes.FailedPrecondition), Message: fmt.Sprintf(
			"the result of the action has %d bytes, which is larger than the %d that can be answered; name directories as outputs instead of the files in them", n, maxResponse)}
		if resp.GetStatus().GetCode() != int32(codes.OK) {
			st = &spb.Status{Code: resp.Status.Code, Message: resp.Status.Message}
		}
		resp = &repb.ExecuteResponse{Status: st}
	}
	if st := resp.GetStatus(); len(st.GetMessage()) > maxWords {
		st.Message = strings.ToValidUTF8(st.Message[:maxWords], "") + " ..."
	}
	return resp
}

// settle looks at what a worker answered, and ends the task with it or has it tried again.
func (s *Scheduler) settle(ctx context.Context, t *task, a *assignment, resp *repb.ExecuteResponse, now *timestamppb.Timestamp) {
	<-t.ready // a task that a worker came with may not have been read yet
	sim.Point("execution: answered")
	again := s.check(ctx, t, resp)
	sim.Point("execution: checked")
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.state != Completing || s.closed {
		return
	}
	if again != nil {
		t.retry(a, "WORKER_FAILED", codes.Code(again.Code), "worker "+a.worker.name+": "+again.Message)
		return
	}
	if r := resp.GetResult(); r != nil {
		r.ExecutionMetadata = s.metadata(t, a, r.GetExecutionMetadata(), now)
	}
	t.end(resp, nil)
}

// check puts a result into the action cache, if it may be there. It returns why the action has to be tried again,
// or nil. The lock is not held.
func (s *Scheduler) check(ctx context.Context, t *task, resp *repb.ExecuteResponse) *spb.Status {
	if t.refused != nil {
		return &spb.Status{Code: int32(codes.FailedPrecondition), Message: t.refused.Error()}
	}
	st, result := resp.GetStatus(), resp.GetResult()
	if retried(codes.Code(st.GetCode())) {
		if st.GetCode() == int32(codes.Canceled) {
			return &spb.Status{Code: int32(codes.Unavailable), Message: "it stopped by itself: " + st.Message}
		}
		return st
	}
	if result == nil {
		if st.GetCode() == int32(codes.OK) {
			return &spb.Status{Code: int32(codes.Internal), Message: "it answered without a result"}
		}
		return nil
	}
	if st.GetCode() == int32(codes.OK) && result.ExitCode == 0 && !t.noCache {
		err := s.o.Actions.Put(ctx, t.key, result)
		if err == nil {
			return nil
		}
		if errors.As(err, new(*blob.MissingError)) {
			return &spb.Status{Code: int32(codes.Unavailable), Message: err.Error()}
		}
		if malformed := (*action.FieldError)(nil); errors.As(err, &malformed) {
			return &spb.Status{Code: int32(codes.Internal), Message: err.Error()}
		}
		s.o.Log.Warn("a result could not be put into the action cache", "action", t.key.Action.String(), "error", err)
	}
	gone, err := s.o.Actions.Lease(ctx, t.key.Action.Function, result)
	if err != nil {
		return &spb.Status{Code: int32(codes.Unavailable), Message: fmt.Sprintf("its result could not be checked: %v", err)}
	}
	if gone.Len() > 0 && !mutant.HoleServed {
		return &spb.Status{Code: int32(codes.Unavailable), Message: fmt.Sprintf("its result names %v", &blob.MissingError{Blobs: gone.List()})}
	}
	return nil
}

// metadata returns what is known about the run that ended: what the worker says, and what was seen from here.
func (s *Scheduler) metadata(t *task, a *assignment, m *repb.ExecutedActionMetadata, now *timestamppb.Timestamp) *repb.ExecutedActionMetadata {
	if m == nil {
		m = new(repb.ExecutedActionMetadata)
	}
	said := &repb.ExecutedActionMetadata{}
	copyTimes(said, m)
	copyTimes(m, t.meta)
	copyTimes(m, said)
	m.QueuedTimestamp = t.meta.QueuedTimestamp
	if m.WorkerStartTimestamp == nil {
		m.WorkerStartTimestamp = timestamppb.New(a.began)
	}
	if m.WorkerCompletedTimestamp == nil {
		m.WorkerCompletedTimestamp = now
	}
	if m.Worker == "" {
		m.Worker = a.worker.name
	}
	m.AuxiliaryMetadata = slices.Concat(t.meta.AuxiliaryMetadata, m.AuxiliaryMetadata)
	return m
}

// copyTimes sets in m what from has of a worker's timestamps, and its name.
func copyTimes(m, from *repb.ExecutedActionMetadata) {
	if from.GetWorker() != "" {
		m.Worker = from.Worker
	}
	for _, p := range []struct {
		to   **timestamppb.Timestamp
		from *timestamppb.Timestamp
	}{
		{&m.WorkerStartTimestamp, from.GetWorkerStartTimestamp()},
		{&m.InputFetchStartTimestamp, from.GetInputFetchStartTimestamp()},
		{&m.InputFetchCompletedTimestamp, from.GetInputFetchCompletedTimestamp()},
		{&m.ExecutionStartTimestamp, from.GetExecutionStartTimestamp()},
		{&m.ExecutionCompletedTimestamp, from.GetExecutionCompletedTimestamp()},
		{&m.OutputUploadStartTimestamp, from.GetOutputUploadStartTimestamp()},
		{&m.OutputUploadCompletedTimestamp, from.GetOutputUploadCompletedTimestamp()},
		{&m.WorkerCompletedTimestamp, from.GetWorkerCompletedTimestamp()},
	} {
		if p.from != nil {
			*p.to = p.from
		}
	}
}

// adopt takes over an assignment that a worker has and nobody here gave it.
func (s *Scheduler) adopt(w *worker, r Running) {
	t := s.inflight[r.Key]
	switch {
	case t == nil:
		t = s.newTask(r.Key)
		t.adopted, t.timeout, t.attempts = true, s.o.MaxTimeout, 1
		s.inflight[r.Key] = t
		t.lonely = s.after(s.o.LeaveGrace, func() {
			if len(t.operations) == 0 && t.state != Completing {
				t.end(nil, nil)
			}
		})
		s.spawn(func(ctx context.Context) { s.read(ctx, t) })
	case t.state == Queued:
		t.dequeue()
	default:
		// Somebody else is at it, or will be. The slot is taken until this worker has stopped.
		a := s.hold(w, t, r.ID, nil)
		a.delivered = true
		a.cancel()
		return
	}
	var v *invocation
	if len(t.operations) > 0 {
		v = t.operations[0].inv
	}
	a := s.hold(w, t, r.ID, v)
	a.delivered = true
	if !r.Started.IsZero() && r.Started.Before(a.began) {
		a.began = r.Started
	}
	t.to(Executing)
	t.on = a
	a.limit(t.timeout + s.o.Slack) // the worker's clock may be wrong
	s.o.Log.Info("a worker came back with an action", "worker", w.name, "action", t.key.Action.String())
	t.changed()
}
