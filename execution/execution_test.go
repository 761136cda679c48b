package execution

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

const (
	queuedStage    = repb.ExecutionStage_QUEUED
	executingStage = repb.ExecutionStage_EXECUTING
	completedStage = repb.ExecutionStage_COMPLETED
)

// TestLife follows one action through all stages, and asks for its times.
func TestLife(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		k := r.action("a", nil)
		began := time.Now()
		w := r.execute(k)
		r.stage(w, queuedStage)
		time.Sleep(time.Second)
		h := r.worker("w", 1)
		i := h.assigned()
		if i.Command.Arguments[1] != "a" || i.Timeout != time.Minute || i.Attempt != 1 || !i.Queued.Equal(began) {
			t.Errorf("the assignment is %+v", i)
		}
		r.stage(w, executingStage)
		at := func(s int) *timestamppb.Timestamp { return timestamppb.New(began.Add(time.Duration(s) * time.Second)) }
		h.Progress(i.ID, Executing, &repb.ExecutedActionMetadata{WorkerStartTimestamp: at(2), InputFetchStartTimestamp: at(2)})
		h.Progress(i.ID, Executing, &repb.ExecutedActionMetadata{InputFetchCompletedTimestamp: at(3), ExecutionStartTimestamp: at(3)})
		if m := r.now(w).meta.PartialExecutionMetadata; !m.ExecutionStartTimestamp.AsTime().Equal(at(3).AsTime()) || m.QueuedTimestamp == nil {
			t.Errorf("while it runs the metadata is %v", m)
		}
		h.Progress(i.ID, Uploading, &repb.ExecutedActionMetadata{ExecutionCompletedTimestamp: at(4), OutputUploadStartTimestamp: at(4)})
		time.Sleep(4 * time.Second)
		out := r.put([]byte("output"))
		h.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{
			OutputFiles:       []*repb.OutputFile{{Path: "out", Digest: out}},
			ExecutionMetadata: &repb.ExecutedActionMetadata{OutputUploadCompletedTimestamp: at(5)},
		}})
		a := r.end(w)
		m := a.resp.GetResult().GetExecutionMetadata()
		for name, got := range map[string]*timestamppb.Timestamp{
			"0 queued": m.QueuedTimestamp, "2 worker start": m.WorkerStartTimestamp, "2 fetch start": m.InputFetchStartTimestamp,
			"3 fetch end": m.InputFetchCompletedTimestamp, "3 execution start": m.ExecutionStartTimestamp,
			"4 execution end": m.ExecutionCompletedTimestamp, "4 upload start": m.OutputUploadStartTimestamp,
			"5 upload end": m.OutputUploadCompletedTimestamp, "5 completed": m.WorkerCompletedTimestamp,
		} {
			if want := at(int(name[0] - '0')); got == nil || !got.AsTime().Equal(want.AsTime()) {
				t.Errorf("%s: got %v, want %v", name, got.AsTime(), want.AsTime())
			}
		}
		if a.meta.Stage != completedStage || m.Worker != "w" || a.resp.CachedResult || a.meta.ActionDigest.Hash != k.Action.Hex() {
			t.Errorf("it ended as %v", a)
		}
		again := r.end(r.execute(k))
		if !again.resp.CachedResult || again.resp.Result.OutputFiles[0].Digest.Hash != out.Hash {
			t.Errorf("executed again: %v, want the cached result", again.resp)
		}
		r.execute(k, fresh)
		h.assigned()
	})
}

// TestMissing takes away each input in turn, and all at once.
func TestMissing(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		k := r.action("a", nil)
		var a repb.Action
		if err := r.s.message(context.Background(), "", k.Action, 1<<20, &a); err != nil {
			t.Fatal(err)
		}
		inputs := []digest.Digest{
			k.Action, digestOf(a.CommandDigest), digestOf(a.InputRootDigest),
			digest.SHA256.Of([]byte("input of a")), digest.SHA256.Of([]byte("shared")),
		}
		lose := func(ds ...digest.Digest) {
			r.action("a", nil)
			time.Sleep(aLease)
			for _, d := range ds {
				r.store.Forget(d)
			}
		}
		for n, d := range inputs {
			lose(d)
			_, err := r.s.Execute(context.Background(), Request{Key: k})
			var missing *blob.MissingError
			if !errors.As(err, &missing) || len(missing.Blobs) != 1 || missing.Blobs[0] != d {
				t.Errorf("without input %d: %v, want it named", n, err)
			}
			r.check()
		}
		lose(inputs[1], inputs[3], inputs[4])
		_, err := r.s.Execute(context.Background(), Request{Key: k})
		var missing *blob.MissingError
		if !errors.As(err, &missing) || len(missing.Blobs) != 3 {
			t.Errorf("without three inputs: %v, want three named", err)
		}
		h.nothing()
		if ops, _, _ := r.s.List("", nil, 0, ""); len(ops) != 0 {
			t.Errorf("refused actions left operations: %v", ops)
		}
	})
}

func TestMalformed(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		junk := r.put([]byte("\xff\xff\xff"))
		for want, change := range map[string]func(*repb.Action){
			"action.timeout":                       func(a *repb.Action) { a.Timeout = durationpb.New(2 * time.Hour) },
			"action.timeout ":                      func(a *repb.Action) { a.Timeout = durationpb.New(-1) },
			"action.command_digest":                func(a *repb.Action) { a.CommandDigest = junk },
			"action.command_digest ":               func(a *repb.Action) { a.CommandDigest = nil },
			"action.input_root_digest":             func(a *repb.Action) { a.InputRootDigest = junk },
			"action.input_root_digest ":            func(a *repb.Action) { a.InputRootDigest = &repb.Digest{Hash: "x"} },
			"command.arguments":                    func(a *repb.Action) { a.CommandDigest = r.put(&repb.Command{}) },
			"action.platform.properties[0].value":  func(a *repb.Action) { a.Platform.Properties = platformOf("cpu=NaN") },
			"action.platform.properties[1].value":  func(a *repb.Action) { a.Platform.Properties = platformOf("x=", "memory=-1") },
			"action.platform.properties[0].value ": func(a *repb.Action) { a.Platform.Properties = platformOf("cpu=+Inf") },
			"action.platform.properties[1].name":   func(a *repb.Action) { a.Platform.Properties = platformOf("cpu=1", "cpu=2") },
			"action.platform.properties[0].name":   func(a *repb.Action) { a.Platform.Properties = platformOf("=1") },
			"command.platform.properties[0].value": func(a *repb.Action) {
				a.Platform = nil
				//lint:ignore SA1019 Clients of before version 2.2 say it there.
				a.CommandDigest = r.put(&repb.Command{Arguments: []string{"x"}, Platform: &repb.Platform{Properties: platformOf("cpu=x")}})
			},
		} {
			_, err := r.s.Execute(context.Background(), Request{Key: r.action("a", change)})
			if got := blameOf(err); got != strings.TrimSpace(want) || !(errors.Is(err, ErrInvalid) || errors.Is(err, digest.ErrSyntax)) {
				t.Errorf("got %v, want field %s", err, want)
			}
		}
		_, err := r.s.Execute(context.Background(), Request{Key: action.Key{Action: digestOf(junk)}})
		if got := blameOf(err); got != "action_digest" {
			t.Errorf("an action that is none: got %v", err)
		}
		_, err = r.s.Execute(context.Background(), Request{Key: r.action("a", func(a *repb.Action) { a.Timeout = durationpb.New(61 * time.Minute) })})
		if err == nil || !strings.Contains(err.Error(), "1h0m0s") {
			t.Errorf("a long timeout: got %v, want the maximum named", err)
		}
	})
}

// TestRunsOnce joins identical actions and lets clients leave.
func TestRunsOnce(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 4)
		k := r.action("a", nil)
		one := r.execute(k)
		i := h.assigned()
		two, three := r.execute(k, as("x")), r.execute(k, fresh)
		h.nothing()
		if one.Name() == two.Name() {
			t.Errorf("two clients have operation %s", one.Name())
		}
		one.Close()
		if err := r.s.Cancel(three.Name()); err != nil {
			t.Error(err)
		}
		h.keep(2 * time.Minute)
		h.nothing()
		if a := r.now(one); a.GetError().GetCode() != int32(codes.Canceled) {
			t.Errorf("the operation that nobody waits for: %v, want CANCELLED", a)
		}
		if a := r.end(three); a.GetError().GetCode() != int32(codes.Canceled) {
			t.Errorf("the cancelled operation: %v, want CANCELLED", a)
		}
		h.succeed(i)
		if a := r.end(two); a.resp.Result == nil {
			t.Errorf("the client that stayed: %v, want a result", a)
		}
		if err := r.s.Cancel(two.Name()); err != nil || r.now(two).GetError() != nil {
			t.Errorf("cancelled when done: %v, %v; want it as it was", err, r.now(two))
		}

		other := r.action("not cached", uncached)
		r.execute(other)
		r.execute(other)
		all := h.told()
		if len(all) != 2 {
			t.Fatalf("do_not_cache: told %v, want two assignments", all)
		}
		h.succeed(all[0])
		if _, err := r.cache.Get(t.Context(), other); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("do_not_cache: its result is in the action cache: %v", err)
		}
	})
}

// TestJoinsWhileChecked executes one action many times at once, while the action cache is slow.
func TestJoinsWhileChecked(t *testing.T) {
	slow := &slowActions{}
	bubble(t, func(o *Options) { slow.Actions = o.Actions; o.Actions = slow }, func(t *testing.T, r *rig) {
		h := r.worker("w", 9)
		k := r.action("a", nil)
		watches := make(chan *Watch, 5)
		for range 4 {
			go func() { watches <- r.execute(k) }()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
		defer cancel()
		if _, err := r.s.Execute(ctx, Request{Key: k}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that left early: got %v", err)
		}
		time.Sleep(time.Second)
		h.succeed(h.assigned())
		for range 4 {
			if a := r.end(<-watches); a.resp.Result == nil {
				t.Errorf("got %v, want a result", a)
			}
		}
		if slow.gets != 1 {
			t.Errorf("the action cache was asked %d times, want once", slow.gets)
		}
		// One that wants no cached result makes all run.
		go func() { watches <- r.execute(k) }()
		synctest.Wait()
		go func() { watches <- r.execute(k, fresh) }()
		time.Sleep(2 * time.Second)
		h.succeed(h.assigned())
		for range 2 {
			if a := r.end(<-watches); a.resp.CachedResult {
				t.Errorf("got %v, want one that was run", a)
			}
		}
	})
}

// slowActions takes a second for each Get.
type slowActions struct {
	Actions
	gets int
}

func (s *slowActions) Get(ctx context.Context, k action.Key) (*repb.ActionResult, error) {
	s.gets++
	select {
	case <-time.After(time.Second):
		return s.Actions.Get(ctx, k)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestLeave lets the last client leave, and another come back in time.
func TestLeave(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil))
		i := h.assigned()
		w.Close()
		h.keep(50 * time.Second)
		back, err := r.s.Wait(w.Name())
		if err != nil {
			t.Fatal(err)
		}
		h.keep(2 * time.Minute)
		h.nothing()
		back.Close()
		h.keep(50 * time.Second)
		if _, err := r.s.Get(w.Name()); err != nil { // asking is waiting
			t.Error(err)
		}
		h.keep(50 * time.Second)
		h.nothing()
		queued := r.execute(r.action("b", nil))
		h.keep(20 * time.Second)
		if all := h.told(); len(all) != 1 || all[0].Kind != Cancel || all[0].ID != i.ID {
			t.Errorf("told %v, want the cancellation of %s", all, i.ID)
		}
		r.stage(queued, queuedStage) // the slot is not free before the worker has stopped
		h.fail(i, codes.Canceled, "")
		h.assigned()
	})
}

// TestCancelQueued cancels what waits.
func TestCancelQueued(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		r.execute(r.action("a", nil))
		i := h.assigned()
		w := r.execute(r.action("b", nil))
		if err := r.s.Cancel(w.Name()); err != nil {
			t.Error(err)
		}
		h.succeed(i)
		h.nothing()
		if _, err := r.s.Get("operations/none"); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Get of none = %v, want ErrNotFound", err)
		}
		if err := r.s.Cancel("operations/none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Cancel of none = %v, want ErrNotFound", err)
		}
		if _, err := r.s.Wait("operations/none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Wait for none = %v, want ErrNotFound", err)
		}
	})
}

// TestInputsHeld evicts all that may be evicted while an action waits and runs for long.
func TestInputsHeld(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		k := r.action("a", func(a *repb.Action) { a.Timeout = durationpb.New(time.Hour) })
		h := r.worker("w", 1)
		w := r.execute(k)
		i := h.assigned()
		for range 12 {
			h.keep(5 * time.Minute)
			r.store.Evict()
			for _, text := range []string{"input of a", "shared"} {
				if _, err := blob.Get(t.Context(), r.store, digest.SHA256.Of([]byte(text))); err != nil {
					t.Fatalf("InputsHeld: %q: %v", text, err)
				}
			}
		}
		h.succeed(i)
		r.end(w)
		h.keep(2 * aLease)
		r.store.Evict()
		if _, err := blob.Get(t.Context(), r.store, digest.SHA256.Of([]byte("shared"))); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("after the end the input is kept: %v", err)
		}
	})
}

// TestHole lets a worker answer with outputs that are not there.
func TestHole(t *testing.T) {
	for name, change := range map[string]func(*repb.Action){"cached": nil, "not cached": uncached} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, r *rig) {
				h := r.worker("w", 1)
				w := r.execute(r.action("a", change))
				hole := &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "out", Digest: protoOf(digest.SHA256.Of([]byte("nowhere")))}}}
				for range 3 {
					h.Complete(h.assigned().ID, &repb.ExecuteResponse{Result: hole})
				}
				a := r.end(w)
				if a.resp.Result != nil || a.resp.Status.GetCode() != int32(codes.Unavailable) || !strings.Contains(a.resp.Status.Message, "missing") {
					t.Errorf("Complete: got %v, want UNAVAILABLE", a.resp)
				}
				h.nothing()
			})
		})
	}
}

// TestAnswers sees what becomes of each way in which a worker may answer.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		code   codes.Code
		exit   int32
		tries  int
		want   codes.Code
		cached bool
	}{
		{codes.OK, 0, 1, codes.OK, true},
		{codes.OK, 1, 1, codes.OK, false},
		{codes.DeadlineExceeded, 137, 1, codes.DeadlineExceeded, false},
		{codes.FailedPrecondition, -1, 1, codes.FailedPrecondition, false},
		{codes.InvalidArgument, -1, 1, codes.InvalidArgument, false},
		{codes.Unavailable, -1, 3, codes.Unavailable, false},
		{codes.ResourceExhausted, -1, 3, codes.ResourceExhausted, false},
		{codes.Internal, -1, 3, codes.Internal, false},
		{codes.Canceled, -1, 3, codes.Unavailable, false},
	} {
		t.Run(c.code.String(), func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, r *rig) {
				h := r.worker("w", 1)
				k := r.action("a", nil)
				w := r.execute(k)
				for range c.tries {
					i := h.assigned()
					if c.exit < 0 {
						h.fail(i, c.code, "reason")
						continue
					}
					resp := &repb.ExecuteResponse{Result: &repb.ActionResult{ExitCode: c.exit, StdoutRaw: []byte("said")}}
					if c.code != codes.OK {
						resp.Status = statusOf(c.code)
					}
					h.Complete(i.ID, resp)
				}
				a := r.end(w)
				if got := codes.Code(a.resp.GetStatus().GetCode()); got != c.want {
					t.Errorf("got %v, want %v: %v", got, c.want, a.resp)
				}
				if c.exit >= 0 && string(a.resp.Result.StdoutRaw) != "said" {
					t.Errorf("the result is %v, want what was said", a.resp.Result)
				}
				if n := strings.Count(a.resp.Message, "attempt "); c.tries > 1 && n != c.tries {
					t.Errorf("the message is %q, want %d attempts", a.resp.Message, c.tries)
				}
				h.nothing()
				if _, err := r.cache.Get(t.Context(), k); (err == nil) != c.cached {
					t.Errorf("in the action cache: %v, want it there: %v", err, c.cached)
				}
			})
		})
	}
}

// TestLost counts tries over workers that vanish, and reads of it in the metadata.
func TestLost(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		w := r.execute(r.action("a", nil))
		for n, name := range []string{"one", "two", "three"} {
			h := r.worker(name, 1)
			i := h.assigned()
			if i.Attempt != n+1 {
				t.Errorf("attempt %d, want %d", i.Attempt, n+1)
			}
			h.Progress(i.ID, Executing, nil)
			time.Sleep(30 * time.Second) // says nothing
			if _, err := h.Next(t.Context()); !errors.Is(err, ErrLost) {
				t.Errorf("Next of a silent worker = %v, want ErrLost", err)
			}
			h.succeed(i) // too late
			if n < 2 {
				r.stage(w, queuedStage)
			}
		}
		a := r.end(w)
		if a.resp.Status.GetCode() != int32(codes.Unavailable) || a.resp.Result != nil {
			t.Errorf("after three tries: %v, want UNAVAILABLE", a.resp)
		}
		var lost []string
		for _, m := range a.meta.PartialExecutionMetadata.AuxiliaryMetadata {
			var info errdetails.ErrorInfo
			if err := m.UnmarshalTo(&info); err != nil {
				t.Fatal(err)
			}
			lost = append(lost, info.Reason+" "+info.Metadata["worker"])
		}
		if got := strings.Join(lost, ", "); got != "WORKER_LOST one, WORKER_LOST two, WORKER_LOST three" {
			t.Errorf("the metadata says %q", got)
		}
	})
}
