package stage

import (
	"container/list"
	"context"
	"sync"
)

// flights are fetches that are under way. The zero value is none.
type flights[K comparable] struct {
	mu    sync.Mutex
	under map[K]chan struct{}
}

// claim makes the caller the one who fetches k, and returns nil. If somebody else does that, it returns what
// is closed when he is through, whether he succeeded or not. Then the caller looks again, and claims again.
func (f *flights[K]) claim(k K) (theirs <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if done, ok := f.under[k]; ok {
		return done
	}
	if f.under == nil {
		f.under = map[K]chan struct{}{}
	}
	f.under[k] = make(chan struct{})
	return nil
}

// land ends the caller's fetch of k.
func (f *flights[K]) land(k K) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.under[k])
	delete(f.under, k)
}

// await waits until a fetch of somebody else is through.
func await(ctx context.Context, theirs <-chan struct{}) error {
	select {
	case <-theirs:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A budget is a number of bytes that may be in flight. Who asks first is served first.
type budget struct {
	size int64

	mu      sync.Mutex
	free    int64
	waiting list.List // of *claim
}

type claim struct {
	n     int64
	ready chan struct{}
}

func newBudget(size int64) *budget { return &budget{size: size, free: size} }

// take takes n bytes, or the whole budget for what is larger, and returns how many are to be given back.
func (b *budget) take(ctx context.Context, n int64) (int64, error) {
	n = min(n, b.size)
	b.mu.Lock()
	if b.waiting.Len() == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return n, nil
	}
	c := &claim{n, make(chan struct{})}
	e := b.waiting.PushBack(c)
	b.mu.Unlock()
	select {
	case <-c.ready:
		return n, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-c.ready: // at the same moment
		b.free += n
	default:
		b.waiting.Remove(e)
	}
	b.serve()
	return 0, context.Cause(ctx)
}

func (b *budget) giveBack(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.serve()
}

// serve gives what is free to those who wait.
func (b *budget) serve() {
	for e := b.waiting.Front(); e != nil; e = b.waiting.Front() {
		c := e.Value.(*claim)
		if c.n > b.free {
			return
		}
		b.free -= c.n
		b.waiting.Remove(e)
		close(c.ready)
	}
}
