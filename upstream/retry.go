package upstream

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The pause before the first and before a late new try; each is halved by up to a half at random, so
// that many clients of a server that comes back don't come all at once.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 3 * time.Second
)

// A patience is how long a server that can't be reached is tried again.
type patience struct {
	store *Store
	until time.Time
	pause time.Duration
}

func (s *Store) patience() *patience {
	p := &patience{store: s}
	p.progress()
	return p
}

// progress begins the time for tries anew.
func (p *patience) progress() { p.until, p.pause = time.Now().Add(p.store.retry), firstPause }

// again waits before the next try, if err is one after which there should be one.
func (p *patience) again(ctx context.Context, err error) bool {
	if code := status.Code(err); code != codes.Unavailable && code != codes.Aborted || ctx.Err() != nil {
		return false
	}
	pause := p.pause - rand.N(p.pause/2)
	if time.Now().Add(pause).After(p.until) {
		return false
	}
	p.pause = min(2*p.pause, lastPause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call makes one call and tries it again while the server can't be reached.
func (s *Store) call(ctx context.Context, do func(context.Context) error) error {
	for p := s.patience(); ; {
		err := s.once(ctx, do)
		if err == nil || !p.again(ctx, err) {
			return err
		}
	}
}

// once makes one call. One that stalls is as if the server could not be reached.
func (s *Store) once(ctx context.Context, do func(context.Context) error) error {
	timed, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	err := do(timed)
	if err != nil && timed.Err() != nil && ctx.Err() == nil {
		return status.Errorf(codes.Unavailable, "no answer for %v", s.stall)
	}
	return err
}

// A guard breaks off a stream that is without a message for too long.
type guard struct {
	ctx    context.Context
	cancel context.CancelFunc
	stall  time.Duration
}

// guard returns a context for a stream; its end ends the stream.
func (s *Store) guard(ctx context.Context) *guard {
	g := &guard{stall: s.stall}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

// wait runs do, which waits for the other end, and breaks it off when it takes too long. What came at
// the very end is lost with the stream.
func (g *guard) wait(do func() error) error {
	stalled := time.AfterFunc(g.stall, g.cancel)
	err := do()
	if !stalled.Stop() {
		return status.Errorf(codes.Unavailable, "nothing came for %v", g.stall)
	}
	return err
}

// each calls do for 0 to n-1, some at once, and returns the first error. After one, no more are begun.
func (s *Store) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	if n == 1 {
		return do(ctx, 0)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		slots = make(chan struct{}, s.parallel)
	)
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(ctx, i); err != nil {
				once.Do(func() { first = err; cancel() })
			}
		})
	}
	wg.Wait()
	if first == nil {
		return ctx.Err()
	}
	return first
}
