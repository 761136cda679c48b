// Package explore runs tests under a scheduler that chooses every interleaving.
//
// A scenario starts tasks with Go and runs them with Run. Exactly one task goes on at a time; at
// every sim.Point the scheduler chooses which. Under Run a seed chooses: each seed is one
// interleaving, a failing one is printed as the line that replays it, and a test explores a thousand a
// second. Under Exhaust every choice is made once. Time is testing/synctest's: it moves only when
// every task waits for it.
//
// The environment variable SARSEN_SEED runs one seed, SARSEN_SCHEDULES changes how many are run, and
// SARSEN_SHARD=0/2 runs the first half of them, so that two processes can share the work. A process
// with GOMAXPROCS=1 is the fastest: one task goes on at a time, whatever there is of processors.
//
// Concurrency: there is one Schedule at a time in a process, since sim.Install is global.
package explore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// Run runs scenario under n seeds (fewer with -short), each in a bubble of its own, and stops at the
// first that fails. The scenario sets up, calls s.Go for each task, s.Run once, and checks.
func Run(t *testing.T, n int, scenario func(t *testing.T, s *Schedule)) {
	t.Helper()
	each(t, n, func(seed uint64) { runOne(t, seed, scenario) })
}

// Each calls do under n seeds, chosen as Run chooses them, without a scheduler and in real time: for what takes part in
// the world. It stops at the first seed that fails.
func Each(t *testing.T, n int, do func(t *testing.T, seed uint64)) {
	t.Helper()
	each(t, n, func(seed uint64) {
		defer func() {
			if t.Failed() {
				t.Logf("replay: SARSEN_SEED=%d go test %s -run '^%s$'", seed, packagePath(), strings.ReplaceAll(t.Name(), "/", "$/^"))
			}
		}()
		do(t, seed)
		if t.Failed() {
			t.FailNow()
		}
	})
}

// each calls do with the seeds that there are to run.
func each(t *testing.T, n int, do func(seed uint64)) {
	t.Helper()
	if testing.Short() {
		n = max(n/10, 1)
	}
	if v := os.Getenv("SARSEN_SCHEDULES"); v != "" {
		n = number(t, "SARSEN_SCHEDULES", v)
	}
	first, step := shard(t)
	if v := os.Getenv("SARSEN_SEED"); v != "" {
		first, n = uint64(number(t, "SARSEN_SEED", v)), 1
		n += int(first)
	}
	for seed := first; seed < uint64(n); seed += step {
		do(seed)
	}
}

// shard returns the first seed of this process, and how far the next one is.
func shard(t *testing.T) (first, step uint64) {
	v := os.Getenv("SARSEN_SHARD")
	if v == "" {
		return 0, 1
	}
	var which, of uint64
	if _, err := fmt.Sscanf(v, "%d/%d", &which, &of); err != nil || which >= of {
		t.Fatalf("SARSEN_SHARD=%q, want one like 0/2 or 1/2", v)
	}
	return which, of
}

// runOne runs one seed. synctest.Test ends the calling test when the bubble's fails, so how to replay
// is said on the way out.
func runOne(t *testing.T, seed uint64, scenario func(t *testing.T, s *Schedule)) {
	s := newSchedule(seed)
	defer func() {
		if t.Failed() {
			t.Logf("schedule: %s", s)
			t.Logf("replay: SARSEN_SEED=%d go test %s -run '^%s$'", seed, packagePath(), strings.ReplaceAll(t.Name(), "/", "$/^"))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		s.open()
		scenario(t, s)
	})
}

// newSchedule returns the schedule of a seed.
func newSchedule(seed uint64) *Schedule {
	s := &Schedule{Seed: seed, Rand: rand.New(rand.NewPCG(seed, 1))}
	if s.Rand.IntN(2) == 0 {
		s.priority = map[*task]float64{}
	}
	s.choose = s.random
	return s
}

// sendBack is how often, of so many steps, the task that is first in line is sent back.
const sendBack = 12

// random chooses by the seed.
func (s *Schedule) random(waiting []parked) int {
	if s.priority == nil {
		return s.Rand.IntN(len(waiting))
	}
	first := 0
	for i, p := range waiting {
		if _, ok := s.priority[p.task]; !ok {
			s.priority[p.task] = s.Rand.Float64()
		}
		if s.priority[p.task] > s.priority[waiting[first].task] {
			first = i
		}
	}
	if s.Rand.IntN(sendBack) == 0 {
		s.priority[waiting[first].task] = -s.Rand.Float64() * float64(len(s.trace)+1)
	}
	return first
}

func number(t *testing.T, name, value string) int {
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, value)
	}
	return n
}

// packagePath returns the test's package as go test takes it: tests run in their package's folder.
func packagePath() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	root := dir
	for len(root) > 1 {
		if _, err := os.Stat(root + "/go.mod"); err == nil {
			return "." + strings.TrimPrefix(dir, root)
		}
		root = root[:strings.LastIndexByte(root, '/')]
	}
	return "."
}
