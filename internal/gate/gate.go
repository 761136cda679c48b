// Package gate counts the calls that are inside a store, so that Close can let no more in and wait for those that are.
//
// # Concurrency
//
// Everything may be called at once.
package gate

import "sync"

// A Gate is open until Close. The zero value is ready.
type Gate struct {
	mu     sync.Mutex
	calls  int
	closed bool
	idle   chan struct{}
}

// Enter begins a call, unless the gate is closed. Leave ends it.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.calls++
	return true
}

// Leave ends a call that Enter began.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls--; g.closed && g.calls == 0 {
		close(g.idle)
	}
}

// Close lets no more calls in. idle is closed when the last one has left; first is false if the gate was closed before.
func (g *Gate) Close() (idle <-chan struct{}, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, false
	}
	g.closed, g.idle = true, make(chan struct{})
	if g.calls == 0 {
		close(g.idle)
	}
	return g.idle, true
}
