package ringmodel

import (
	"fmt"
	"hash/maphash"
	"slices"
)

// A result is what a search found.
type result struct {
	states int
	losses map[string][]string // kind of loss to the shortest way there
	full   bool                // it stopped at the limit, so it was not exhaustive
}

// emit takes one step: who does what, the state after it, and what was lost, if anything.
type emit[S any] func(who, what string, after S, loss string)

// search goes through all states that next leads to, nearest first. It keeps a hash of each state and
// how it came there, and finds the ways to losses by going there again. If first, it stops at the first.
func search[S comparable](init S, limit int, next func(s S, step emit[S])) result {
	type origin struct {
		from int32
		step uint16
	}
	seed := maphash.MakeSeed()
	seen := map[uint64]struct{}{maphash.Comparable(seed, init): {}}
	origins := []origin{{-1, 0}}
	lost := map[string][]uint16{}
	end := func(full bool) result {
		r := result{len(seen), map[string][]string{}, full}
		for loss, steps := range lost {
			r.losses[loss] = retrace(init, steps, next)
		}
		return r
	}
	way := func(number int32) (steps []uint16) {
		for n := number; origins[n].from >= 0; n = origins[n].from {
			steps = append(steps, origins[n].step)
		}
		slices.Reverse(steps)
		return steps
	}
	type numbered struct {
		number int32
		state  S
	}
	for layer := []numbered{{0, init}}; len(layer) > 0; {
		var deeper []numbered
		for _, at := range layer {
			n := uint16(0)
			next(at.state, func(_, _ string, after S, loss string) {
				step := n
				n++
				if loss != "" {
					if _, ok := lost[loss]; !ok {
						lost[loss] = append(way(at.number), step)
					}
					return
				}
				h := maphash.Comparable(seed, after)
				if _, ok := seen[h]; ok {
					return
				}
				seen[h] = struct{}{}
				origins = append(origins, origin{at.number, step})
				deeper = append(deeper, numbered{int32(len(origins) - 1), after})
			})
			if len(seen) > limit {
				return end(true)
			}
		}
		layer = deeper
	}
	return end(false)
}

// retrace takes steps from init again, and says in words what they were.
func retrace[S any](init S, steps []uint16, next func(s S, step emit[S])) (words []string) {
	s := init
	for _, want := range steps {
		n, was := uint16(0), s
		next(was, func(who, what string, after S, _ string) {
			if n == want {
				words = append(words, fmt.Sprintf("%s: %s", who, what))
				s = after
			}
			n++
		})
	}
	return words
}
