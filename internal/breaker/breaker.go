// Package breaker decides whether a server is worth asking, for clients that can do without it.
//
// A server that did not answer is away for a while, in which nobody waits for it. Then one call may try
// again, and the others go without until that one is answered.
//
// # Concurrency
//
// All methods may be called from many goroutines at once.
package breaker

import (
	"sync"
	"time"
)

// The time for which a server is away after its first failure, and after many.
const (
	First = 5 * time.Second
	Last  = time.Minute
)

// A Breaker is what was seen of one server. The zero value trusts it.
type Breaker struct {
	mu     sync.Mutex
	pause  time.Duration // 0 while the server is well
	until  time.Time     // when one may try again
	trying bool          // one is trying
}

// Allow reports whether a call may be made. Who was allowed one must say how it went, by Well or Away.
func (b *Breaker) Allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pause == 0 {
		return true
	}
	if b.trying || time.Now().Before(b.until) {
		return false
	}
	b.trying = true
	return true
}

// IsAway reports whether the server did not answer when it was last asked.
func (b *Breaker) IsAway() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pause != 0
}

// Well says that the server answered a call, whatever it said.
func (b *Breaker) Well() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pause, b.trying = 0, false
}

// Away says that the server did not answer a call, and reports whether that is news.
func (b *Breaker) Away() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := b.pause == 0
	switch {
	case first:
		b.pause = First
	case b.trying:
		b.pause = min(2*b.pause, Last)
	default:
		return false // a call that was under way when another one found out
	}
	b.trying = false
	b.until = time.Now().Add(b.pause)
	return first
}
