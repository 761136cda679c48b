package redis

import (
	"context"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

var _ blob.Pinner = (*Store)(nil)

// Pin implements blob.Pinner. What others wrote is adopted first.
func (s *Store) Pin(ctx context.Context, ds digest.Set) (release func(), err error) {
	if _, err := s.Missing(ctx, ds); err != nil {
		return nil, err
	}
	return blob.Pin(ctx, s.Shared, ds)
}
