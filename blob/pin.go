package blob

import (
	"context"
	"errors"

	"github.com/sarsen-build/sarsen/digest"
)

// A Pinner is a Store that holds blobs in place without opening them: to open one may be to fetch it.
type Pinner interface {
	// Pin holds all of ds, as an open Reader of each would, until release is called, which the caller must. If some are
	// missing it holds none and returns a *MissingError that names all of these.
	Pin(ctx context.Context, ds digest.Set) (release func(), err error)
}

// Pin pins ds in any Store, in one that is no Pinner by opening them.
func Pin(ctx context.Context, s Store, ds digest.Set) (release func(), err error) {
	if p, ok := s.(Pinner); ok {
		return p.Pin(ctx, ds)
	}
	open := make([]Reader, 0, ds.Len())
	release = func() {
		for _, r := range open {
			r.Close()
		}
	}
	for _, d := range ds.List() {
		r, err := s.Open(ctx, d)
		for errors.Is(err, ErrNotFound) {
			var missing digest.Set
			if missing, err = s.Missing(ctx, ds); err == nil && missing.Len() > 0 {
				err = &MissingError{Blobs: missing.List()}
				break
			}
			if err == nil {
				r, err = s.Open(ctx, d) // it came in between
			}
		}
		if err != nil {
			release()
			return nil, err
		}
		open = append(open, r)
	}
	return release, nil
}
