package execution

import (
	"context"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// TestSeededRunsOnce executes one action from several clients, one of whom leaves, while workers take it, answer, break
// and come back, in every order that seeds give.
func TestSeededRunsOnce(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		r := newRig(t, nil)
		k := r.action("a", nil)
		out := r.put([]byte("output of a"))
		succeed := func(x *Session, id string) {
			x.Complete(id, &repb.ExecuteResponse{Result: &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "out", Digest: out}}}})
		}
		for _, name := range []string{"client 1", "client 2"} {
			s.Go(name, func() {
				w, err := r.s.Execute(context.Background(), Request{Key: k})
				if err != nil {
					t.Errorf("Execute = %v", err)
					return
				}
				if a := r.end(w); a.resp.Result == nil {
					t.Errorf("%s got %v, want a result", name, a.resp)
				}
			})
		}
		s.Go("client that leaves", func() {
			ctx, cancel := context.WithTimeout(context.Background(), 1)
			defer cancel()
			if w, err := r.s.Execute(ctx, Request{Key: k}); err == nil {
				w.Close()
			}
		})
		runs := 0
		work := func(ctx context.Context, x *Session, least int) {
			for ran := 0; ran < least; {
				i, err := x.Next(ctx)
				if err != nil {
					return
				}
				switch i.Kind {
				case Assign:
					ran++
					runs++
					x.Progress(i.ID, Executing, nil)
					succeed(x, i.ID)
				case Cancel:
					x.Complete(i.ID, &repb.ExecuteResponse{Status: statusOf(codes.Canceled)})
				}
			}
		}
		ctx, stop := context.WithTimeout(context.Background(), 4*time.Minute)
		defer stop()
		s.Go("worker that breaks", func() {
			reg := Registration{Name: "breaks", Session: "s", Slots: 1}
			x, err := r.s.Connect(reg)
			if err != nil {
				t.Error(err)
				return
			}
			soon, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			i, err := x.Next(soon)
			x.Close()
			if err != nil || i.Kind != Assign {
				return
			}
			reg.Running = []Running{{ID: i.ID, Key: i.Key}}
			if x, err = r.s.Connect(reg); err != nil {
				t.Error(err)
				return
			}
			runs++
			succeed(x, i.ID)
			x.Leave()
		})
		s.Go("worker", func() {
			time.Sleep(time.Second)
			x, err := r.s.Connect(Registration{Name: "stays", Session: "t", Slots: 2})
			if err != nil {
				t.Error(err)
				return
			}
			short, cancel := context.WithTimeout(ctx, 25*time.Second)
			defer cancel()
			work(short, x, 2)
			x.Leave()
		})
		s.Run()
		r.check()
		if runs != 1 {
			t.Errorf("RunsOnce: the action ran %d times", runs)
		}
	})
}
