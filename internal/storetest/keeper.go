package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// Keeper runs the contract of blob.Keeper on stores that open makes, each of which is one.
func Keeper(t *testing.T, open func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Fixture, blob.Keeper)
	}{
		{"Keeps", keeps},
		{"Replaces", replaces},
		{"Conditions", conditions},
		{"KeepsNoHole", keepsNoHole},
		{"SharedBlobs", sharedBlobs},
		{"ManyBlobs", manyBlobs},
		{"Names", names},
		{"BadRoots", badRoots},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t)
			defer f.Close()
			test.run(t, f, f.Store.(blob.Keeper))
			if err := f.Leaks(); err != nil {
				t.Errorf("after the test: %v", err)
			}
		})
	}
}

// SeededKeeper runs the races of Keep and Release with eviction under many seeds.
func SeededKeeper(t *testing.T, open func(t *testing.T) Fixture) {
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *explore.Schedule, Fixture, blob.Keeper)
	}{
		{"KeepOrMissing", keepOrMissing},
		{"ReplaceWhole", replaceWhole},
		{"KeepAndRelease", keepAndRelease},
		{"AddAdd", addAdd},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			explore.Run(t, schedules, func(t *testing.T, s *explore.Schedule) {
				f := open(t)
				defer f.Close()
				scenario.run(t, s, f, f.Store.(blob.Keeper))
				if err := f.Leaks(); err != nil {
					t.Errorf("at rest: %v", err)
				}
			})
		})
	}
}

// putAll stores n blobs of a size and a little more each, and returns their digests and bytes.
func putAll(t *testing.T, s blob.Store, seed uint64, n, size int) (ds digest.Set, data [][]byte) {
	t.Helper()
	for i := range n {
		b := Bytes(seed+uint64(i)<<8, size+i)
		d := digest.SHA256.Of(b)
		if err := blob.Put(ctx, s, d, b); err != nil {
			t.Fatal(err)
		}
		ds.Add(d)
		data = append(data, b)
	}
	return ds, data
}

// stands says whether all blobs of a set are readable. It leases nothing.
func stands(s blob.Store, ds digest.Set, data [][]byte) error {
	for i, d := range ds.List() {
		if err := check(s, d, data[i]); err != nil {
			return fmt.Errorf("blob %d: %w", i, err)
		}
	}
	return nil
}

// gone says whether a blob is absent, without leasing it.
func gone(s blob.Store, d digest.Digest) bool {
	r, err := s.Open(ctx, d)
	if err == nil {
		r.Close()
	}
	return errors.Is(err, blob.ErrNotFound)
}

func mustKeep(t *testing.T, k blob.Keeper, name string, ds digest.Set) {
	t.Helper()
	if err := k.Keep(ctx, name, []byte("value of "+name), ds); err != nil {
		t.Fatalf("Keep = %v", err)
	}
}

func mustRelease(t *testing.T, k blob.Keeper, name string) {
	t.Helper()
	if err := k.Release(ctx, name); err != nil {
		t.Fatalf("Release = %v", err)
	}
}

// pass lets every lease end, and evicts what may go.
func pass(f Fixture) {
	time.Sleep(2 * f.Lease)
	f.Evict()
}

func keeps(t *testing.T, f Fixture, k blob.Keeper) {
	for i, n := range f.Sizes {
		name := fmt.Sprintf("root/%d", i)
		ds, data := putAll(t, f.Store, uint64(i), 2, n)
		mustKeep(t, k, name, digest.SetOf(append(ds.List(), digest.SHA256.Empty())...))
		f.Evict()
		if err := stands(f.Store, ds, data); err != nil {
			t.Errorf("kept blobs of %d bytes: %v", n, err)
		}
		r, err := blob.KeptRoot(ctx, k, name)
		if err != nil || string(r.Value) != "value of "+name || r.Count != 2 || r.Bytes != int64(2*n+1) {
			t.Errorf("KeptRoot = %+v, %v", r, err)
		}
		got, err := r.Blobs(ctx, f.Store)
		if err != nil || got.Len() != 2 || !got.Has(ds.List()[0]) || !got.Has(ds.List()[1]) {
			t.Errorf("Blobs = %v, %v, want those that were given", got.List(), err)
		}
		mustRelease(t, k, name)
		mustRelease(t, k, name) // what holds nothing is no error
		if _, err := blob.KeptRoot(ctx, k, name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("KeptRoot of what was released = %v, want ErrNotFound", err)
		}
	}
}

func replaces(t *testing.T, f Fixture, k blob.Keeper) {
	a, _ := putAll(t, f.Store, 1, 2, f.Sizes[0])
	b, _ := putAll(t, f.Store, 9, 1, f.Sizes[0]+1)
	mustKeep(t, k, "root", a)
	mustKeep(t, k, "root", b)
	var got []blob.Root
	for r, err := range k.Kept(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if len(got) != 1 || got[0].Count != 1 || got[0].Bytes != b.List()[0].Size {
		t.Errorf("Kept after a second Keep = %+v, want the second root only", got)
	}
}

func keepsNoHole(t *testing.T, f Fixture, k blob.Keeper) {
	a, data := putAll(t, f.Store, 1, 1, f.Sizes[0])
	mustKeep(t, k, "root", a)
	b, _ := putAll(t, f.Store, 9, 1, f.Sizes[0]+1)
	x, y := digest.SHA256.Of([]byte("x")), digest.SHA256.Of([]byte("y"))
	b.Add(x)
	b.Add(y)
	var missing *blob.MissingError
	if err := k.Keep(ctx, "root", nil, b); !errors.As(err, &missing) || !slices.Equal(missing.Blobs, []digest.Digest{x, y}) {
		t.Errorf("Keep of absent blobs = %v, want a MissingError of both", err)
	}
	if r, err := blob.KeptRoot(ctx, k, "root"); err != nil || string(r.Value) != "value of root" {
		t.Errorf("after a Keep that failed: %+v, %v, want the root that was there", r, err)
	}
	if err := stands(f.Store, a, data); err != nil {
		t.Error(err)
	}
}

// sharedBlobs: a blob stays until the last root that holds it goes.
func sharedBlobs(t *testing.T, f Fixture, k blob.Keeper) {
	a, data := putAll(t, f.Store, 1, 1, f.Sizes[0])
	mustKeep(t, k, "one", a)
	mustKeep(t, k, "two", a)
	mustKeep(t, k, "two", a)
	mustRelease(t, k, "two")
	f.Evict()
	if err := stands(f.Store, a, data); err != nil {
		t.Errorf("held by one of two roots: %v", err)
	}
	mustRelease(t, k, "one")
}

// manyBlobs: more than fit in the root itself.
func manyBlobs(t *testing.T, f Fixture, k blob.Keeper) {
	ds, data := putAll(t, f.Store, 1, 300, 10)
	mustKeep(t, k, "root", ds)
	f.Evict()
	if err := stands(f.Store, ds, data); err != nil {
		t.Error(err)
	}
	r, err := blob.KeptRoot(ctx, k, "root")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Blobs(ctx, f.Store); err != nil || got.Len() != 300 || r.Count != 300 || r.Bytes != r.Count*10+300*299/2 {
		t.Errorf("Blobs = %d, %v of %+v, want 300", got.Len(), err, r)
	}
	mustRelease(t, k, "root")
}

func names(t *testing.T, f Fixture, k blob.Keeper) {
	ds, _ := putAll(t, f.Store, 1, 1, f.Sizes[0])
	for _, name := range []string{"b/2", "a/1", "b/1", "b", "c", "b/10"} {
		mustKeep(t, k, name, ds)
	}
	for prefix, want := range map[string][]string{
		"":    {"a/1", "b", "b/1", "b/10", "b/2", "c"},
		"b/":  {"b/1", "b/10", "b/2"},
		"b/1": {"b/1", "b/10"},
		"d":   nil,
	} {
		var got []string
		for r, err := range k.Kept(ctx, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("Kept(%q) = %q, want %q", prefix, got, want)
		}
	}
	if _, err := blob.KeptRoot(ctx, k, "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("KeptRoot of a prefix = %v, want ErrNotFound", err)
	}
}

func badRoots(t *testing.T, f Fixture, k blob.Keeper) {
	ds, _ := putAll(t, f.Store, 1, 1, f.Sizes[0])
	any := ds.List()[0]
	any.Size = digest.AnySize
	for _, test := range []struct {
		name  string
		value []byte
		blobs digest.Set
		want  error
	}{
		{"", nil, ds, blob.ErrInvalid},
		{string(bytes.Repeat([]byte("n"), blob.MaxRootName+1)), nil, ds, blob.ErrInvalid},
		{"root", make([]byte, blob.MaxRootValue+1), ds, blob.ErrTooLarge},
		{"root", nil, digest.SetOf(any), blob.ErrInvalid},
		{"root", nil, digest.SetOf(digest.Digest{Function: 77, Size: 1}), blob.ErrInvalid},
	} {
		if err := k.Keep(ctx, test.name, test.value, test.blobs); !errors.Is(err, test.want) {
			t.Errorf("Keep of a bad root = %v, want %v", err, test.want)
		}
	}
}

// keepOrMissing: blobs whose leases are over are kept while all that may go goes. Either all stay, or the
// answer names what has gone.
func keepOrMissing(t *testing.T, s *explore.Schedule, f Fixture, k blob.Keeper) {
	ds, data := putAll(t, f.Store, s.Seed, 3, f.Sizes[s.Rand.IntN(len(f.Sizes))])
	time.Sleep(2 * f.Lease)
	s.Go("keeper", func() {
		var missing *blob.MissingError
		err := k.Keep(ctx, "root", nil, ds)
		if errors.As(err, &missing) {
			for _, d := range missing.Blobs {
				if !gone(f.Store, d) {
					t.Errorf("Keep calls %v missing, which is there", d)
				}
			}
			return
		}
		if err != nil {
			t.Errorf("Keep = %v", err)
			return
		}
		time.Sleep(2 * f.Lease)
		sim.Point("kept")
		if err := stands(f.Store, ds, data); err != nil {
			t.Errorf("Keep returned nil: %v", err)
		}
	})
	s.Go("evictor", func() {
		f.Evict()
		time.Sleep(3 * f.Lease)
		f.Evict()
	})
	s.Run()
	if _, err := blob.KeptRoot(ctx, k, "root"); err == nil {
		pass(f)
		if err := stands(f.Store, ds, data); err != nil {
			t.Errorf("at rest: %v", err)
		}
	}
}

// replaceWhole: one root is replaced by another while all that may go goes. Whichever root there is, it is whole.
func replaceWhole(t *testing.T, s *explore.Schedule, f Fixture, k blob.Keeper) {
	size := f.Sizes[s.Rand.IntN(len(f.Sizes))]
	a, dataA := putAll(t, f.Store, s.Seed, 2, size)
	b, dataB := putAll(t, f.Store, s.Seed+1<<20, 2, size+10)
	mustKeep(t, k, "root", a)
	mustKeep(t, k, "other", b)
	time.Sleep(2 * f.Lease)
	s.Go("keeper", func() {
		if err := k.Keep(ctx, "root", []byte("b"), b); err != nil {
			t.Errorf("Keep = %v", err)
		}
		mustRelease(t, k, "other")
	})
	s.Go("evictor", func() {
		f.Evict()
		f.Evict()
	})
	s.Go("reader", func() {
		r, err := blob.KeptRoot(ctx, k, "root")
		if err != nil {
			t.Errorf("KeptRoot = %v", err)
		} else if string(r.Value) == "b" {
			err = stands(f.Store, b, dataB)
		}
		if err != nil {
			t.Errorf("the new root has a hole: %v", err)
		}
	})
	s.Run()
	pass(f)
	if err := stands(f.Store, b, dataB); err != nil {
		t.Errorf("at rest: %v", err)
	}
	if err := stands(f.Store, a, dataA); err == nil {
		t.Error("what was replaced is still held")
	}
}

// keepAndRelease: a name is kept, kept again and released at once. What it holds at rest stands, and
// what it does not hold goes.
func keepAndRelease(t *testing.T, s *explore.Schedule, f Fixture, k blob.Keeper) {
	size := f.Sizes[s.Rand.IntN(len(f.Sizes))]
	a, dataA := putAll(t, f.Store, s.Seed, 1, size)
	b, dataB := putAll(t, f.Store, s.Seed+1<<20, 1, size+10)
	for name, ds := range map[string]digest.Set{"a": a, "b": b} {
		s.Go("keep "+name, func() {
			if err := k.Keep(ctx, "root", []byte(name), ds); err != nil {
				t.Errorf("Keep = %v", err)
			}
		})
	}
	s.Go("release", func() { mustRelease(t, k, "root") })
	s.Go("evictor", f.Evict)
	s.Run()
	pass(f)
	want := ""
	if r, err := blob.KeptRoot(ctx, k, "root"); err == nil {
		want = string(r.Value)
	}
	for name, err := range map[string]error{"a": stands(f.Store, a, dataA), "b": stands(f.Store, b, dataB)} {
		if held := err == nil; held != (name == want) {
			t.Errorf("the root is %q, and %q is held: %v (%v)", want, name, held, err)
		}
	}
}

// conditions: what a root is to be for a change is compared, and when it is something else nothing changes.
func conditions(t *testing.T, f Fixture, k blob.Keeper) {
	a, _ := putAll(t, f.Store, 1, 1, 100)
	b, dataB := putAll(t, f.Store, 2, 1, 100)
	keepIf := func(was *blob.Root, value string, ds digest.Set, want error) {
		t.Helper()
		if err := k.KeepIf(ctx, "root", was, []byte(value), ds); !errors.Is(err, want) {
			t.Fatalf("KeepIf = %v, want %v", err, want)
		}
	}
	holds := func(want string) *blob.Root {
		t.Helper()
		r, err := blob.KeptRoot(ctx, k, "root")
		if err != nil || string(r.Value) != want {
			t.Fatalf("KeptRoot = %q, %v, want %q", r.Value, err, want)
		}
		return &r
	}
	keepIf(&blob.Root{Name: "root"}, "x", a, blob.ErrChanged) // nothing is no root that holds nothing
	keepIf(nil, "first", a, nil)
	first := holds("first")
	keepIf(nil, "x", b, blob.ErrChanged)
	keepIf(first, "second", b, nil)
	keepIf(first, "x", a, blob.ErrChanged)
	second := holds("second")
	if err := k.ReleaseIf(ctx, *first); !errors.Is(err, blob.ErrChanged) {
		t.Fatalf("ReleaseIf of what it is no more = %v", err)
	}
	f.Evict()
	if err := stands(f.Store, b, dataB); err != nil {
		t.Errorf("what the root keeps: %v", err)
	}
	if err := k.ReleaseIf(ctx, *second); err != nil {
		t.Fatalf("ReleaseIf = %v", err)
	}
	keepIf(second, "x", b, blob.ErrChanged)
	if err := k.ReleaseIf(ctx, *second); !errors.Is(err, blob.ErrChanged) {
		t.Fatalf("ReleaseIf of what was released = %v", err)
	}
	keepIf(nil, "third", b, nil)
	holds("third")
	f.Evict()
	if err := stands(f.Store, b, dataB); err != nil {
		t.Errorf("what the root keeps again: %v", err)
	}
}

// addAdd has three add a blob each to one root, after reading what it keeps.
func addAdd(t *testing.T, s *explore.Schedule, f Fixture, k blob.Keeper) {
	var all digest.Set
	for i := range 3 {
		ds, _ := putAll(t, f.Store, uint64(i), 1, 100)
		d := ds.List()[0]
		all.Add(d)
		s.Go(fmt.Sprint("add ", i), func() {
			if err := blob.WhileChanged(ctx, func() error { return add(k, "root", d) }); err != nil {
				t.Errorf("add = %v", err)
			}
		})
	}
	s.Run()
	r, err := blob.KeptRoot(ctx, k, "root")
	if err != nil || r.Count != int64(all.Len()) {
		t.Errorf("lost update: three added a blob each, and the root keeps %d, %v", r.Count, err)
	}
	mustRelease(t, k, "root")
}

// add adds a blob to what a root keeps, if nobody changes it meanwhile.
func add(k blob.Keeper, name string, d digest.Digest) error {
	r, err := blob.KeptRoot(ctx, k, name)
	was := &r
	if errors.Is(err, blob.ErrNotFound) {
		was = nil
	} else if err != nil {
		return err
	}
	sim.Point("read a root")
	return k.KeepIf(ctx, name, was, nil, digest.SetOf(append(r.Few, d)...))
}
