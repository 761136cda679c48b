package segment

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestFaultyLife is TestSeededLife in which a few operations of one kind fail, one after another,
// and then no more: what was promised still holds, in this process and after a kill.
func TestFaultyLife(t *testing.T) {
	explore.Run(t, 1500, func(t *testing.T, s *explore.Schedule) {
		l := &life{T: t, s: s, data: map[digest.Digest][]byte{}}
		l.fsys = &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		fsys := &faulty{FS: l.fsys}
		l.ring = openRing(t, fsys, cramped)
		l.promised = promises{map[digest.Digest]time.Time{}, map[digest.Digest]bool{}, map[byte]int{}, map[byte]int{}}
		for i, n := range []int{1, 500, 3000, 15000, 70000} {
			data := storetest.Bytes(s.Seed*8+uint64(i), n)
			d := digest.SHA256.Of(data)
			l.data[d], l.list = data, append(l.list, d)
		}
		kind := []string{"write", "sync", "create", "remove", "read", "leases"}[s.Rand.IntN(6)]
		from, n := s.Rand.IntN(20), 1+s.Rand.IntN(4)
		if kind == "read" {
			n = 1
		}
		fsys.set(func(op, name string, _ int64, _ int) error {
			if op != kind && !(kind == "leases" && strings.HasSuffix(name, leaseExt)) {
				return nil
			}
			if from--; from < 0 && n > 0 {
				n--
				return errDisk
			}
			return nil
		})
		said := func(d digest.Digest) {
			l.mu.Lock()
			l.promised.yes[d] = time.Now().Add(cramped.Lease)
			l.mu.Unlock()
			if err := l.read(l.ring, d); err != nil && !errors.Is(err, errDisk) {
				t.Errorf("right after a yes: %v", err)
			}
		}
		for i := range 2 {
			s.Go(fmt.Sprint("writer ", i), func() {
				for n := range l.list {
					d := l.list[(3*n+i)%len(l.list)]
					if l.put(d) == nil {
						said(d)
					}
				}
			})
		}
		s.Go("recorder", func() {
			for version := 1; version <= 4; version++ {
				l.mu.Lock()
				l.promised.tried[0] = version
				l.mu.Unlock()
				if l.ring.Put(context.Background(), [32]byte{0}, []byte{byte(version)}) == nil {
					l.mu.Lock()
					l.promised.results[0] = version
					l.mu.Unlock()
				}
			}
		})
		s.Go("asker", func() {
			for _, d := range l.list {
				if missing, err := l.ring.Missing(context.Background(), digest.SetOf(d)); err == nil && missing.Len() == 0 {
					said(d)
				}
			}
		})
		s.Go("rotator", func() { l.own(3, func() { _ = l.ring.rotate(0, false) }) })
		s.Go("evictor", func() {
			for range 4 {
				l.ring.evictOldest()
			}
			for range 2 {
				l.ring.makeRoom()
			}
		})
		at := s.Rand.IntN(80)
		var image *vfs.Mem
		var then promises
		s.Go("end", func() {
			for range at {
				sim.Point("wait")
			}
			image, then = l.end("kill")
		})
		s.Run()
		l.fsys.SetBefore(nil)
		fsys.set(nil)
		if err := l.ring.leaks(l.fsys); err != nil {
			t.Errorf("at rest (%s): %v", kind, err)
		}
		for d := range l.promised.yes {
			if err := l.read(l.ring, d); err != nil {
				t.Errorf("at rest (%s): %v", kind, err)
			}
		}
		l.check("kill", image, then)
	})
}

var _ = blob.ErrFull
