package ringmodel

import (
	"maps"
	"slices"
	"testing"
)

// ringOf returns a ring whose sealed segments hold these, with a full active segment of leased units.
func ringOf(free, wanted uint8, segments ...filling) space {
	s := space{free: free, wanted: wanted, active: filling{leased: perSegment}, n: uint8(len(segments))}
	copy(s.segments[:], segments)
	return s
}

var (
	allLeased = filling{leased: 2}
	half      = filling{leased: 1, cold: 1}
	allCold   = filling{cold: 2}
)

var spaceScenarios = map[string]space{
	"oldest leased": ringOf(1, 2, allLeased, allCold),
	"half leased":   ringOf(1, 2, half, half, allCold),
	"three writers": ringOf(1, 3, allLeased, half, allLeased, allCold),
	"big blob":      ringOf(1, 2, filling{own: 2}, allCold),
	"all leased":    ringOf(1, 2, allLeased, allLeased, allLeased),
	"slow reader":   func() space { s := ringOf(1, 1, allCold, allCold, allCold); s.held = 1; return s }(),
	"record and slot": func() space {
		s := ringOf(1, 1, filling{leased: 2, slot: true}, allCold)
		s.record.wants = true
		return s
	}(),
}

// goesRound reports whether there is a state from which no writer is ever served or refused.
func (r spaceRules) goesRound(init space) bool {
	states := []space{init}
	number := map[space]int{init: 0}
	var from [][]int // the states before each
	served := []int{}
	for n := 0; n < len(states); n++ {
		from = append(from, nil)
		if s := states[n]; s.wanted == 0 && !s.record.wants {
			served = append(served, n)
		}
		r.next(states[n], func(_, _ string, after space, _ string) {
			if _, ok := number[after]; !ok {
				number[after] = len(states)
				states = append(states, after)
			}
		})
	}
	for n, s := range states {
		r.next(s, func(_, _ string, after space, _ string) { from[number[after]] = append(from[number[after]], n) })
	}
	good := map[int]bool{}
	for len(served) > 0 {
		n := served[len(served)-1]
		served = served[:len(served)-1]
		if !good[n] {
			good[n] = true
			served = append(served, from[n]...)
		}
	}
	return len(good) < len(states)
}

const round = "Round: it copies for ever, and nobody is served or refused"

func (r spaceRules) losses(t *testing.T, name string) map[string][]string {
	t.Helper()
	init, ok := spaceScenarios[name]
	if !ok {
		t.Fatalf("there is no scenario %q", name)
	}
	found := search(init, limit, r.next)
	if len(found.losses) == 0 && r.goesRound(init) {
		found.losses[round] = []string{}
	}
	return found.losses
}

// TestSpace: with all rules the cleaner never starves, and nobody is refused while something is cold.
func TestSpace(t *testing.T) {
	all := spaceRules{true, true, true, true, true, true}
	for _, name := range slices.Sorted(maps.Keys(spaceScenarios)) {
		for loss, way := range all.losses(t, name) {
			t.Errorf("%s: %s\n%s", name, loss, steps(way))
		}
	}
	for _, c := range []struct {
		rule     string
		off      func(r *spaceRules)
		scenario string
		loss     string
	}{
		{"Reserve", func(r *spaceRules) { r.Reserve = false }, "three writers", "Deadlock: writers and the cleaner wait for each other"},
		{"ReserveUsed", func(r *spaceRules) { r.ReserveUsed = false }, "half leased", "Deadlock: writers and the cleaner wait for each other"},
		{"OwnStays", func(r *spaceRules) { r.OwnStays = false }, "big blob", "Deadlock: writers and the cleaner wait for each other"},
		{"GainCounted", func(r *spaceRules) { r.GainCounted = false }, "all leased", round},
		{"HeldAwaited", func(r *spaceRules) { r.HeldAwaited = false }, "slow reader", "Wasted: cold blobs went for room that was coming back"},
		{"SlotGivenBack", func(r *spaceRules) { r.SlotGivenBack = false }, "record and slot", "Deadlock: writers and the cleaner wait for each other"},
	} {
		r := all
		c.off(&r)
		found := r.losses(t, c.scenario)
		way, ok := found[c.loss]
		if !ok {
			t.Errorf("without %s, %s: losses are %q, want %s", c.rule, c.scenario, slices.Sorted(maps.Keys(found)), c.loss)
			continue
		}
		t.Logf("without %s, %s: %s\n%s", c.rule, c.scenario, c.loss, steps(way))
	}
}
