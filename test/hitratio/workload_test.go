package hitratio

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
)

// A workload is what clients ask for, one after the other.
type workload struct {
	name      string
	requests  []uint32 // keys
	sizes     []int64  // by key; 0 has none
	footprint int64    // bytes of all objects, without those of scans
}

// keys is how many different objects there are.
func (w *workload) keys() int { return len(w.sizes) - 1 }

// equal is the size of objects that are all alike.
const equal = 64 << 10

// resize gives every object a size, and counts the first so many for the footprint: equal ones, or
// log-normal around 16 KiB, from 4 KiB to 4 MiB.
func (w *workload) resize(logNormal bool, objects int) {
	rnd := rand.New(rand.NewPCG(7, 7))
	highest := uint32(0)
	for _, key := range w.requests {
		highest = max(highest, key)
	}
	w.sizes = make([]int64, highest+1)
	w.footprint = 0
	for key := 1; key <= int(highest); key++ {
		w.sizes[key] = equal
		if logNormal {
			w.sizes[key] = int64(min(max(math.Exp(math.Log(16<<10)+1.5*rnd.NormFloat64()), 4<<10), 4<<20))
		}
		if key <= objects {
			w.footprint += w.sizes[key]
		}
	}
}

// A scale is how large workloads are.
type scale struct {
	objects, requests int
}

// workloads returns all of them. Those of one name are several samples of one kind.
func workloads(sc scale) []*workload {
	var all []*workload
	for _, logNormal := range []bool{false, true} {
		for _, alpha := range []float64{0.7, 0.9, 1.1} {
			for _, scans := range []int{0, 10, 30} {
				w := zipf(sc, alpha, scans)
				w.resize(logNormal, sc.objects)
				all = append(all, w)
			}
		}
		// One history of branches is luck; the mean of several is not.
		for seed := range uint64(4) {
			w := builds(sc, seed)
			w.resize(logNormal, math.MaxInt)
			all = append(all, w)
		}
	}
	for i, w := range all {
		w.name += map[bool]string{true: ", equal", false: ", log-normal"}[i < len(all)/2]
	}
	return all
}

// zipf asks for objects by a Zipf law. Now and then a scan comes, of objects that are asked for once
// and never again; together scans are so many percent of all requests.
func zipf(sc scale, alpha float64, scans int) *workload {
	rnd := rand.New(rand.NewPCG(uint64(alpha*100), uint64(scans)))
	sum := make([]float64, sc.objects)
	total := 0.0
	for i := range sum {
		total += math.Pow(float64(i+1), -alpha)
		sum[i] = total
	}
	keys := rnd.Perm(sc.objects) // so that an object's size has nothing to do with its rank
	w := &workload{name: fmt.Sprintf("Zipf %.1f", alpha)}
	if scans > 0 {
		w.name += fmt.Sprintf(", %d %% scans", scans)
	}
	once := uint32(sc.objects)
	period := sc.objects / 5
	for i := range sc.requests {
		if i%period >= period*(100-scans)/100 {
			once++
			w.requests = append(w.requests, once)
			continue
		}
		x := rnd.Float64() * total
		rank := sort.Search(sc.objects-1, func(i int) bool { return sum[i] >= x })
		w.requests = append(w.requests, uint32(keys[rank]+1))
	}
	return w
}

// builds asks for what builds of four branches read, two of them at a time. A build reads nine in ten
// of the objects of its branch's last build, nearly in the same order, and new ones in the places of
// the others. The first branch is built most often, and now and then another one is rebased onto it.
func builds(sc scale, seed uint64) *workload {
	rnd := rand.New(rand.NewPCG(3, seed))
	w := &workload{name: "builds"}
	next := uint32(0)
	fresh := func() uint32 { next++; return next }
	branches := make([][]uint32, 4)
	for range sc.objects / 10 {
		branches[0] = append(branches[0], fresh())
	}
	for i := range branches {
		branches[i] = append([]uint32(nil), branches[0]...)
	}
	build := func() []uint32 {
		i := []int{0, 0, 0, 0, 1, 1, 2, 3}[rnd.IntN(8)]
		if i > 0 && rnd.IntN(5) == 0 {
			branches[i] = append([]uint32(nil), branches[0]...)
		}
		b := branches[i]
		for j := range b {
			if rnd.IntN(10) == 0 {
				b[j] = fresh()
			}
			if k := min(j+rnd.IntN(50), len(b)-1); rnd.IntN(4) == 0 {
				b[j], b[k] = b[k], b[j]
			}
		}
		return append([]uint32(nil), b...)
	}
	running := [2][]uint32{}
	for len(w.requests) < sc.requests {
		r := rnd.IntN(2)
		if len(running[r]) == 0 {
			running[r] = build()
		}
		w.requests = append(w.requests, running[r][0])
		running[r] = running[r][1:]
	}
	return w
}
