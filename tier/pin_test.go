package tier_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/tier"
)

// pinner is a far store that can pin, and whose blobs may not be opened.
type pinner struct {
	*part
	t      *testing.T
	before func() // Pin looks
}

func (p *pinner) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	p.t.Errorf("%s was opened far", d)
	return p.part.Open(ctx, d)
}

func (p *pinner) Pin(ctx context.Context, ds digest.Set) (func(), error) {
	p.before()
	return blob.Pin(ctx, p.Store, ds)
}

// TestPin: some blobs are near and some are far, one comes near and goes far meanwhile, and all are held without being
// fetched. With one that is nowhere nothing is held.
func TestPin(t *testing.T) {
	near, far := &part{Store: model.New(0)}, &pinner{part: &part{Store: model.New(0)}, t: t, before: func() {}}
	s := tier.New(near, far, tier.Options{})
	ds := digest.SetOf(mustPut(t, near.Store, storetest.Bytes(1, 1000)), mustPut(t, far.Store, storetest.Bytes(2, 5000)), mustPut(t, far.Store, storetest.Bytes(3, 100)))
	moves := storetest.Bytes(4, 2000)
	ds.Add(digest.SHA256.Of(moves))
	gone := digest.SHA256.Of([]byte("gone"))
	var missing *blob.MissingError
	far.before = func() { mustPut(t, near.Store, moves) }
	if _, err := s.Pin(ctx, digest.SetOf(append(slices.Clone(ds.List()), gone)...)); !errors.As(err, &missing) || !slices.Equal(missing.Blobs, []digest.Digest{gone}) {
		t.Errorf("Pin = %v, want that %s is missing", err, gone)
	}
	if n := near.Pins() + far.Pins(); n > 0 {
		t.Errorf("%d pins are held for what is not whole", n)
	}
	near.Evict()
	mustPut(t, near.Store, storetest.Bytes(1, 1000))
	release, err := s.Pin(ctx, ds)
	if err != nil {
		t.Fatal(err)
	}
	near.Evict()
	far.Evict()
	for i, want := range []struct{ near, far bool }{{true, false}, {false, true}, {false, true}, {true, false}} {
		if d := ds.List()[i]; has(t, near.Store, d) != want.near || has(t, far.Store, d) != want.far {
			t.Errorf("blob %d: near %v, far %v, want %+v", i, has(t, near.Store, d), has(t, far.Store, d), want)
		}
	}
	release()
	if n := near.Pins() + far.Pins(); n > 0 {
		t.Errorf("%d pins are left", n)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := s.Stats().Fetched; n > 0 {
		t.Errorf("%d blobs were fetched", n)
	}
}
