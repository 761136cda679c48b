package execution

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// order completes all that there is, one at a time on one slot, and returns the names in the order of running.
func order(r *rig, h *hand) string {
	var names []string
	for {
		all := h.told()
		if len(all) == 0 {
			return strings.Join(names, " ")
		}
		names = append(names, all[0].Command.Arguments[1])
		h.succeed(all[0])
	}
}

func TestOrder(t *testing.T) {
	for want, asked := range map[string][]func(*rig){
		"a1 b1 a2 b2 a3 a4": {
			func(r *rig) {
				for _, name := range []string{"a1", "a2", "a3", "a4", "b1", "b2"} {
					r.execute(r.action(name, nil), as(name[:1]))
				}
			},
		},
		"urgent a b late": {
			func(r *rig) { r.execute(r.action("late", nil), at(7)) },
			func(r *rig) { r.execute(r.action("a", nil)) },
			func(r *rig) { r.execute(r.action("b", nil)) },
			func(r *rig) { r.execute(r.action("urgent", nil), at(-1)) },
		},
		"urgent1 urgent2 a1 b1": { // whoever was served
			func(r *rig) { r.execute(r.action("a1", nil), as("a"), at(5)) },
			func(r *rig) { r.execute(r.action("b1", nil), as("b"), at(5)) },
			func(r *rig) { r.execute(r.action("urgent1", nil), as("c"), at(1)) },
			func(r *rig) { r.execute(r.action("urgent2", nil), as("c"), at(1)) },
		},
		"b a": { // a second client is in more of a hurry
			func(r *rig) { r.execute(r.action("a", nil), at(1)) },
			func(r *rig) { r.execute(r.action("b", nil), at(1)) },
			func(r *rig) { r.execute(r.action("b", nil), at(0)) },
		},
		"a b": { // and then leaves
			func(r *rig) { r.execute(r.action("a", nil), at(1)) },
			func(r *rig) { r.execute(r.action("b", nil), at(1)) },
			func(r *rig) {
				if err := r.s.Cancel(r.execute(r.action("b", nil), at(0)).Name()); err != nil {
					r.Error(err)
				}
			},
		},
		"big1 last big2 big3": { // a small build joins the end of a big one
			func(r *rig) {
				for _, name := range []string{"big1", "big2", "big3", "last"} {
					r.execute(r.action(name, nil), as("big"))
				}
				r.execute(r.action("last", nil), as("small"))
			},
		},
	} {
		t.Run(want, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, r *rig) {
				for _, ask := range asked {
					ask(r)
					r.check()
				}
				if got := order(r, r.worker("w", 1)); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
		})
	}
}

// TestFewestRunning: who has fewer running comes first, whoever was served last.
func TestFewestRunning(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 4)
		for n := range 8 {
			r.execute(r.action(fmt.Sprint("big", n), nil), as("big"))
		}
		running := h.told()
		for n := range 4 {
			r.execute(r.action(fmt.Sprint("small", n), nil), as("small"))
		}
		for _, want := range []string{"small0", "small1"} {
			h.succeed(running[0])
			running = running[1:]
			if got := h.assigned().Command.Arguments[1]; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		h.succeed(running[0])
		if got := h.assigned().Command.Arguments[1]; got != "big4" { // one of big's runs, two of small's
			t.Errorf("got %s, want big4", got)
		}
	})
}

// TestLightest: an action goes to the worker that has the least to do.
func TestLightest(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		a, b := r.worker("a", 4), r.worker("b", 2)
		got := ""
		for n := range 6 {
			r.execute(r.action(fmt.Sprint(n), nil))
			for range a.told() {
				got += "a"
			}
			for range b.told() {
				got += "b"
			}
		}
		if want := "ababaa"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestThousand runs 1,000 actions of a huge build and a few of a small one on four workers. All run, the small build is
// done early, and no worker is idle while work fits.
func TestThousand(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		random := rand.New(rand.NewPCG(1, 1))
		const huge, small, slots = 980, 20, 2
		for n := range huge {
			r.execute(r.action(fmt.Sprint("huge", n), nil, fmt.Sprintf("cpu=%d", 1+n%2)), as("huge"))
		}
		for n := range small {
			r.execute(r.action(fmt.Sprint("small", n), nil), as("small"))
		}
		var workers []*hand
		for n := range 4 {
			workers = append(workers, r.worker(fmt.Sprint("w", n), slots, "cpu=3"))
		}
		ran, smallDone := 0, 0
		running := map[*hand][]Instruction{}
		for ran < huge+small {
			var busy []*hand
			for _, h := range workers {
				running[h] = append(running[h], h.told()...)
				if len(running[h]) > 0 {
					busy = append(busy, h)
				}
				h.Heartbeat(Load{})
			}
			if ran%50 == 0 {
				r.check()
			}
			if len(busy) < len(workers) && ran < huge+small-2*len(workers)*slots {
				t.Fatalf("after %d actions %d workers have work", ran, len(busy))
			}
			h := busy[random.IntN(len(busy))]
			n := random.IntN(len(running[h]))
			i := running[h][n]
			running[h] = slices.Delete(running[h], n, n+1)
			h.succeed(i)
			if ran++; strings.HasPrefix(i.Command.Arguments[1], "small") {
				if smallDone++; smallDone == small && ran > 4*small {
					t.Errorf("the small build was done after %d actions, want at most %d", ran, 4*small)
				}
			}
		}
		synctest.Wait()
		if n := r.s.Stats(); n.Queued+n.Running+n.Completing > 0 || smallDone != small {
			t.Errorf("left are %+v; %d of the small build ran", n, smallDone)
		}
		time.Sleep(time.Second)
	})
}

// TestStarved keeps a worker busy with small actions that never end all at once. A big one gets its turn all the same.
func TestStarved(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 4, "cpu=2")
		small := func(n int) { r.execute(r.action(fmt.Sprint("small", n), nil, "cpu=1")) }
		small(0)
		small(1)
		running := h.told()
		r.execute(r.action("patient", nil, "cpu=2"), at(1)) // less urgent than the small ones: it has to wait
		big := r.execute(r.action("big", nil, "cpu=1.5"))
		for n := 2; ; n++ {
			if n > 20 {
				t.Fatal("the big action never runs")
			}
			small(n)
			h.keep(10 * time.Second)
			h.succeed(running[0])
			running = append(running[1:], h.told()...)
			r.check()
			if i := running[len(running)-1]; i.Command.Arguments[1] == "big" {
				h.succeed(i)
				break
			}
		}
		r.end(big)
		if got := len(h.told()); got != 2 {
			t.Errorf("after the big action %d small ones run, want two", got)
		}
	})
}
