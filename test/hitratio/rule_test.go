package hitratio

import (
	"slices"
	"testing"
)

func TestSurvivors(t *testing.T) {
	held, idle := candidate{size: 10, held: true}, candidate{size: 10}
	once, often := candidate{size: 10, reads: 1}, candidate{size: 10, reads: 3}
	for name, c := range map[string]struct {
		rule rule
		in   []candidate
		want []bool
	}{
		"what nobody reads goes":           {rule{share: 1}, []candidate{idle, once, idle, held}, []bool{false, true, false, true}},
		"the first that the share has":     {rule{share: 0.5}, []candidate{once, once, once, idle}, []bool{true, true, false, false}},
		"the most read that the share has": {rule{share: 0.25, hotFirst: true}, []candidate{once, idle, once, often}, []bool{false, false, false, true}},
		"leases take nothing of the share": {rule{share: 0.25}, []candidate{held, held, once, idle}, []bool{true, true, true, false}},
		"leases hold whatever the share":   {rule{}, []candidate{held, held, once, held}, []bool{true, true, false, true}},
	} {
		if got := c.rule.survivors(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: survivors = %v, want %v", name, got, c.want)
		}
	}
}

// TestCopiesAreBounded asks for everything that is there between two puts, the worst that clients can
// do: without its share the cleaner would copy the whole ring for one new object.
func TestCopiesAreBounded(t *testing.T) {
	const objects, capacity = 4000, 1000
	copies := func(share float64) float64 {
		r := newRing(objects, capacity*equal, rule{maxReads: 1, share: share}, 0)
		for key := 1; key <= objects; key++ {
			r.Get(uint32(key), equal)
			for _, s := range r.order {
				for _, k := range s.keys {
					r.entries[k].reads = 1
				}
			}
		}
		return float64(r.copied) / float64(r.written)
	}
	if got, want := copies(recommended.share), recommended.share/(1-recommended.share); got > want {
		t.Errorf("%.2f bytes are copied for each that is put, at most %.2f are allowed", got, want)
	}
	if got := copies(1); got < 7 {
		t.Errorf("without the share %.2f bytes are copied for each that is put: the clients above are too kind", got)
	}
}

// TestRingKeepsToItsCapacity: the cleaner's segment is enough for it, with leases or without.
func TestRingKeepsToItsCapacity(t *testing.T) {
	for _, logNormal := range []bool{false, true} {
		for _, lease := range []int{0, 500} {
			w := zipf(scale{objects: 5000, requests: 50_000}, 0.9, 10)
			w.resize(logNormal, 5000)
			r := newRing(w.keys(), w.footprint/10, recommended, lease)
			for i, key := range w.requests {
				r.Get(key, w.sizes[key])
				if r.used > r.capacity {
					t.Errorf("log-normal: %v, lease %d: after request %d the ring takes %d bytes of %d", logNormal, lease, i, r.used, r.capacity)
					break
				}
			}
		}
	}
}
