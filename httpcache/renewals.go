package httpcache

import (
	"sync"
	"time"
)

// maxRenewals is of how many namespaces is remembered when their epochs were put. Beyond that all are forgotten, and
// those in use are put once more.
const maxRenewals = 10_000

// renewals remember when the epochs of namespaces were put last.
type renewals struct {
	mu   sync.Mutex
	last map[space]time.Time
}

// due reports whether the epoch of s was last put earlier than every ago, or nobody knows when. It says so to one caller.
func (r *renewals) due(s space, every time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if last, known := r.last[s]; known && now.Sub(last) < every {
		return false
	}
	r.set(s, now)
	return true
}

// put notes that the epoch of s was put just now.
func (r *renewals) put(s space) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(s, time.Now())
}

func (r *renewals) set(s space, at time.Time) {
	if _, known := r.last[s]; !known && len(r.last) >= maxRenewals || r.last == nil {
		r.last = map[space]time.Time{}
	}
	r.last[s] = at
}

// failed lets the next caller of due try again.
func (r *renewals) failed(s space) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, s)
}
