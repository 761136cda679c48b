package segment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A rootTold is what is known of the root of a name: which version was acknowledged, which one tried
// last, and what each held. Version 0, and one that holds nothing, is a root that was released.
type rootTold struct {
	acknowledged, tried byte
	holds               map[byte][]digest.Digest
}

// next returns what is known when a version is going to be tried.
func (p rootTold) next(holds []digest.Digest) rootTold {
	p.tried++
	p.holds = maps.Clone(p.holds)
	if p.holds == nil {
		p.holds = map[byte][]digest.Digest{}
	}
	p.holds[p.tried] = holds
	return p
}

// check sees that there is a version that may be there, whole, and that the ring knows that it is kept.
func (p rootTold) check(r *Ring, name string) error {
	root, err := blob.KeptRoot(context.Background(), r, name)
	if errors.Is(err, blob.ErrNotFound) {
		for v := p.acknowledged; v <= p.tried; v++ {
			if len(p.holds[v]) == 0 {
				return nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("root %s: %w; version %d was acknowledged", name, err, p.acknowledged)
	}
	v := root.Value[0]
	if v < p.acknowledged || v > p.tried {
		return fmt.Errorf("root %s is version %d; %d was acknowledged, and %d the last tried", name, v, p.acknowledged, p.tried)
	}
	var errs []error
	for _, d := range p.holds[v] {
		if err := same(r, d); err != nil {
			errs = append(errs, fmt.Errorf("root %s version %d: %w", name, v, err))
		} else if _, first := r.ledger.Keep(keyOf(d), d.Size); first {
			errs = append(errs, fmt.Errorf("root %s version %d: %v is not kept", name, v, d))
			r.ledger.Unkeep(keyOf(d))
		} else {
			r.ledger.Unkeep(keyOf(d))
		}
	}
	return errors.Join(errs...)
}

// keep puts blobs and keeps them under name.
func (c *client) keep(name string, sizes ...int) {
	var ds digest.Set
	for _, n := range sizes {
		ds.Add(c.put(n))
	}
	v := c.tryingRoot(name, ds.List())
	err := c.ring.Keep(c.Context(), name, []byte{v}, ds)
	if missing := new(blob.MissingError); errors.As(err, &missing) && c.once.At() != "" || errors.As(err, &missing) && c.full {
		return // it could not be put
	}
	if c.ok("Keep", err) {
		c.acknowledgedRoot(name, v)
	}
}

func (c *client) release(name string) {
	v := c.tryingRoot(name, nil)
	if c.ok("Release", c.ring.Release(c.Context(), name)) {
		c.acknowledgedRoot(name, v)
	}
}

func (c *client) tryingRoot(name string, ds []digest.Digest) byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.told.roots[name].next(ds)
	c.told.roots[name] = p
	return p.tried
}

func (c *client) acknowledgedRoot(name string, v byte) {
	c.mu.Lock()
	p := c.told.roots[name]
	p.acknowledged = v
	c.told.roots[name] = p
	c.mu.Unlock()
	if err := c.again(func() error { return p.check(c.ring, name) }); err != nil {
		c.Errorf("right after Keep or Release: %v", err)
	}
}

// TestSeededRoots: roots are kept, replaced and released while everything goes that may, and the process
// is killed or the power cut at any moment. The next one finds for each name a root that it may find,
// whole, and holds it.
func TestSeededRoots(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		r := openRing(t, fsys, small)
		synctest.Wait()
		told := map[string]rootTold{}
		n := sizes[1+s.Rand.IntN(3)]
		change := func(name string, blobs ...int) {
			var ds digest.Set
			for _, i := range blobs {
				d, data := blobOf(n + i)
				if err := blob.Put(t.Context(), r, d, data); errors.Is(err, blob.ErrAborted) {
					return
				} else if err != nil {
					t.Errorf("Put = %v", err)
				}
				ds.Add(d)
			}
			p := told[name].next(ds.List())
			told[name] = p
			var err error
			if len(blobs) > 0 {
				err = r.Keep(t.Context(), name, []byte{p.tried}, ds)
			} else {
				err = r.Release(t.Context(), name)
			}
			if err != nil {
				t.Errorf("Keep or Release of %s = %v", name, err)
			}
			p.acknowledged = p.tried
			told[name] = p
		}
		change("a", 0, 1)
		change("b", 1, 2)
		time.Sleep(2 * small.Lease)
		s.Go("a", func() { change("a", 3); change("a") })
		s.Go("b", func() { change("b"); change("b", 4) })
		s.Go("evictor", func() {
			for range 3 {
				r.evictAll()
				time.Sleep(2 * small.Lease)
			}
		})
		wait, cut := s.Rand.IntN(60), s.Rand.IntN(2) == 0
		var left *vfs.Mem
		var then map[string]rootTold
		s.Go("killer", func() {
			for range wait {
				sim.Point("wait")
			}
			if left = fsys.Clone(); cut {
				left = fsys.PowerCut()
			}
			then = maps.Clone(told)
		})
		s.Run()
		closeRing(t, r)
		left.SetBefore(nil)
		r = openRing(t, left, small)
		for _, what := range []string{"at once", "after leases"} {
			r.evictAll()
			for _, name := range slices.Sorted(maps.Keys(then)) {
				if err := then[name].check(r, name); err != nil {
					t.Errorf("after a kill (power cut: %v), %s: %v", cut, what, err)
				}
			}
			time.Sleep(2 * small.Lease)
		}
		closeRing(t, r)
	})
}

// TestRaceRelease: a root is released while everything goes that may, and the process is killed. What the
// root held goes when no start can find the root any more, and not earlier.
func TestRaceRelease(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		r := openRing(t, fsys, small)
		synctest.Wait()
		d, data := blobOf(sizes[1+s.Rand.IntN(3)])
		if err := blob.Put(t.Context(), r, d, data); err != nil {
			t.Fatal(err)
		}
		if err := r.Keep(t.Context(), "root", nil, digest.SetOf(d)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * small.Lease)
		var left *vfs.Mem
		s.Go("releaser", func() {
			if err := r.Release(t.Context(), "root"); err != nil {
				t.Errorf("Release = %v", err)
			}
		})
		s.Go("evictor and killer", func() {
			r.evictAll()
			left = fsys.Clone()
		})
		s.Run()
		closeRing(t, r)
		left.SetBefore(nil)
		r = openRing(t, left, small)
		if _, err := blob.KeptRoot(t.Context(), r, "root"); err == nil {
			if err := same(r, d); err != nil {
				t.Errorf("after a kill the root is there, and has a hole: %v", err)
			}
		}
		closeRing(t, r)
	})
}

// TestRestartMarks: a root is marked before anything may go, in every schedule of start-up.
func TestRestartMarks(t *testing.T) {
	explore.Run(t, 200, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		r := openRing(t, fsys, small)
		d, data := blobOf(sizes[1+s.Rand.IntN(3)])
		if err := blob.Put(t.Context(), r, d, data); err != nil {
			t.Fatal(err)
		}
		if err := r.Keep(t.Context(), "root", nil, digest.SetOf(d)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * small.Lease)
		closeRing(t, r)
		s.Go("start-up", func() {
			r = openRing(t, fsys, small)
			r.evictAll()
		})
		s.Run()
		if err := same(r, d); err != nil {
			t.Errorf("a root did not hold over a restart: %v", err)
		}
		closeRing(t, r)
	})
}

// TestKeptGoesRound: kept blobs, big and small, stay while the ring turns round many times.
func TestKeptGoesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		var ds digest.Set
		for _, n := range []int{300, 3000, 15000, 40000, 100000} {
			d, data := blobOf(n)
			if err := blob.Put(t.Context(), r, d, data); err != nil {
				t.Fatal(err)
			}
			ds.Add(d)
		}
		if err := r.Keep(t.Context(), "root", nil, ds); err != nil {
			t.Fatal(err)
		}
		for i := uint64(10); r.Stats().EvictedSegments < 100; i++ {
			if i%20 == 0 {
				time.Sleep(2 * small.Lease)
			}
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		for _, d := range ds.List() {
			if err := same(r, d); err != nil {
				t.Error(err)
			}
		}
		if s := r.Stats(); s.KeptBytes < 158300 || s.KeptBytes > 158300+1000 || s.Roots != 1 {
			t.Errorf("Stats = %+v, want one root that keeps 158300 bytes and itself", s)
		}
		if err := r.leaks(fsys); err != nil {
			t.Error(err)
		}
		closeRing(t, r)
	})
}

// TestHalfIsKept: what is kept takes half of the ring at most. Uploads go on beside it, and whoever has
// let go may keep again.
func TestHalfIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		var err error
		kept := 0
		for i := uint64(1); err == nil; i++ {
			d := mustPut(t, r, storetest.Bytes(i, 10000))
			if err = r.Keep(t.Context(), fmt.Sprint(i), nil, digest.SetOf(d)); err == nil {
				kept++
			}
			time.Sleep(small.Lease / 4)
		}
		if !errors.Is(err, blob.ErrFull) {
			t.Fatalf("Keep of more than half = %v, want ErrFull", err)
		}
		if got := r.Stats().KeptBytes; got > small.MaxSize/2 || got < small.MaxSize/2-30000 {
			t.Errorf("%d bytes are kept of %d", got, small.MaxSize)
		}
		for i := uint64(1000); i < 1200; i++ {
			time.Sleep(small.Lease / 8)
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		if err := r.Release(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		d := mustPut(t, r, storetest.Bytes(5000, 9000))
		if err := r.Keep(t.Context(), "more", nil, digest.SetOf(d)); err != nil {
			t.Errorf("Keep after a Release = %v", err)
		}
		closeRing(t, r)
	})
}

// TestReleaseWhenFull: a ring in which nothing can go any more still lets go of a root.
func TestReleaseWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		d := mustPut(t, r, storetest.Bytes(1, 10000))
		if err := r.Keep(t.Context(), "root", nil, digest.SetOf(d)); err != nil {
			t.Fatal(err)
		}
		var err error
		for i := uint64(10); err == nil; i++ {
			data := storetest.Bytes(i, 200)
			err = blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
		}
		if !errors.Is(err, blob.ErrFull) {
			t.Fatalf("Put = %v, want ErrFull", err)
		}
		if err := r.Release(t.Context(), "root"); err != nil {
			t.Errorf("Release = %v", err)
		}
		closeRing(t, r)
	})
}

// TestDamagedKeptBlob: what a root holds and was found damaged is held again when it is uploaded again.
func TestDamagedKeptBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		data := storetest.Bytes(1, 3000)
		d := mustPut(t, r, data)
		if err := r.Keep(t.Context(), "root", nil, digest.SetOf(d)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.active.file.WriteAt([]byte{^data[7]}, firstSize+headerSize+7); err != nil {
			t.Fatal(err)
		}
		if err := same(r, d); !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("read of damaged bytes = %v", err)
		}
		for _, restart := range []bool{false, true} {
			if restart {
				closeRing(t, r)
				r = openRing(t, fsys, small)
			}
			mustPut(t, r, data)
			time.Sleep(2 * small.Lease)
			r.evictAll()
			checkBlob(t, r, d, data)
		}
		if err := r.Release(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * small.Lease)
		r.evictAll()
		if _, err := r.Open(t.Context(), d); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open of what was released = %v, want ErrNotFound", err)
		}
		closeRing(t, r)
	})
}

// TestReleaseAfterFailedKeep: a root that was written and refused, and is then released, is not there after a restart.
func TestReleaseAfterFailedKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		d := mustPut(t, r, storetest.Bytes(1, 10000))
		mustPut(t, r, storetest.Bytes(2, 300))
		if err := r.sync(); err != nil { // so that the next one is that of the root
			t.Fatal(err)
		}
		bad := r.active
		fsys.SetFault(func(op, name string) error {
			if op == "sync" {
				bad.bad.Store(true) // somebody else's sync failed just now; this one does not
			}
			return nil
		})
		if err := r.Keep(t.Context(), "root", nil, digest.SetOf(d)); err == nil {
			t.Fatal("Keep on a disk that fails = nil")
		}
		fsys.SetFault(nil)
		var err error
		for range 10 {
			time.Sleep(lookAgain) // until what is there lies elsewhere
			r.wakeCleaner()
			synctest.Wait()
			if err = r.Release(t.Context(), "root"); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("Release = %v", err)
		}
		left := fsys.Clone()
		closeRing(t, r)
		r = openRing(t, left, small)
		if _, err := blob.KeptRoot(t.Context(), r, "root"); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("KeptRoot of what was released, after a kill = %v, want ErrNotFound", err)
		}
		closeRing(t, r)
	})
}

// TestKeepAgain: a root that holds what it held before writes its own record anew, and not the list.
func TestKeepAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		var ds digest.Set
		for i := range uint64(300) {
			ds.Add(mustPut(t, r, storetest.Bytes(i, 20)))
		}
		written := func(value string) int64 {
			before := r.active.end
			if err := r.Keep(t.Context(), "root", []byte(value), ds); err != nil {
				t.Fatal(err)
			}
			return r.active.end - before
		}
		if first, again := written("one"), written("two"); first < 300*41 || again > 1000 {
			t.Errorf("Keep wrote %d bytes, and then %d; want the list of %d only once", first, again, 300*41)
		}
		closeRing(t, r)
	})
}

var rootNames = []string{"a", "b", "b/1"}

// keep keeps some blobs, and compares what is missing with what the model allows.
func (m *machine) keep(t *rapid.T) {
	name := rapid.SampledFrom(rootNames).Draw(t, "name")
	var ds digest.Set
	for _, s := range rapid.SliceOfN(aSample, 1, 4).Draw(t, "blobs") {
		ds.Add(s.d)
	}
	m.version++
	value := fmt.Appendf(nil, "version %d of %s", m.version, name)
	err := m.ring.Keep(t.Context(), name, value, ds)
	m.used = time.Now()
	missing := new(blob.MissingError)
	if err != nil && !errors.As(err, &missing) {
		if !errors.Is(err, blob.ErrFull) {
			t.Fatalf("Keep = %v", err)
		}
		return
	}
	for _, d := range ds.List() {
		m.settle(t, "Keep", d, !slices.Contains(missing.Blobs, d))
	}
	if other := m.model.Keep(t.Context(), name, value, ds); (err == nil) != (other == nil) {
		t.Fatalf("Keep = %v, want %v", err, other)
	}
	m.lookRoot(t, name)
}

func (m *machine) release(t *rapid.T) {
	name := rapid.SampledFrom(rootNames).Draw(t, "name")
	if err := m.ring.Release(t.Context(), name); m.full(t, err) {
		return
	} else if err != nil {
		t.Fatalf("Release = %v", err)
	}
	_ = m.model.Release(t.Context(), name) // never fails
	m.lookRoot(t, name)
}

// lookRoot compares what is kept under a name with the model.
func (m *machine) lookRoot(t *rapid.T, name string) {
	got, err := blob.KeptRoot(t.Context(), m.ring, name)
	want, wantErr := blob.KeptRoot(t.Context(), m.model, name)
	if errors.Is(err, blob.ErrNotFound) != errors.Is(wantErr, blob.ErrNotFound) || string(got.Value) != string(want.Value) || !slices.Equal(got.Few, want.Few) {
		t.Fatalf("root %s = %+v, %v, want %+v, %v", name, got, err, want, wantErr)
	}
}
