package s3

import (
	"context"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

var _ blob.Pinner = (*Store)(nil)

// Pin implements blob.Pinner. Nothing is downloaded.
func (s *Store) Pin(ctx context.Context, ds digest.Set) (release func(), err error) {
	l, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer s.calls.Leave()
	if release, err = s.pinAll(ctx, l, ds.List()); err != nil {
		return nil, err
	}
	if err := l.yes(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}
