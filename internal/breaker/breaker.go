// Package breaker decides whether a server is worth asking, for clients that can do without it.
//
// A server that did not answer is away for a while, in which nobody waits for it. Then one call may try
// again, and the others go without until that one is answered. One that answers slowly many times in a row is
// away too: a build asks a thousand times.
//
// # Concurrency
//
// All methods may be called from many goroutines at once.
package breaker

import (
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// The time for which a server is away after its first failure, and after many.
const (
	First = 5 * time.Second
	Last  = time.Minute
)

// Strikes is how many slow answers in a row are too many.
const Strikes = 8

// A Breaker is what was seen of one server. The zero value trusts it.
type Breaker struct {
	mu     sync.Mutex
	pause  time.Duration // 0 while the server is well
	until  time.Time     // when one may try again
	trying bool          // one is trying
	slow   int           // answers in a row
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
	b.trying = !mutant.ManyTry
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
	b.well()
}

func (b *Breaker) well() { b.pause, b.trying = 0, false }

// Answered is Well for a call whose answer should not have taken longer than limit. It reports whether that makes
// the server away, and is news.
func (b *Breaker) Answered(took, limit time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if took <= limit {
		b.slow = 0
	} else if b.slow++; b.slow >= Strikes {
		return b.away()
	}
	b.well()
	return false
}

// Away says that the server did not answer a call, and reports whether that is news.
func (b *Breaker) Away() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away()
}

func (b *Breaker) away() bool {
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
