package execution

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
)

// manyOperations are two ends of one action that very many operations wait for.
var manyOperations = map[string]func(r *rig){
	"ended": func(r *rig) {
		for tk := range r.s.tasks {
			tk.fail(codes.Internal, "ended by the test")
		}
	},
	"left": func(r *rig) {
		for _, o := range r.s.operations {
			if !o.done {
				o.end(nil, nil)
			}
		}
	},
}

// TestManyOperations: operations of one action end together or one by one, whatever their priorities.
func TestManyOperations(t *testing.T) {
	for name, end := range manyOperations {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, r *rig) {
				k := r.action("a", nil)
				var ws []*Watch
				for i := range 60 {
					ws = append(ws, r.execute(k, as(string(rune('a'+i%7))), at(int32(i*7%5))))
				}
				for _, i := range []int{3, 59, 0, 30, 31} { // some go first
					if err := r.s.Cancel(ws[i].Name()); err != nil {
						t.Fatal(err)
					}
					r.check()
				}
				r.s.mu.Lock()
				end(r)
				r.s.mu.Unlock()
				for _, w := range ws {
					if a := r.now(w); !a.Done {
						t.Errorf("operation %s is not done", a.Name)
					}
				}
			})
		})
	}
}

// TestTooManyOperations: what is over the limit is refused, and taken when there is room again.
func TestTooManyOperations(t *testing.T) {
	bubble(t, func(o *Options) { o.MaxOperations = 3 }, func(t *testing.T, r *rig) {
		k := r.action("a", nil)
		ws := []*Watch{r.execute(k), r.execute(k), r.execute(r.action("b", nil))}
		if _, err := r.s.Execute(t.Context(), Request{Key: k}); !errors.Is(err, ErrBusy) {
			t.Errorf("the fourth: got %v, want ErrBusy", err)
		}
		if err := r.s.Cancel(ws[0].Name()); err != nil {
			t.Fatal(err)
		}
		r.execute(k)
	})
}

// TestDeafWorker: a worker that says very much and listens to nothing loses its connection, not the scheduler its
// memory. It may come back.
func TestDeafWorker(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		w := r.execute(r.action("a", nil))
		h := r.worker("w", 1)
		i := h.assigned()
		for n := range 2 * maxOutbox {
			h.Complete(fmt.Sprint("nobody's ", n), &repb.ExecuteResponse{Result: &repb.ActionResult{}})
		}
		r.s.mu.Lock()
		waiting := len(r.s.workers[0].outbox)
		r.s.mu.Unlock()
		if waiting > maxOutbox {
			t.Errorf("%d instructions wait for it, want at most %d", waiting, maxOutbox)
		}
		if _, err := h.Next(t.Context()); err != ErrUnresponsive {
			t.Errorf("Next = %v, want ErrUnresponsive", err)
		}
		r.check()
		h.reg.Running = []Running{{ID: i.ID, Key: i.Key}}
		h = r.connect(h.reg)
		h.succeed(i)
		if a := r.end(w); a.resp.GetResult() == nil {
			t.Errorf("got %v, want the result of the worker that came back", a.resp)
		}
	})
}

// TestOthersActions: what a worker says of assignments that it does not have changes nothing.
func TestOthersActions(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		w := r.execute(r.action("a", nil))
		good := r.worker("good", 1)
		i := good.assigned()
		bad := r.worker("bad", 1)
		bad.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{StdoutRaw: []byte("forged")}})
		bad.Progress(i.ID, Uploading, &repb.ExecutedActionMetadata{Worker: "bad"})
		bad.Log(i.ID, Stdout, []byte("forged"))
		r.check()
		again := r.connect(Registration{Name: "good", Session: "another", Slots: 1, Running: []Running{{ID: i.ID, Key: i.Key}}})
		if all := again.told(); len(all) != 1 || all[0].Kind != Cancel {
			t.Errorf("who claims an action that another runs is told %v, want a cancellation", all)
		}
		good.succeed(i)
		a := r.end(w)
		if len(a.resp.GetResult().GetStdoutRaw()) > 0 || a.resp.Result.ExecutionMetadata.Worker != "good" {
			t.Errorf("got %v, want the result of the worker that had it", a.resp)
		}
	})
}

// TestWrongClock: a worker whose clock is wrong keeps what it comes back with.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{-1000 * time.Hour, 1000 * time.Hour} {
		bubble(t, nil, func(t *testing.T, r *rig) {
			k := r.action("a", nil)
			h := r.connect(Registration{Name: "w", Session: "s", Slots: 1, Running: []Running{{ID: "x", Key: k, Started: time.Now().Add(off)}}})
			w := r.execute(k)
			h.keep(30 * time.Second)
			h.nothing()
			h.succeed(Instruction{ID: "x", Command: &repb.Command{Arguments: []string{"echo", "a"}}})
			if a := r.end(w); a.resp.GetResult() == nil {
				t.Errorf("clock off by %v: got %v, want the result", off, a.resp)
			}
		})
	}
}

// TestDrainOutlivesRestart: a worker that was told to drain and comes to another scheduler gets nothing there.
func TestDrainOutlivesRestart(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		k := r.action("a", nil)
		h := r.connect(Registration{Name: "w", Session: "s", Slots: 2, Draining: true, Running: []Running{{ID: "x", Key: k}}})
		if all := h.told(); len(all) != 1 || all[0].Kind != Drain {
			t.Errorf("it is told %v, want to drain", all)
		}
		w := r.execute(k)
		r.execute(r.action("b", nil))
		h.nothing()
		h.succeed(Instruction{ID: "x", Command: &repb.Command{Arguments: []string{"echo", "a"}}})
		r.end(w)
		h.nothing()
	})
}

// TestManyDone: the responses of finished operations are kept up to a number of bytes, whatever each has.
func TestManyDone(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		for n := range 100 {
			w := r.execute(r.action(fmt.Sprint(n), nil))
			h.Complete(h.assigned().ID, &repb.ExecuteResponse{Result: &repb.ActionResult{ExitCode: 1, StdoutRaw: make([]byte, 3<<20)}})
			r.end(w)
			w.Close()
		}
		synctest.Wait()
		if kept := r.s.Stats().Operations; kept < 50 || kept > maxDoneBytes/(3<<20) {
			t.Errorf("%d operations of 3 MiB are kept, want at most %d", kept, maxDoneBytes/(3<<20))
		}
	})
}

// TestGoneDuringAdmission: a client that goes while its action is looked at leaves nothing behind.
func TestGoneDuringAdmission(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		k := r.action("a", nil)
		for range 20 {
			if w, err := r.s.Execute(ctx, Request{Key: k}); err == nil {
				w.Close()
			}
		}
		time.Sleep(r.s.o.LeaveGrace)
		synctest.Wait()
		if n := r.s.Stats(); n.Queued+n.Checking+n.Running > 0 {
			t.Errorf("left behind: %+v", n)
		}
	})
}
