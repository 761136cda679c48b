// Package explore runs tests under a seeded scheduler.
//
// A scenario starts tasks with Go and runs them with Run. Exactly one task goes on at a time; at
// every sim.Point and every file operation of FS the seed chooses which. So each seed is one
// interleaving, a failing one is printed as the line that replays it, and a test explores thousands
// a second. Time is testing/synctest's: it moves only when every task waits for it.
//
// The environment variable SARSEN_SEED runs one seed, SARSEN_SCHEDULES changes how many are run.
package explore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/internal/sim"
)

// A Schedule is one seeded interleaving.
type Schedule struct {
	Seed uint64
	Rand *rand.Rand // for the scenario's own choices

	// priority is of tasks, in half of the schedules. There the first in line goes on until, now and
	// then, it is sent back: so one task waits at one point while others get far, which a fair choice at
	// each step hardly ever gives (Burckhardt et al., "A Randomized Scheduler with Probabilistic
	// Guarantees of Finding Bugs", 2010).
	priority map[string]float64

	tasks   []task
	arrived chan parked
	ended   chan struct{}
	names   sync.Map // goroutine number to task name; time may wake several goroutines at once
	trace   []string
}

type task struct {
	name string
	run  func()
}

// parked is a goroutine that waits to be chosen.
type parked struct {
	task  string
	point string
	goOn  chan struct{}
}

// Run runs scenario under n seeds (fewer with -short), each in a bubble of its own, and stops at the
// first that fails. The scenario sets up, calls s.Go for each task, s.Run once, and checks.
func Run(t *testing.T, n int, scenario func(t *testing.T, s *Schedule)) {
	t.Helper()
	first := uint64(0)
	if testing.Short() {
		n = max(n/10, 1)
	}
	if v := os.Getenv("SARSEN_SCHEDULES"); v != "" {
		n = number(t, "SARSEN_SCHEDULES", v)
	}
	if v := os.Getenv("SARSEN_SEED"); v != "" {
		first, n = uint64(number(t, "SARSEN_SEED", v)), 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		runOne(t, seed, scenario)
	}
}

// runOne runs one seed. synctest.Test ends the calling test when the bubble's fails, so how to replay
// is said on the way out.
func runOne(t *testing.T, seed uint64, scenario func(t *testing.T, s *Schedule)) {
	s := newSchedule(seed)
	defer func() {
		if t.Failed() {
			t.Logf("schedule: %s", strings.Join(s.trace, ", "))
			t.Logf("replay: SARSEN_SEED=%d go test %s -run '^%s$'", seed, packagePath(), strings.ReplaceAll(t.Name(), "/", "$/^"))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		s.open()
		scenario(t, s)
	})
}

func newSchedule(seed uint64) *Schedule {
	s := &Schedule{Seed: seed, Rand: rand.New(rand.NewPCG(seed, 1))}
	if s.Rand.IntN(2) == 0 {
		s.priority = map[string]float64{}
	}
	return s
}

// open makes the channels, which must be the bubble's own for synctest to know who waits on them.
func (s *Schedule) open() {
	s.arrived, s.ended = make(chan parked, 64), make(chan struct{}, 64)
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

// Go adds a task. Its name appears in traces.
func (s *Schedule) Go(name string, run func()) { s.tasks = append(s.tasks, task{name, run}) }

// Run runs the tasks to their ends, one at a time, in the order that the seed chooses. It panics if
// no task can go on.
func (s *Schedule) Run() {
	sim.Install(s.park)
	defer sim.Install(nil)
	for _, task := range s.tasks {
		go func() {
			s.arrive(task.name, "start")
			task.run()
			s.ended <- struct{}{}
		}()
	}
	var waiting []parked
	for left, idle := len(s.tasks), 0; left > 0; {
		synctest.Wait()
		for drained := false; !drained; {
			select {
			case p := <-s.arrived:
				waiting = append(waiting, p)
			case <-s.ended:
				left--
			default:
				drained = true
			}
		}
		if len(waiting) > 0 {
			idle = 0
			waiting = s.step(waiting)
		} else if left > 0 {
			// Perhaps the tasks wait for time to pass; it does when this one sleeps too.
			if idle++; idle > 1000 {
				panic(fmt.Sprintf("deadlock with seed %d after %s", s.Seed, strings.Join(s.trace, ", ")))
			}
			time.Sleep(time.Minute)
		}
	}
	s.tasks = nil
	s.letGo(waiting)
}

// letGo ends the schedule for goroutines that are no tasks: they go on without it.
func (s *Schedule) letGo(waiting []parked) {
	sim.Install(nil)
	synctest.Wait()
	for len(s.arrived) > 0 {
		waiting = append(waiting, <-s.arrived)
	}
	for _, p := range waiting {
		close(p.goOn)
	}
}

// step lets one of the waiting go on. Several goroutines may have arrived since the last step, in any
// order; sorting makes the choice the seed's alone.
func (s *Schedule) step(waiting []parked) []parked {
	slices.SortStableFunc(waiting, func(a, b parked) int {
		return strings.Compare(a.task+a.point, b.task+b.point)
	})
	i := s.choose(waiting)
	s.trace = append(s.trace, waiting[i].task+" "+waiting[i].point)
	close(waiting[i].goOn)
	return slices.Delete(waiting, i, i+1)
}

// sendBack is how often, of so many steps, the task that is first in line is sent back.
const sendBack = 12

func (s *Schedule) choose(waiting []parked) int {
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

func (s *Schedule) arrive(task, point string) {
	goOn := make(chan struct{})
	s.arrived <- parked{task: task, point: point, goOn: goOn}
	<-goOn
	if point == "start" {
		s.names.Store(goroutine(), task)
	}
}

func (s *Schedule) park(point string) {
	task, _ := s.names.Load(goroutine())
	name, _ := task.(string) // none for a goroutine that no task is
	s.arrive(name, point)
}

// goroutine returns the number of the calling goroutine. The runtime offers it nowhere but in the
// first line of a stack, which is dear, and only tests pay.
func goroutine() uint64 {
	var buf [64]byte
	text := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	id, err := strconv.ParseUint(string(text[:bytes.IndexByte(text, ' ')]), 10, 64)
	if err != nil {
		panic(err)
	}
	return id
}
