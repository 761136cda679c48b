package segment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A life is a small ring with everything going on in it at once, and what it promised so far.
type life struct {
	*testing.T
	s    *explore.Schedule
	fsys *vfs.Mem
	ring *Ring
	data map[digest.Digest][]byte
	list []digest.Digest

	mu       sync.Mutex
	promised promises
}

// promises is what clients were told.
type promises struct {
	yes     map[digest.Digest]time.Time // until when the blob must be readable
	durable map[digest.Digest]bool      // named by an acknowledged result
	results map[byte]int                // the newest acknowledged version
	tried   map[byte]int                // the newest version of which a Put began
}

func (p promises) clone() promises {
	return promises{maps.Clone(p.yes), maps.Clone(p.durable), maps.Clone(p.results), maps.Clone(p.tried)}
}

var cramped = Options{MaxSize: 6 * 64 << 10, Lease: time.Hour, segmentSize: 64 << 10, smallSize: 512, tick: -1}

// TestSeededLife writes, asks, updates results, rotates and evicts in every order, and ends that at any
// instant by Close, a kill or a power cut. What a new process then finds is what was promised.
func TestSeededLife(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		l := &life{T: t, s: s, data: map[digest.Digest][]byte{}}
		l.fsys = &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		l.ring = openRing(t, l.fsys, cramped)
		l.promised = promises{map[digest.Digest]time.Time{}, map[digest.Digest]bool{}, map[byte]int{}, map[byte]int{}}
		for i, n := range []int{1, 500, 3000, 15000, 70000} {
			data := storetest.Bytes(s.Seed*8+uint64(i), n)
			d := digest.SHA256.Of(data)
			l.data[d], l.list = data, append(l.list, d)
		}
		for i := range 2 {
			s.Go(fmt.Sprint("writer ", i), func() { l.write(i) })
			s.Go(fmt.Sprint("recorder ", i), func() { l.record(byte(i)) })
		}
		s.Go("asker", l.ask)
		s.Go("rotator", func() { l.own(3, func() { _ = l.ring.rotate(0, false) }) })
		s.Go("evictor", l.evict)
		end, at := []string{"close", "kill", "power cut"}[s.Rand.IntN(3)], s.Rand.IntN(60)
		var image *vfs.Mem
		var then promises
		s.Go("end", func() {
			for range at {
				sim.Point("wait")
			}
			image, then = l.end(end)
		})
		s.Run()
		l.fsys.SetBefore(nil)
		if end == "close" {
			image, then = l.fsys.Clone(), l.promised
		} else if err := l.ring.leaks(l.fsys); err != nil {
			t.Errorf("at rest: %v", err)
		}
		l.check(end, image, then)
	})
}

// end ends the process at this instant, and returns what it leaves and had promised.
func (l *life) end(how string) (*vfs.Mem, promises) {
	l.mu.Lock()
	then := l.promised.clone()
	l.mu.Unlock()
	switch how {
	case "kill":
		return l.fsys.Clone(), then
	case "power cut":
		return l.fsys.PowerCut(), then
	}
	closeRing(l.T, l.ring)
	return nil, then
}

// mayFail are the errors that clients must expect.
func (l *life) mayFail(what string, err error) bool {
	if err != nil && !errors.Is(err, blob.ErrAborted) && !errors.Is(err, blob.ErrClosed) && !errors.Is(err, blob.ErrFull) {
		l.Errorf("%s = %v", what, err)
	}
	return err != nil
}

// said notes a yes, and sees that it is true now.
func (l *life) said(d digest.Digest) {
	l.mu.Lock()
	l.promised.yes[d] = time.Now().Add(cramped.Lease)
	l.mu.Unlock()
	if err := l.read(l.ring, d); err != nil && !errors.Is(err, blob.ErrClosed) {
		l.Errorf("right after a yes: %v", err)
	}
}

func (l *life) read(r *Ring, d digest.Digest) error {
	got, err := blob.Get(context.Background(), r, d)
	if err == nil && string(got) != string(l.data[d]) {
		err = fmt.Errorf("%d bytes that are not the blob's", len(got))
	}
	return err
}

func (l *life) write(i int) {
	for n := range l.list {
		d := l.list[(3*n+i)%len(l.list)]
		if !l.mayFail("Commit", l.put(d)) {
			l.said(d)
		}
	}
}

func (l *life) put(d digest.Digest) error {
	w, err := l.ring.Create(context.Background(), d)
	if err != nil {
		return err
	}
	defer w.Close()
	half := len(l.data[d]) / 2
	for _, part := range [][]byte{l.data[d][:half], l.data[d][half:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
		sim.Point("wrote a part")
	}
	return w.Commit()
}

func (l *life) ask() {
	for _, d := range l.list {
		missing, err := l.ring.Missing(context.Background(), digest.SetOf(d))
		if !l.mayFail("Missing", err) && missing.Len() == 0 {
			l.said(d)
		}
	}
}

// record puts three versions of a result that names every blob of which there was a yes.
func (l *life) record(key byte) {
	for version := 1; version <= 3; version++ {
		l.mu.Lock()
		l.promised.tried[key] = version
		named := maps.Clone(l.promised.yes)
		l.mu.Unlock()
		if l.mayFail("Put", l.ring.Put(context.Background(), [32]byte{key}, []byte{byte(version)})) {
			continue
		}
		l.mu.Lock()
		l.promised.results[key] = version
		for d := range named {
			l.promised.durable[d] = true
		}
		l.mu.Unlock()
		rec, err := l.ring.Get(context.Background(), [32]byte{key})
		if errors.Is(err, blob.ErrClosed) {
			return
		}
		if err != nil || rec.Value[0] != byte(version) {
			l.Errorf("result %d right after version %d was put: %v, %v", key, version, rec.Value, err)
		}
	}
}

// own acts as the ring's owner n times.
func (l *life) own(n int, act func()) {
	for range n {
		l.ring.turn <- struct{}{}
		if !l.ring.closed.Load() {
			act()
		}
		<-l.ring.turn
		sim.Point("let go")
	}
}

func (l *life) evict() {
	l.ring.evictOldest()
	l.ring.evictOldest()
	if l.late() {
		time.Sleep(2 * cramped.Lease)
	}
	l.ring.evictOldest()
	l.ring.evictOldest()
}

// late reports whether this schedule lets leases run out.
func (l *life) late() bool { return l.s.Seed%3 == 0 }

// check opens what is left, and reads what was promised, also after everything else was evicted.
func (l *life) check(end string, image *vfs.Mem, then promises) {
	r := openRing(l.T, image, cramped)
	for _, evicted := range []bool{false, true} {
		if evicted {
			r.evictAll()
		}
		for d, until := range then.yes {
			must := time.Now().Before(until) && (end != "power cut" || then.durable[d])
			if err := l.read(r, d); err != nil && (must || !errors.Is(err, blob.ErrNotFound)) {
				l.Errorf("after a %s (evicted: %v): %v", end, evicted, err)
			}
		}
		for key, version := range then.results {
			rec, err := r.Get(context.Background(), [32]byte{key})
			if errors.Is(err, blob.ErrNotFound) && l.late() {
				continue // its lease may have been over
			}
			if err != nil || int(rec.Value[0]) < version || int(rec.Value[0]) > then.tried[key] {
				l.Errorf("after a %s (evicted: %v): result %d is %v, %v; version %d was acknowledged", end, evicted, key, rec.Value, err, version)
			}
		}
	}
	if err := r.leaks(image); err != nil {
		l.Errorf("after a %s: %v", end, err)
	}
	closeRing(l.T, r)
	if end != "close" {
		_ = l.ring.Close()
	}
}

// TestSeededTwins: two writers of one blob, and a rotation. Whatever the footer says, the blob is whole
// after a restart, though one of its two copies was given back.
func TestSeededTwins(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		r := openRing(t, fsys, small)
		l := &life{T: t, ring: r, data: map[digest.Digest][]byte{}}
		data := storetest.Bytes(s.Seed, 15000)
		d := digest.SHA256.Of(data)
		l.data[d] = data
		for _, name := range []string{"writer 1", "writer 2"} {
			s.Go(name, func() {
				if err := l.put(d); err != nil {
					t.Errorf("%s: Commit = %v", name, err)
				}
			})
		}
		s.Go("rotator", func() { l.own(2, func() { _ = r.rotate(0, false) }) })
		s.Run()
		closeRing(t, r)
		r = openRing(t, fsys, small)
		defer closeRing(t, r)
		if err := l.read(r, d); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}

// TestSeededAcknowledged: a result, a rotation, and a power cut at any instant. A result that was
// acknowledged before the cut is there after it.
func TestSeededAcknowledged(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		r := openRing(t, fsys, small)
		l := &life{T: t, ring: r}
		acknowledged, want := 0, 0
		var image *vfs.Mem
		s.Go("recorder", func() {
			for version := 1; version <= 2; version++ {
				if err := r.Put(context.Background(), [32]byte{1}, []byte{byte(version)}); err != nil {
					t.Errorf("Put = %v", err)
				}
				acknowledged = version
				sim.Point("acknowledged")
			}
		})
		s.Go("rotator", func() { l.own(2, func() { _ = r.rotate(0, false) }) })
		s.Go("cutter", func() {
			for range s.Rand.IntN(25) {
				sim.Point("wait")
			}
			image, want = fsys.PowerCut(), acknowledged
		})
		s.Run()
		closeRing(t, r)
		r = openRing(t, image, small)
		defer closeRing(t, r)
		if rec, err := r.Get(context.Background(), [32]byte{1}); want > 0 && (err != nil || int(rec.Value[0]) < want) {
			t.Errorf("after the power cut: %v, %v; version %d was acknowledged", rec.Value, err, want)
		}
	})
}
