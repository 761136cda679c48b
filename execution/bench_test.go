package execution

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/internal/model"
)

// BenchmarkAction takes actions that are not cached from Execute to their results, with a worker that does nothing,
// and 10,000 others in the queue or none.
func BenchmarkAction(b *testing.B) {
	for _, waiting := range []int{0, 10_000} {
		b.Run(fmt.Sprint("waiting=", waiting), func(b *testing.B) {
			store := model.New(time.Hour)
			r := &rig{T: new(testing.T), store: store}
			s := New(Options{Store: store, Actions: action.New(store, store), LostAfter: time.Hour})
			defer s.Close()
			r.s = s
			idle, err := s.Connect(Registration{Name: "other", Session: "other", Slots: 1, Properties: platformOf("x=y")})
			if err != nil {
				b.Fatal(err)
			}
			defer idle.Leave()
			for n := range waiting {
				k := r.action(fmt.Sprint(n), nil, "x=y")
				if _, err := s.Execute(b.Context(), Request{Key: k, Invocation: fmt.Sprint(n % 20)}); err != nil {
					b.Fatal(err)
				}
			}
			k := r.action("a", uncached, "x=z")
			x, err := s.Connect(Registration{Name: "w", Session: "w", Slots: 8, Properties: platformOf("x=z")})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var working sync.WaitGroup
			working.Go(func() {
				for {
					i, err := x.Next(ctx)
					if err != nil {
						return
					}
					if i.Kind == Assign {
						x.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{}})
					}
				}
			})
			for b.Loop() {
				w, err := s.Execute(ctx, Request{Key: k})
				if err != nil {
					b.Fatal(err)
				}
				for done := false; !done; {
					op, err := w.Next(ctx)
					if err != nil {
						b.Fatal(err)
					}
					done = op.Done
				}
				w.Close()
			}
			cancel()
			working.Wait()
		})
	}
}

// BenchmarkManyOperations ends an action that n operations wait for: the time for each must not depend on n, since
// the lock is held for all of it.
func BenchmarkManyOperations(b *testing.B) {
	for name, end := range manyOperations {
		for _, n := range []int{1000, 30_000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				var took time.Duration
				rounds := 0
				for b.Loop() {
					store := model.New(time.Hour)
					r := &rig{T: new(testing.T), store: store, s: New(Options{Store: store, Actions: action.New(store, store)})}
					k := r.action("a", nil)
					for range n {
						r.execute(k)
					}
					r.s.mu.Lock()
					began := time.Now()
					end(r)
					took += time.Since(began)
					rounds++
					r.s.mu.Unlock()
					r.s.Close()
				}
				b.ReportMetric(float64(took.Nanoseconds())/float64(rounds*n), "ns/end")
			})
		}
	}
}
