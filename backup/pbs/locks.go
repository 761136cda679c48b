package pbs

import (
	"context"
	"sync"
)

// locks are named locks that may be held across I/O. A free one takes no memory.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	turn  chan struct{} // full while it is held
	users int           // who holds it or waits for it
}

// take waits for the lock until ctx ends.
func (l *locks) take(ctx context.Context, name string) (release func(), err error) {
	k := l.use(name)
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; l.leave(name, k) }, nil
	case <-ctx.Done():
		l.leave(name, k)
		return nil, ctx.Err()
	}
}

// try takes the lock if nobody has it.
func (l *locks) try(name string) (release func(), ok bool) {
	k := l.use(name)
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; l.leave(name, k) }, true
	default:
		l.leave(name, k)
		return nil, false
	}
}

func (l *locks) use(name string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		l.held[name] = k
	}
	k.users++
	return k
}

func (l *locks) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}
