// Package sim marks the instants at which another goroutine may go first.
//
// The store calls Point at its commit points. In production that costs one atomic load. Under
// internal/sim/explore a seeded scheduler parks every goroutine there and chooses who goes on, so a
// seed is an interleaving and a failure can be replayed.
//
// Concurrency: no mutex may be held at a Point, or the scheduler could not tell waiting from working.
package sim

import "sync/atomic"

var hook atomic.Pointer[func(name string)]

// Point lets a scheduler, if one is installed, decide who goes on. The name appears in traces.
func Point(name string) {
	if h := hook.Load(); h != nil {
		(*h)(name)
	}
}

// Install makes h what Point calls, or nothing if h is nil. There is one scheduler at a time.
func Install(h func(name string)) {
	if h == nil {
		hook.Store(nil)
		return
	}
	hook.Store(&h)
}
