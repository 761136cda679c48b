// Package turns lets one goroutine after the other have a turn at what a key names.
//
// # Concurrency
//
// Everything may be called at once. A turn may be held across I/O.
package turns

import (
	"context"
	"sync"
)

// By has a turn for each key. One that nobody holds or waits for takes no memory. The zero value is ready.
type By[K comparable] struct {
	mu    sync.Mutex
	turns map[K]*turn
}

type turn struct {
	held  chan struct{} // full while somebody has it
	users int           // who has it or waits for it; under By.mu
}

// Take waits for the turn of a key until ctx ends. One that is free is taken even then. The caller must call done.
func (b *By[K]) Take(ctx context.Context, key K) (done func(), err error) {
	if done, ok := b.Try(key); ok {
		return done, nil
	}
	t := b.use(key)
	select {
	case t.held <- struct{}{}:
		return func() { <-t.held; b.leave(key, t) }, nil
	case <-ctx.Done():
		b.leave(key, t)
		return nil, ctx.Err()
	}
}

// Try takes the turn of a key if it is free. The caller must call done then.
func (b *By[K]) Try(key K) (done func(), ok bool) {
	t := b.use(key)
	select {
	case t.held <- struct{}{}:
		return func() { <-t.held; b.leave(key, t) }, true
	default:
		b.leave(key, t)
		return nil, false
	}
}

func (b *By[K]) use(key K) *turn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.turns == nil {
		b.turns = map[K]*turn{}
	}
	t := b.turns[key]
	if t == nil {
		t = &turn{held: make(chan struct{}, 1)}
		b.turns[key] = t
	}
	t.users++
	return t
}

func (b *By[K]) leave(key K, t *turn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(b.turns, key)
	}
}
