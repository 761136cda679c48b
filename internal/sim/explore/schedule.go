package explore

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/internal/sim"
)

// A Schedule is one interleaving of a scenario's tasks.
type Schedule struct {
	Seed uint64
	Rand *rand.Rand // for the scenario's own choices

	// Fingerprint, if a scenario of Exhaust sets it, returns a hash of all that tasks share. Only then are
	// states that were seen before not explored again.
	Fingerprint func() uint64
	// Only, if set, says at which points tasks wait to be chosen; they pass the others.
	Only func(point string) bool

	// priority is of tasks, in half of the seeds. There the first in line goes on until, now and then, it
	// is sent back: so one task waits at one point while others get far, which a fair choice at each step
	// hardly ever gives (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of
	// Finding Bugs", 2010).
	priority map[*task]float64
	// choose returns which of the waiting goes on. They are sorted by task and point.
	choose func(waiting []parked) int

	tasks   []*task
	strange task // all goroutines that are no task
	arrived chan parked
	ended   chan *task
	trace   []parked
}

// A task is what a scenario gave to Go.
type task struct {
	name  string
	run   func()
	goOn  chan struct{} // tells it to go on
	at    int           // the step at which it was chosen last
	alive bool          // it was started, and has not ended

	mu    sync.Mutex // strangers may be several
	local uint64     // hash of the points it passed and of what it noted
}

// parked is a goroutine that waits to be chosen.
type parked struct {
	task  *task
	point string
	goOn  chan struct{}
}

// background is the name of goroutines that are no task.
const background = "background"

// open makes the channels, which must be the bubble's own for synctest to know who waits on them.
func (s *Schedule) open() {
	s.arrived, s.ended = make(chan parked, 64), make(chan *task, maxTasks)
	s.strange.name = background
}

// Go adds a task. Its name appears in traces.
func (s *Schedule) Go(name string, run func()) {
	s.tasks = append(s.tasks, &task{name: name, run: run, goOn: make(chan struct{}, 1)})
}

// Run runs the tasks to their ends, one at a time, in the order that the schedule chooses. Other
// goroutines of the bubble take part under the name "background"; when the tasks have ended, they go
// on freely. Run panics if no task can go on.
func (s *Schedule) Run() {
	synctest.Wait() // what the scenario's setting up left behind comes to rest first
	sim.Install(s.park)
	defer sim.Install(nil)
	for i, t := range s.tasks {
		t.alive = true
		go asTask(i, func() {
			s.arrive(t, "start")
			t.run()
			s.ended <- t
		})
	}
	var waiting []parked
	for left, idle := len(s.tasks), 0; left > 0; {
		var ended int
		waiting, ended = s.collect(waiting)
		left -= ended
		if len(waiting) > 0 && left > 0 {
			idle = 0
			waiting = s.step(waiting)
		} else if left > 0 {
			// Perhaps the tasks wait for time to pass; it does when this one sleeps too.
			if idle++; idle > 1000 {
				panic(fmt.Sprintf("deadlock with seed %d after %s", s.Seed, s))
			}
			time.Sleep(time.Minute)
		}
	}
	s.release(waiting)
	s.tasks = nil
}

// collect waits until nobody goes on, and returns who waits to be chosen, and how many tasks ended.
func (s *Schedule) collect(waiting []parked) (_ []parked, ended int) {
	synctest.Wait()
	for {
		select {
		case p := <-s.arrived:
			waiting = append(waiting, p)
		case t := <-s.ended:
			t.alive = false
			ended++
		default:
			return waiting, ended
		}
	}
}

// release lets all go on, and those that arrive while the hook is taken away.
func (s *Schedule) release(waiting []parked) {
	sim.Install(nil)
	for len(waiting) > 0 {
		for _, p := range waiting {
			p.goOn <- struct{}{}
		}
		waiting, _ = s.collect(waiting[:0])
	}
}

// maxSteps ends a schedule in which somebody goes round for ever.
const maxSteps = 1_000_000

// step lets one of the waiting go on. Several goroutines may have arrived since the last step, in any
// order; sorting makes the choice the schedule's alone.
func (s *Schedule) step(waiting []parked) []parked {
	slices.SortStableFunc(waiting, func(a, b parked) int {
		return cmp.Or(strings.Compare(a.task.name, b.task.name), strings.Compare(a.point, b.point))
	})
	i := s.choose(waiting)
	p := waiting[i]
	if len(s.trace) == maxSteps {
		panic(fmt.Sprintf("seed %d does not end; it goes round at %s %s", s.Seed, p.task.name, p.point))
	}
	s.trace = append(s.trace, p)
	p.task.at = len(s.trace)
	p.goOn <- struct{}{}
	return slices.Delete(waiting, i, i+1)
}

// String returns the steps so far.
func (s *Schedule) String() string {
	var b strings.Builder
	for i, p := range s.trace {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.task.name + " " + p.point)
	}
	return b.String()
}

// arrive waits until t is chosen.
func (s *Schedule) arrive(t *task, point string) {
	goOn := t.goOn
	if t == &s.strange {
		goOn = make(chan struct{}, 1) // there may be several
	}
	s.arrived <- parked{t, point, goOn}
	<-goOn
}

// park is what sim.Point calls.
func (s *Schedule) park(point string) {
	t := s.running()
	t.note(hashString(point))
	if s.Only == nil || s.Only(point) {
		s.arrive(t, point)
	}
}

// running returns the task that the calling goroutine is.
func (s *Schedule) running() *task {
	if i := callSite(); i >= 0 {
		return s.tasks[i]
	}
	return &s.strange
}
