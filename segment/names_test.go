package segment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestNames compares names with a sorted slice.
func TestNames(t *testing.T) {
	var s names
	var want []string
	for step := range 20000 {
		name := fmt.Sprint(rand.IntN(4000))
		i, found := slices.BinarySearch(want, name)
		if got := s.has(name); got != found {
			t.Fatalf("step %d: has(%s) = %v", step, name, got)
		}
		switch grow := step < 12000; {
		case grow == (rand.IntN(4) > 0):
			if s.add(name); !found {
				want = slices.Insert(want, i, name)
			}
		default:
			if s.remove(name); found {
				want = slices.Delete(want, i, i+1)
			}
		}
		from := fmt.Sprint(rand.IntN(4000))
		i, _ = slices.BinarySearch(want, from)
		if got, ok := s.next(from); ok != (i < len(want)) || ok && got != want[i] {
			t.Fatalf("step %d: next(%s) = %s, %v", step, from, got, ok)
		}
		if s.len() != len(want) {
			t.Fatalf("step %d: %d names, want %d", step, s.len(), len(want))
		}
	}
}
