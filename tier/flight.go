package tier

import (
	"sync"

	"github.com/sarsen-build/sarsen/digest"
)

// flights are what is under way, one a digest.
type flights[T any] struct {
	mu      sync.Mutex
	flying  map[digest.Digest]*T
	running sync.WaitGroup
}

// join returns what is under way for d, or what begin makes, which the caller leads then: it must land it.
func (f *flights[T]) join(d digest.Digest, begin func() *T) (flight *T, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if flight := f.flying[d]; flight != nil {
		return flight, false
	}
	if f.flying == nil {
		f.flying = map[digest.Digest]*T{}
	}
	flight = begin()
	f.flying[d] = flight
	f.running.Add(1)
	return flight, true
}

// forget takes what is under way for d off the list: whoever comes later begins anew.
func (f *flights[T]) forget(d digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flying, d)
}

// land ends what is under way for d.
func (f *flights[T]) land(d digest.Digest) {
	f.forget(d)
	f.done()
}

// done ends what was forgotten before.
func (f *flights[T]) done() { f.running.Done() }

func (f *flights[T]) wait() { f.running.Wait() }
