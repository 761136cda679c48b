package execution

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/digest"
)

// TestReconnect breaks a worker's connection while it runs one action, has one assignment on its way, and one it
// was never told of.
func TestReconnect(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 3)
		w := r.execute(r.action("runs", nil))
		runs := h.assigned()
		h.Progress(runs.ID, Executing, nil)
		onItsWay := r.execute(r.action("on its way", nil))
		lost := h.assigned()
		r.execute(r.action("untold", nil))
		h.Close()
		h.Close()
		if _, err := h.Next(r.Context()); !errors.Is(err, ErrLeft) {
			t.Errorf("Next of a closed session = %v, want ErrLeft", err)
		}
		r.execute(r.action("later", nil))
		time.Sleep(20 * time.Second)
		r.stage(w, executingStage)
		h.reg.Running = []Running{{ID: runs.ID, Key: runs.Key}}
		again := r.connect(h.reg)
		told := map[string]int{}
		for _, i := range again.told() {
			if i.Kind != Assign {
				t.Errorf("told %v, want assignments", i)
				continue
			}
			told[i.Command.Arguments[1]] = i.Attempt
		}
		if got, want := fmt.Sprint(told), "map[on its way:2 untold:1]"; got != want {
			t.Errorf("after it came back the worker is told %s, want %s", got, want)
		}
		if m := r.now(onItsWay).meta.PartialExecutionMetadata; len(m.AuxiliaryMetadata) != 1 {
			t.Errorf("the metadata of %s is %v, want it to tell of the loss", lost.ID, m)
		}
		h.succeed(runs) // over the connection that broke
		r.stage(w, executingStage)
		again.succeed(runs)
		if a := r.end(w); a.resp.Result == nil {
			t.Errorf("got %v, want a result", a.resp)
		}
		again.assigned() // the slot is free for the later one
		replaced := r.connect(again.reg)
		if _, err := again.Next(r.Context()); !errors.Is(err, ErrReplaced) {
			t.Errorf("Next of a replaced session = %v, want ErrReplaced", err)
		}
		again.Close()
		replaced.Heartbeat(Load{})
		if infos := r.s.Workers(); len(infos) != 1 || !infos[0].Connected {
			t.Errorf("workers: %+v, want one that is connected", infos)
		}
	})
}

// TestGrace lets a worker stay away for too long, and come back with what has gone elsewhere.
func TestGrace(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil))
		i := h.assigned()
		h.Close()
		time.Sleep(29 * time.Second)
		r.stage(w, executingStage)
		time.Sleep(2 * time.Second)
		r.stage(w, queuedStage)

		other := r.worker("other", 1)
		second := other.assigned()
		h.reg.Running = []Running{{ID: i.ID, Key: i.Key}}
		back := r.connect(h.reg)
		if all := back.told(); len(all) != 1 || all[0].Kind != Cancel || all[0].ID != i.ID {
			t.Errorf("told %v, want the cancellation of %s", all, i.ID)
		}
		r.execute(r.action("b", nil))
		back.nothing() // its slot is taken until it has stopped
		back.succeed(i)
		back.assigned()
		r.stage(w, executingStage)
		other.succeed(second)
		if a := r.end(w); a.resp.Result.ExecutionMetadata.Worker != "other" {
			t.Errorf("got %v, want other's result", a.resp)
		}
	})
}

// TestTakenUp lets a worker come back late with an action that is queued again: it goes on with it.
func TestTakenUp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1, "cpu=2")
		w := r.execute(r.action("a", nil, "cpu=2"))
		i := h.assigned()
		h.Close()
		time.Sleep(31 * time.Second)
		h.reg.Running = []Running{{ID: i.ID, Key: i.Key}}
		back := r.connect(h.reg)
		back.nothing()
		r.stage(w, executingStage)
		r.execute(r.action("b", nil, "cpu=0.001"))
		back.nothing()
		r.check()
		back.succeed(i)
		back.assigned()
		if a := r.end(w); a.resp.Result == nil {
			t.Errorf("got %v, want a result", a.resp)
		}
	})
}

// TestAdopted restarts the scheduler under a worker that goes on.
func TestAdopted(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		k := r.action("a", nil, "cpu=2")
		own := func(name string, k action.Key) Running {
			return Running{ID: "of an earlier scheduler: " + name, Key: k}
		}
		h := r.connect(Registration{Name: "w", Session: "s", Slots: 4, Properties: platformOf("cpu=3"), Running: []Running{
			own("a", k), own("twice", k), own("nobody's", r.action("b", nil)), own("not cached", r.action("c", uncached)),
			own("unknown", action.Key{Action: digest.SHA256.Of([]byte("?"))}),
		}})
		r.check()
		cancelled := map[string]bool{}
		for _, i := range h.told() {
			cancelled[strings.TrimPrefix(i.ID, "of an earlier scheduler: ")] = i.Kind == Cancel
			h.fail(i, codes.Canceled, "")
		}
		if got, want := fmt.Sprint(cancelled), "map[not cached:true twice:true unknown:true]"; got != want {
			t.Errorf("cancelled at once: %s, want %s", got, want)
		}
		h.keep(50 * time.Second)
		w := r.execute(k)
		r.stage(w, executingStage)
		r.execute(r.action("d", nil, "cpu=2"))
		h.nothing() // what the adopted one uses is counted
		h.keep(20 * time.Second)
		if all := h.told(); len(all) != 1 || all[0].ID != own("nobody's", k).ID {
			t.Errorf("told %v, want the one that nobody came for to be cancelled", all)
		}
		h.Progress(own("a", k).ID, Uploading, nil)
		h.succeed(Instruction{ID: own("a", k).ID, Command: &repb.Command{Arguments: []string{"echo", "a"}}})
		if a := r.end(w); a.resp.Result == nil {
			t.Errorf("got %v, want a result", a.resp)
		}
		h.assigned()
		if a := r.end(r.execute(k)); !a.resp.CachedResult {
			t.Errorf("the adopted action's result is not cached: %v", a.resp)
		}
	})
}

// TestAdoptedEnds lets an adopted action end before anybody asks for it.
func TestAdoptedEnds(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		k := r.action("a", nil)
		h := r.connect(Registration{Name: "w", Session: "s", Slots: 1, Running: []Running{{ID: "x", Key: k}}})
		h.succeed(Instruction{ID: "x", Command: &repb.Command{Arguments: []string{"echo", "a"}}})
		if a := r.end(r.execute(k)); !a.resp.CachedResult {
			t.Errorf("got %v, want the cached result", a.resp)
		}
		if n := r.s.Stats(); n.Running+n.Completing+n.Queued != 0 {
			t.Errorf("left are %+v", n)
		}
	})
}

// TestBackstop waits for a worker that is alive and does not answer.
func TestBackstop(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil))
		i := h.assigned()
		h.keep(5 * time.Minute) // staging
		h.Progress(i.ID, Executing, nil)
		h.keep(time.Minute + 5*time.Minute)
		r.stage(w, queuedStage)
		if all := h.told(); len(all) != 1 || all[0].Kind != Cancel {
			t.Errorf("told %v, want a cancellation", all)
		}
		h.keep(40 * time.Second)
		if _, err := h.Next(r.Context()); !errors.Is(err, ErrUnresponsive) {
			t.Errorf("Next = %v, want ErrUnresponsive", err)
		}
		h.reg.Running = []Running{{ID: i.ID, Key: i.Key}}
		h = r.connect(h.reg)
		r.check()
		if all := h.told(); len(all) != 1 || all[0].Kind != Cancel || all[0].ID != i.ID {
			t.Errorf("told %v, want the cancellation again", all)
		}
		h.Close()
		h.reg.Running = nil
		h = r.connect(h.reg)
		if second := h.assigned(); second.Attempt != 2 {
			t.Errorf("got %+v, want the second attempt", second)
		}
	})
}

// TestNoProgress waits for a worker that says nothing about an assignment.
func TestNoProgress(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil))
		h.assigned()
		h.keep(6*time.Minute - time.Second)
		r.stage(w, executingStage)
		h.keep(time.Second)
		r.stage(w, queuedStage)
	})
}

// TestDrain drains one of two workers.
func TestDrain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		if err := r.s.Drain("w"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Drain of none = %v, want ErrNotFound", err)
		}
		h := r.worker("w", 2)
		w := r.execute(r.action("a", nil))
		i := h.assigned()
		if err := r.s.Drain("w"); err != nil {
			t.Error(err)
		}
		if all := h.told(); len(all) != 1 || all[0].Kind != Drain {
			t.Errorf("told %v, want to drain", all)
		}
		other := r.worker("other", 1)
		r.execute(r.action("b", nil))
		other.assigned()
		r.execute(r.action("c", nil))
		h.nothing()
		h.Close()
		h.reg.Running = []Running{{ID: i.ID, Key: i.Key}}
		h = r.connect(h.reg)
		if all := h.told(); len(all) != 1 || all[0].Kind != Drain {
			t.Errorf("after it came back: told %v, want to drain", all)
		}
		h.succeed(i)
		r.end(w)
		h.Leave()
		if infos := r.s.Workers(); len(infos) != 1 || infos[0].Name != "other" {
			t.Errorf("workers: %+v, want the other one", infos)
		}
	})
}

// TestLeft hands the actions of a worker that leaves to another at once.
func TestLeft(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 2)
		r.execute(r.action("a", nil))
		h.assigned()
		other := r.worker("other", 1)
		h.Leave()
		if i := other.assigned(); i.Attempt != 2 {
			t.Errorf("got %+v, want the second attempt", i)
		}
	})
}

// TestSameName starts a worker anew whose machine died.
func TestSameName(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 1)
		r.execute(r.action("a", nil))
		h.assigned()
		beside := r.connect(Registration{Name: "w", Session: "beside", Slots: 1})
		beside.nothing() // two workers may have one name
		h.Close()
		r.connect(Registration{Name: "w", Session: "anew", Slots: 1})
		if i := beside.assigned(); i.Attempt != 2 {
			t.Errorf("got %+v, want the second attempt", i)
		}
	})
}

// TestShunned tries a failed action on another worker first, but does not wait for that one for ever.
func TestShunned(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		bad, good := r.worker("bad", 2), (*hand)(nil)
		r.execute(r.action("a", nil))
		i := bad.assigned()
		good = r.worker("good", 1)
		r.execute(r.action("busy", nil))
		busy := good.assigned()
		bad.fail(i, codes.Internal, "disk")
		bad.nothing()
		bad.keep(9 * time.Second)
		bad.nothing()
		bad.keep(time.Second)
		i = bad.assigned()
		bad.fail(i, codes.Internal, "disk")
		good.succeed(busy)
		if i = good.assigned(); i.Attempt != 3 {
			t.Errorf("got %+v, want the third attempt", i)
		}
	})
}

func TestBadRegistration(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		for field, change := range map[string]func(*Registration){
			"name":                func(g *Registration) { g.Name = "" },
			"session":             func(g *Registration) { g.Session = "" },
			"slots":               func(g *Registration) { g.Slots = 0 },
			"properties[0].value": func(g *Registration) { g.Properties = platformOf("cpu=-2") },
			"properties[1].name":  func(g *Registration) { g.Properties = platformOf("cpu=2", "cpu=3") },
			"properties[0].name":  func(g *Registration) { g.Properties = platformOf("=x") },
		} {
			g := Registration{Name: "w", Session: "s", Slots: 1}
			change(&g)
			if _, err := r.s.Connect(g); blameOf(err) != field || !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want field %s", err, field)
			}
		}
	})
}

// TestClosed closes the scheduler under clients and workers: nobody is told to stop anything.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := r.worker("w", 1)
		w := r.execute(r.action("a", nil))
		h.assigned()
		if _, err := w.Next(r.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second)
			r.s.Close()
		}()
		if _, err := w.Next(r.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Next of a client = %v, want ErrClosed", err)
		}
		if i, err := h.Next(r.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Next of a worker = %v, %v, want ErrClosed", i, err)
		}
		if _, err := r.s.Execute(r.Context(), Request{Key: r.action("b", nil)}); !errors.Is(err, ErrClosed) {
			t.Errorf("Execute = %v, want ErrClosed", err)
		}
		if _, err := r.s.Connect(h.reg); !errors.Is(err, ErrClosed) {
			t.Errorf("Connect = %v, want ErrClosed", err)
		}
		if _, err := r.s.Get(w.Name()); !errors.Is(err, ErrClosed) {
			t.Errorf("Get = %v, want ErrClosed", err)
		}
	})
}
