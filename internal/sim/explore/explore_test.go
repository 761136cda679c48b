package explore

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/internal/sim"
)

// TestReplay: a seed is one interleaving, and other seeds are others.
func TestReplay(t *testing.T) {
	trace := func(seed uint64) (trace string) {
		runOne(t, seed, func(t *testing.T, s *Schedule) {
			turn := make(chan bool, 1)
			for _, name := range []string{"a", "b", "c"} {
				s.Go(name, func() {
					sim.Point("one")
					turn <- true
					sim.Point("two")
					<-turn
				})
			}
			s.Run()
			trace = s.String()
		})
		return trace
	}
	seen := map[string]bool{}
	for seed := range uint64(200) {
		first := trace(seed)
		if again := trace(seed); again != first {
			t.Fatalf("seed %d gave %q and then %q", seed, first, again)
		}
		seen[first] = true
	}
	if len(seen) < 100 {
		t.Errorf("200 seeds gave %d interleavings", len(seen))
	}
}

// TestFindsLostUpdate: an unlocked read-modify-write loses an update under some seed, a locked one
// under none.
func TestFindsLostUpdate(t *testing.T) {
	for _, locked := range []bool{false, true} {
		lost := 0
		for seed := range uint64(100) {
			runOne(t, seed, func(t *testing.T, s *Schedule) {
				state, turn := map[string]bool{}, make(chan bool, 1)
				for _, name := range []string{"rotate", "evict"} {
					s.Go(name, func() {
						if locked {
							turn <- true
							defer func() { <-turn }()
						}
						copied := map[string]bool{name: true}
						for k := range state {
							copied[k] = true
						}
						sim.Point("save")
						state = copied
					})
				}
				s.Run()
				if len(state) < 2 {
					lost++
				}
			})
		}
		if (lost > 0) == locked {
			t.Errorf("locked=%v: %d of 100 seeds lost an update", locked, lost)
		}
	}
}

// TestTimePasses: time moves when every task waits for it.
func TestTimePasses(t *testing.T) {
	Run(t, 20, func(t *testing.T, s *Schedule) {
		var mu sync.Mutex
		var order []string
		for name, after := range map[string]time.Duration{"first": time.Hour, "second": 2 * time.Hour} {
			s.Go(name, func() {
				time.Sleep(after)
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
			})
		}
		s.Run()
		if !slices.Equal(order, []string{"first", "second"}) {
			t.Errorf("order = %v", order)
		}
	})
}

func TestDeadlockPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule(3)
		s.open()
		never := make(chan bool)
		defer close(never)
		s.Go("waiter", func() { <-never })
		defer func() {
			if r, _ := recover().(string); !strings.Contains(r, "deadlock with seed 3") {
				t.Errorf("recovered %q, want a deadlock with seed 3", r)
			}
		}()
		s.Run()
	})
}
