package tier

import (
	"context"
	"errors"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

var _ blob.Pinner = (*Store)(nil)

// Pin implements blob.Pinner. What is near is held there, and the rest far, where it stays.
func (s *Store) Pin(ctx context.Context, ds digest.Set) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	// nearly holds what is near, and returns the others.
	nearly := func(ds []digest.Digest) (others digest.Set) {
		for _, d := range ds {
			if r, err := s.near.Open(ctx, d); err == nil {
				held = append(held, func() { r.Close() })
			} else {
				others.Add(d)
			}
		}
		return others
	}
	rest := nearly(ds.List())
	for rest.Len() > 0 {
		far, err := s.far.Pin(ctx, rest)
		if err == nil {
			held = append(held, far)
			break
		}
		missing, ok := errors.AsType[*blob.MissingError](err)
		if !ok {
			release()
			return nil, err
		}
		// It may have been evicted far, after it came near.
		lacking := nearly(missing.Blobs)
		if lacking.Len() > 0 {
			release()
			return nil, &blob.MissingError{Blobs: lacking.List()}
		}
		came := digest.SetOf(missing.Blobs...)
		var left digest.Set
		for _, d := range rest.List() {
			if !came.Has(d) {
				left.Add(d)
			}
		}
		rest = left
	}
	return release, nil
}

// Pin implements blob.Pinner.
func (f farStore) Pin(ctx context.Context, ds digest.Set) (release func(), err error) {
	release, err = blob.Pin(ctx, f.Far, ds)
	return release, unavailable(ctx, err)
}
