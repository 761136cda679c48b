// Package storetest is the conformance suite of blob.Store: what every store and every composition of
// stores passes.
//
// Run checks the contract call by call. Seeded checks the invariants FirstWins, OpenHolds, NoFalseYes,
// YesStands and Immutable under the seeded scheduler of internal/sim/explore.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Fixture is a fresh, empty store under test.
type Fixture struct {
	Store blob.Store
	Lease time.Duration // how long its yes holds
	Sizes []int         // of blobs that take different ways through it, in bytes
	// Wire says that the store is behind a protocol that names no blob without its size, and that says
	// at Commit what a store of our own says at Create.
	Wire bool
	// Evict removes everything that may be removed at this moment.
	Evict func()
	// Leaks returns what should not be there when nothing is open: pins held, copies of one blob.
	Leaks func() error
	Close func()
}

// Bytes returns n bytes that only this seed gives.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// Run runs the contract on stores that open makes.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Fixture)
	}{
		{"PutAndOpen", putAndOpen},
		{"Absent", absent},
		{"EmptyBlob", emptyBlob},
		{"WrongBytes", wrongBytes},
		{"WrongSize", wrongSize},
		{"AnySize", anySize},
		{"Abandoned", abandoned},
		{"Batches", batches},
		{"Functions", functions},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t)
			defer f.Close()
			test.run(t, f)
			if err := f.Leaks(); err != nil {
				t.Errorf("after the test: %v", err)
			}
		})
	}
}

var ctx = context.Background()

func putAndOpen(t *testing.T, f Fixture) {
	for i, n := range f.Sizes {
		data := Bytes(uint64(i), n)
		d := digest.SHA256.Of(data)
		for range 2 { // the second finds it there
			if err := blob.Put(ctx, f.Store, d, data); err != nil {
				t.Fatalf("Put of %d bytes = %v", n, err)
			}
		}
		if !present(t, f.Store, d) {
			t.Errorf("Missing lists %d bytes that were put", n)
		}
		r, err := f.Store.Open(ctx, d)
		if err != nil {
			t.Fatalf("Open of %d bytes = %v", n, err)
		}
		if got := r.Size(); got != int64(n) {
			t.Errorf("Size = %d, want %d", got, n)
		}
		if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), data); err != nil {
			t.Errorf("reading %d bytes: %v", n, err)
		}
		if n, err := r.ReadAt(make([]byte, 2), r.Size()-1); n != 1 || err != io.EOF {
			t.Errorf("ReadAt of two bytes at the last = %d, %v, want 1, EOF", n, err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Errorf("Close twice = %v", err)
		}
	}
}

func present(t *testing.T, s blob.Store, d digest.Digest) bool {
	t.Helper()
	missing, err := s.Missing(ctx, digest.SetOf(d))
	if err != nil {
		t.Fatalf("Missing = %v", err)
	}
	return missing.Len() == 0
}

func absent(t *testing.T, f Fixture) {
	here := Bytes(1, f.Sizes[0])
	if err := blob.Put(ctx, f.Store, digest.SHA256.Of(here), here); err != nil {
		t.Fatal(err)
	}
	a, b := digest.SHA256.Of([]byte("a")), digest.SHA256.Of([]byte("b"))
	missing, err := f.Store.Missing(ctx, digest.SetOf(b, digest.SHA256.Of(here), a, b))
	if got := missing.List(); err != nil || len(got) != 2 || got[0] != b || got[1] != a {
		t.Errorf("Missing = %v, %v, want [%v %v]", got, err, b, a)
	}
	if _, err := f.Store.Open(ctx, a); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open of an absent blob = %v, want ErrNotFound", err)
	}
}

func emptyBlob(t *testing.T, f Fixture) {
	for _, function := range digest.Functions {
		d := function.Empty()
		if !present(t, f.Store, d) {
			t.Errorf("%v: the empty blob is missing", function)
		}
		if data, err := blob.Get(ctx, f.Store, d); err != nil || len(data) != 0 {
			t.Errorf("%v: Get of the empty blob = %q, %v", function, data, err)
		}
		if err := blob.Put(ctx, f.Store, d, nil); err != nil {
			t.Errorf("%v: Put of the empty blob = %v", function, err)
		}
	}
}

func wrongBytes(t *testing.T, f Fixture) {
	for i, n := range f.Sizes {
		d := digest.SHA256.Of(Bytes(uint64(i), n))
		if err := blob.Put(ctx, f.Store, d, lie(Bytes(uint64(i), n))); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("Put of %d wrong bytes = %v, want ErrMismatch", n, err)
		}
		if present(t, f.Store, d) {
			t.Errorf("%d wrong bytes are present", n)
		}
	}
}

func wrongSize(t *testing.T, f Fixture) {
	for i, n := range f.Sizes {
		data := Bytes(uint64(i), n)
		d := digest.SHA256.Of(data)
		for _, size := range []int64{d.Size - 1, d.Size + 1} {
			claimed := d
			claimed.Size = size
			if err := blob.Put(ctx, f.Store, claimed, data); !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("Put of %d bytes as %d = %v, want ErrMismatch", n, size, err)
			}
		}
		if err := blob.Put(ctx, f.Store, d, data); err != nil {
			t.Fatal(err)
		}
		d.Size++
		if present(t, f.Store, d) {
			t.Errorf("%d bytes are present with another size", n)
		}
		if _, err := f.Store.Open(ctx, d); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open with another size = %v, want ErrNotFound", err)
		}
		if f.Wire {
			if err := blob.Put(ctx, f.Store, d, make([]byte, d.Size)); !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("Put with another size = %v, want ErrMismatch", err)
			}
		} else if w, err := f.Store.Create(ctx, d); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("Create with another size = %v, want ErrMismatch", err)
			w.Close()
		}
	}
}

func anySize(t *testing.T, f Fixture) {
	data := Bytes(7, f.Sizes[0])
	d := digest.SHA256.Of(data)
	if err := blob.Put(ctx, f.Store, d, data); err != nil {
		t.Fatal(err)
	}
	d.Size = digest.AnySize
	if f.Wire {
		if _, err := f.Store.Open(ctx, d); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("Open with any size = %v, want ErrInvalid", err)
		}
		return
	}
	if got, err := blob.Get(ctx, f.Store, d); err != nil || !bytes.Equal(got, data) {
		t.Errorf("Get with any size = %d bytes, %v", len(got), err)
	}
	if !present(t, f.Store, d) {
		t.Error("Missing lists a blob that was asked for with any size")
	}
	if _, err := f.Store.Create(ctx, d); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("Create with any size = %v, want ErrInvalid", err)
	}
}

func abandoned(t *testing.T, f Fixture) {
	for i, n := range f.Sizes {
		data := Bytes(uint64(i), n)
		d := digest.SHA256.Of(data)
		w, err := f.Store.Create(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if present(t, f.Store, d) {
			t.Errorf("%d abandoned bytes are present", n)
		}
		if err := w.Commit(); err == nil {
			t.Error("Commit after Close = nil")
		}
	}
}

func batches(t *testing.T, f Fixture) {
	b := blob.Batches(f.Store)
	for i, n := range f.Sizes {
		good := Bytes(uint64(i), n)
		bad := lie(good)
		g, wrong := digest.SHA256.Of(good), digest.SHA256.Of(bad)
		e, none := digest.SHA256.Empty(), digest.SHA256.Of([]byte("none"))
		errs := b.PutAll(ctx, []digest.Digest{g, wrong, g, e}, [][]byte{good, good, good, nil})
		if errs[0] != nil || !errors.Is(errs[1], blob.ErrMismatch) || errs[2] != nil || errs[3] != nil {
			t.Errorf("PutAll of %d bytes = %v, want [nil ErrMismatch nil nil]", n, errs)
		}
		// The same digest twice, first with wrong bytes: each is judged by its own.
		errs = b.PutAll(ctx, []digest.Digest{wrong, wrong}, [][]byte{good, bad})
		if !errors.Is(errs[0], blob.ErrMismatch) || errs[1] != nil {
			t.Errorf("PutAll of %d bytes as one digest, wrong and right = %v", n, errs)
		}
		data, errs := b.GetAll(ctx, []digest.Digest{g, none, wrong, e})
		if !bytes.Equal(data[0], good) || !errors.Is(errs[1], blob.ErrNotFound) || !bytes.Equal(data[2], bad) || data[3] == nil || errs[3] != nil {
			t.Errorf("GetAll of %d bytes = %v", n, errs)
		}
	}
}

func functions(t *testing.T, f Fixture) {
	data := Bytes(3, f.Sizes[0])
	for _, function := range digest.Functions {
		d := function.Of(data)
		if present(t, f.Store, d) {
			t.Errorf("%v is there before it was put", d)
		}
		if err := blob.Put(ctx, f.Store, d, data); err != nil {
			t.Errorf("Put of %v = %v", d, err)
		}
		if got, err := blob.Get(ctx, f.Store, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("Get of %v = %d bytes, %v", d, len(got), err)
		}
	}
}
