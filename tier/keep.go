package tier

import (
	"context"
	"errors"
	"iter"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// Keep implements blob.Keeper. The far store keeps: what is only near climbs first, however writes are acknowledged.
// The near store may evict what is kept, as it may evict what the far one has.
func (s *Store) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	if err := s.climbAll(ctx, name, value, blobs); err != nil {
		return err
	}
	return s.far.Keep(ctx, name, value, blobs)
}

// KeepIf implements blob.Keeper.
func (s *Store) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	if err := s.climbAll(ctx, name, value, blobs); err != nil {
		return err
	}
	return s.far.KeepIf(ctx, name, was, value, blobs)
}

// climbAll waits until the far store has all that a root is to hold.
func (s *Store) climbAll(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	if _, _, err := blob.NewRoot(name, value, blobs); err != nil {
		return err // before anything climbs for it
	}
	lacking, err := s.far.Missing(ctx, blobs)
	if err != nil {
		return err
	}
	var missing digest.Set
	tries := map[digest.Digest]*try{}
	for _, d := range lacking.List() {
		t, err := s.climb(ctx, d, awhile)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			missing.Add(d)
		case err != nil:
			return err
		default:
			tries[d] = t
		}
	}
	if missing.Len() > 0 {
		return &blob.MissingError{Blobs: missing.List()}
	}
	for d, t := range tries {
		if err := s.await(ctx, d, t); err != nil {
			return err
		}
	}
	return nil
}

// Release implements blob.Keeper.
func (s *Store) Release(ctx context.Context, name string) error { return s.far.Release(ctx, name) }

// ReleaseIf implements blob.Keeper.
func (s *Store) ReleaseIf(ctx context.Context, was blob.Root) error { return s.far.ReleaseIf(ctx, was) }

// Kept implements blob.Keeper.
func (s *Store) Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error] {
	return s.far.Kept(ctx, prefix)
}
