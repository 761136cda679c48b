package s3

import (
	"context"
	"errors"
	"time"

	"github.com/sarsen-build/sarsen/s3/bucket"
)

// CollectAlone is Collect in a session of its own, for who has no Store. The session gives no yes and loads no ledger:
// it has nothing to refuse. When it is over nobody has to wait for what it promised, so its record is removed.
func CollectAlone(ctx context.Context, b bucket.Bucket, o Options, policy Policy) (r Report, err error) {
	s := newStore(b, o)
	l, err := s.begin(ctx)
	if err != nil {
		s.stop()
		return r, err
	}
	s.now.Store(l)
	if !o.manual {
		s.beats.Go(func() { s.beat(l) })
	}
	if err = s.follow(ctx, l); err == nil {
		r, err = s.Collect(ctx, policy)
	}
	s.stop()
	s.beats.Wait()
	// One that was suspended meanwhile has another life, and the first one's record is not its own any more.
	return r, errors.Join(err, s.forsake(context.WithoutCancel(ctx), s.now.Load()))
}

// Collected returns when the bucket was collected last, or tried to be, and what time it is, by the server's clock. The
// zero time is never.
func (s *Store) Collected(ctx context.Context) (last, now time.Time, err error) {
	p, err := s.bucket.List(ctx, sessions, "")
	if err != nil {
		return last, now, err
	}
	o, err := s.bucket.Head(ctx, registerKey)
	if errors.Is(err, bucket.ErrNotFound) {
		return time.Time{}, p.Date, nil
	}
	return o.Modified, p.Date, err
}
