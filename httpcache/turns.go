package httpcache

import (
	"context"
	"sync"

	"github.com/sarsen-build/sarsen/action"
)

// turns lets one goroutine at a time look at a result and then write it. The store orders writes, but not a look
// before them.
type turns struct {
	mu    sync.Mutex
	taken map[action.Key]*turn
}

type turn struct {
	c     chan struct{} // has room for one
	users int           // who has it or waits for it
}

// take waits for the turn of k, or for the end of ctx, and returns what gives it back.
func (t *turns) take(ctx context.Context, k action.Key) (release func(), err error) {
	t.mu.Lock()
	if t.taken == nil {
		t.taken = map[action.Key]*turn{}
	}
	u := t.taken[k]
	if u == nil {
		u = &turn{c: make(chan struct{}, 1)}
		t.taken[k] = u
	}
	u.users++
	t.mu.Unlock()
	select {
	case u.c <- struct{}{}:
		return func() { <-u.c; t.leave(k, u) }, nil
	case <-ctx.Done():
		t.leave(k, u)
		return nil, ctx.Err()
	}
}

func (t *turns) leave(k action.Key, u *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.users--; u.users == 0 {
		delete(t.taken, k)
	}
}
