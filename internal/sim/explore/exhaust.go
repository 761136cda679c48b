package explore

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Exhaust runs scenario under every interleaving of its tasks at the points that s.Only names. It fails
// if that takes more than limit schedules, so that a test that passes was exhaustive.
//
// It is a depth-first search without memory of states: each schedule begins anew, makes the choices
// that lead to the first one not yet made, and then goes on with the first task each time. With
// s.Fingerprint a state that was seen before is not explored again. Two states are one if their
// fingerprints, the clock, the points that each task passed, what it noted, and the order in which the
// blocked ones came are the same. So what a task learned from shared state must show in its points
// or in a Note.
func Exhaust(t *testing.T, limit int, scenario func(t *testing.T, s *Schedule)) {
	t.Helper()
	x := search{seen: map[uint64]bool{}}
	for begun := false; !begun || x.next(); begun = true {
		if x.schedules++; x.schedules > limit {
			t.Fatalf("more than %d schedules; %d states so far", limit, len(x.seen))
		}
		x.run(t, scenario)
	}
	t.Logf("exhaustive: %d schedules, %d states, %d choices deep", x.schedules, len(x.seen), x.deepest)
}

// A search is where Exhaust is.
type search struct {
	path      []choice // the choices of this schedule
	depth     int      // how many of them are made already
	pruned    bool     // the rest of this schedule was explored before
	seen      map[uint64]bool
	schedules int
	deepest   int
}

// A choice is one step at which several tasks could go on.
type choice struct {
	of   string // who they were
	n    int    // how many
	made int    // which of them went on
}

// next turns to the choice after the last one that has another way to go.
func (x *search) next() bool {
	for len(x.path) > 0 {
		last := &x.path[len(x.path)-1]
		if last.made++; last.made < last.n {
			return true
		}
		x.path = x.path[:len(x.path)-1]
	}
	return false
}

func (x *search) run(t *testing.T, scenario func(t *testing.T, s *Schedule)) {
	s := newSchedule(0)
	x.depth, x.pruned = 0, false
	s.choose = func(waiting []parked) int { return x.choose(s, waiting) }
	defer func() {
		x.deepest = max(x.deepest, len(x.path))
		if t.Failed() {
			t.Logf("schedule %d: %s", x.schedules, s)
			t.Logf("replay: go test %s -run '^%s$'", packagePath(), strings.ReplaceAll(t.Name(), "/", "$/^"))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		s.open()
		scenario(t, s)
	})
}

// choose makes the choice that the path says, or begins a new one.
func (x *search) choose(s *Schedule, waiting []parked) int {
	if len(waiting) == 1 || x.pruned {
		return 0
	}
	if x.depth == len(x.path) {
		if s.Fingerprint != nil {
			state := s.state(waiting)
			if x.seen[state] {
				x.pruned = true
				return 0
			}
			x.seen[state] = true
		}
		x.path = append(x.path, choice{who(waiting), len(waiting), 0})
	}
	c := x.path[x.depth]
	x.depth++
	if of := who(waiting); of != c.of {
		panic(fmt.Sprintf("the same choices led to %q, and now to %q, after %s", c.of, of, s))
	}
	return c.made
}

func who(waiting []parked) string {
	var b strings.Builder
	for _, p := range waiting {
		b.WriteString(p.task.name + " " + p.point + ", ")
	}
	return b.String()
}

// state returns a hash of everything that decides what can come.
func (s *Schedule) state(waiting []parked) uint64 {
	h := mix(s.Fingerprint(), uint64(time.Now().UnixNano()))
	h = mix(h, s.strange.local)
	at := map[*task]bool{}
	for _, p := range waiting {
		at[p.task] = true
		h = mix(mix(h, hashString(p.task.name+" "+p.point)), p.task.local)
	}
	for last := 0; ; {
		// Those that wait for each other, not for being chosen, are served in the order in which they came.
		var next *task
		for _, t := range s.tasks {
			if t.alive && !at[t] && t.at > last && (next == nil || t.at < next.at) {
				next = t
			}
		}
		if next == nil {
			break
		}
		h = mix(mix(h, hashString("blocked "+next.name)), next.local)
		last = next.at
	}
	for _, t := range s.tasks {
		if !t.alive {
			h = mix(h, t.local) // what it saw is judged when all have ended
		}
	}
	return h
}

// Note adds what the calling task learned to its part of the state.
func (s *Schedule) Note(what uint64) { s.running().note(what) }

func (t *task) note(what uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.local = mix(t.local, what)
}

// Hash returns a hash of values, for fingerprints and notes. Order counts.
func Hash(values ...any) uint64 { return hashString(fmt.Sprint(values...)) }

// hashString is 64-bit FNV-1a (Fowler, Noll, Vo).
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix adds v to the hash h (the finalizer of MurmurHash3, by Appleby).
func mix(h, v uint64) uint64 {
	h ^= v + 0x9e3779b97f4a7c15 + h<<6 + h>>2
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
