package explore

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/internal/sim"
)

// TestExhaustCounts: two tasks with two points after their start have 6!/(3!·3!) interleavings.
func TestExhaustCounts(t *testing.T) {
	traces := map[string]bool{}
	Exhaust(t, 20, func(t *testing.T, s *Schedule) {
		for _, name := range []string{"a", "b"} {
			s.Go(name, func() {
				sim.Point("one")
				sim.Point("two")
			})
		}
		s.Run()
		traces[s.String()] = true
	})
	if len(traces) != 20 {
		t.Errorf("%d interleavings, want 20", len(traces))
	}
}

// A toy is a counter that tasks read and write without a lock, and a turn that two of them wait for.
type toy struct {
	s     *Schedule
	count int
	log   string
	turn  chan bool
}

// run runs four tasks on a toy and returns how it ended.
func (y *toy) run() string {
	for i := range 2 {
		s := y.s
		s.Go(fmt.Sprint("adder ", i), func() {
			was := y.count
			s.Note(uint64(was)) // else no point would show it
			sim.Point("read")
			y.count = was + i + 1
		})
		s.Go(fmt.Sprint("locker ", i), func() {
			y.turn <- true
			sim.Point("locked")
			y.count *= 2
			y.log += fmt.Sprint(i)
			<-y.turn
		})
	}
	y.s.Run()
	return fmt.Sprint(y.count, " ", y.log)
}

// TestPruningLosesNothing: the same ends are found when states seen before are not explored again,
// in fewer schedules.
func TestPruningLosesNothing(t *testing.T) {
	explore := func(pruned bool) (ends []string, schedules int) {
		found := map[string]bool{}
		x := search{seen: map[uint64]bool{}}
		for begun := false; !begun || x.next(); begun = true {
			x.schedules++
			x.run(t, func(t *testing.T, s *Schedule) {
				y := toy{s: s, turn: make(chan bool, 1)}
				if pruned {
					s.Fingerprint = func() uint64 { return Hash(y.count, y.log, len(y.turn)) }
				}
				if end := y.run(); !x.pruned {
					found[end] = true
				}
			})
		}
		return slices.Sorted(maps.Keys(found)), x.schedules
	}
	want, all := explore(false)
	got, fewer := explore(true)
	if !slices.Equal(got, want) || len(want) < 10 {
		t.Errorf("with pruning %d ends: %q; want %d: %q", len(got), got, len(want), want)
	}
	if fewer*2 > all {
		t.Errorf("%d schedules with pruning, %d without", fewer, all)
	}
	t.Logf("%d ends; %d schedules without pruning, %d with", len(want), all, fewer)
}

// TestBackground: a goroutine that is no task takes part, and is let go when the tasks have ended.
func TestBackground(t *testing.T) {
	orders := map[string]bool{}
	Exhaust(t, 100, func(t *testing.T, s *Schedule) {
		wake, done, order := make(chan bool), make(chan bool), ""
		go func() {
			defer close(done)
			for range wake {
				sim.Point("woken")
				order += "b"
			}
		}()
		s.Go("task", func() {
			wake <- true
			sim.Point("awake")
			order += "t"
			select {
			case wake <- true:
			default:
			}
		})
		s.Run()
		close(wake)
		<-done
		orders[order] = true
	})
	for _, want := range []string{"tb", "btb"} {
		if !orders[want] {
			t.Errorf("orders = %v, want %s among them", orders, want)
		}
	}
}

// TestShards: together, shards run every seed once.
func TestShards(t *testing.T) {
	t.Setenv("SARSEN_SCHEDULES", "10")
	var seeds []uint64
	for _, shard := range []string{"0/3", "1/3", "2/3"} {
		t.Setenv("SARSEN_SHARD", shard)
		Run(t, 1, func(t *testing.T, s *Schedule) { seeds = append(seeds, s.Seed) })
	}
	slices.Sort(seeds)
	if want := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(seeds, want) {
		t.Errorf("seeds = %v, want %v", seeds, want)
	}
}
