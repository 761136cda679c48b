package segment

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestSeededRescue: syncs fail for a while and lose what they should have written; the cleaner
// rescues. What a result acknowledged names is there after a power cut.
func TestSeededRescue(t *testing.T) {
	acked := 0
	explore.Run(t, 3000, func(t *testing.T, s *explore.Schedule) {
		l := &life{T: t, s: s, data: map[digest.Digest][]byte{}}
		l.fsys = &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		o := cramped
		o.MaxSize = 12 * o.segmentSize
		l.ring = openRing(t, l.fsys, o)
		l.promised = promises{map[digest.Digest]time.Time{}, map[digest.Digest]bool{}, map[byte]int{}, map[byte]int{}}
		for i, n := range []int{1, 500, 3000, 15000, 700, 40} {
			data := storetest.Bytes(s.Seed*8+uint64(i), n)
			d := digest.SHA256.Of(data)
			l.data[d], l.list = data, append(l.list, d)
		}
		for i := range 2 {
			s.Go(fmt.Sprint("writer ", i), func() {
				for n := range l.list {
					d := l.list[(3*n+i)%len(l.list)]
					if l.put(d) == nil {
						l.said(d)
					}
				}
			})
		}
		s.Go("recorder", func() {
			for version := 1; version <= 6; version++ {
				l.mu.Lock()
				l.promised.tried[0] = version
				named := maps.Clone(l.promised.yes)
				l.mu.Unlock()
				if l.ring.Put(context.Background(), [32]byte{0}, []byte{byte(version)}) != nil {
					continue
				}
				l.mu.Lock()
				l.promised.results[0] = version
				for d := range named {
					l.promised.durable[d] = true
				}
				l.mu.Unlock()
			}
		})
		s.Go("disk", func() {
			for range s.Rand.IntN(20) {
				sim.Point("wait")
			}
			l.fsys.SetFault(failSyncs)
			for range s.Rand.IntN(20) {
				sim.Point("wait")
			}
			l.fsys.SetFault(nil)
		})
		s.Go("rotator", func() { l.own(2, func() { _ = l.ring.rotate(0, false) }) })
		s.Go("cleaner", func() {
			for range 6 {
				l.ring.makeRoom()
				sim.Point("again")
			}
			l.ring.evictOldest()
			l.ring.makeRoom()
		})
		at := s.Rand.IntN(120)
		var image *vfs.Mem
		var then promises
		s.Go("end", func() {
			for range at {
				sim.Point("wait")
			}
			image, then = l.end("power cut")
		})
		s.Run()
		l.fsys.SetBefore(nil)
		if then.results[0] > 0 {
			acked++
		}
		for d := range l.promised.yes {
			if err := l.read(l.ring, d); err != nil {
				t.Errorf("at rest: %v", err)
			}
		}
		l.check("power cut", image, then)
	})
	t.Logf("%d with a result", acked)
}
