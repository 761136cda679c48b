package tier_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/tier"
)

// TestAway: while the far store is away, what is near is given, a record that is not near is a miss, and of a blob nobody
// says that it is not there.
func TestAway(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, away{far}, tier.Options{Uploads: 1})
	data := []byte("only far")
	d := mustPut(t, far, data)
	if _, err := s.Open(ctx, d); !errors.Is(err, blob.ErrUnavailable) || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open: got %v, want that the store is unavailable", err)
	}
	if _, errs := s.GetAll(ctx, []digest.Digest{d}); !errors.Is(errs[0], blob.ErrUnavailable) {
		t.Errorf("GetAll: got %v, want that the store is unavailable", errs[0])
	}
	if _, err := s.Get(ctx, [32]byte{1}); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get: got %v, want a miss", err)
	}
	if err := s.Keep(ctx, "root", nil, digest.SetOf(d)); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("Keep: got %v, want that the store is unavailable", err)
	}
	other := digest.SHA256.Of([]byte("through"))
	if errs := s.PutAll(ctx, []digest.Digest{other}, [][]byte{[]byte("through")}); !errors.Is(errs[0], blob.ErrUnavailable) {
		t.Errorf("PutAll: got %v, want that the store is unavailable", errs[0])
	}
	// The near store has it and may say so: its yes is its own.
	if !has(t, s, other) || has(t, s, d) {
		t.Error("a yes was given for what is not near, or none for what is")
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// away is a store that can't be reached.
type away struct{ *part }

func (away) Missing(_ context.Context, ds digest.Set) (digest.Set, error) {
	return digest.Set{}, errAway
}
func (away) Open(context.Context, digest.Digest) (blob.Reader, error) { return nil, errAway }
func (away) Get(context.Context, [32]byte) (blob.Record, error)       { return blob.Record{}, errAway }
func (away) GetAll(_ context.Context, ds []digest.Digest) ([][]byte, []error) {
	return make([][]byte, len(ds)), slices.Repeat([]error{errAway}, len(ds))
}

// TestClimbAll: what a restart finds near climbs, though the queue takes only one at a time.
func TestClimbAll(t *testing.T) {
	near, far := newPart(), newPart()
	var ds []digest.Digest
	for _, text := range []string{"one", "two", "three"} {
		ds = append(ds, mustPut(t, near, []byte(text)))
	}
	gone := digest.SHA256.Of([]byte("evicted meanwhile"))
	if err := near.Put(ctx, [32]byte{7}, []byte("value")); err != nil {
		t.Fatal(err)
	}
	s := tier.New(near, far, tier.Options{WriteBack: true, Queue: 1, Uploads: 1})
	if err := s.ClimbAll(ctx, slices.Values(append(ds, gone)), slices.Values([][32]byte{{7}, {8}})); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for _, d := range ds {
		if !has(t, far, d) {
			t.Errorf("%v did not climb", d)
		}
	}
	if rec, err := far.Get(ctx, [32]byte{7}); err != nil || string(rec.Value) != "value" {
		t.Errorf("the record: got %q, %v", rec.Value, err)
	}
}
