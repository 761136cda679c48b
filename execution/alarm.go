package execution

import (
	"container/heap"
	"time"
)

// An alarm calls do under the scheduler's lock at a time. All alarms ring in one goroutine, in the order of their
// times and then of their numbers, so a test with a seed sees them in one order.
type alarm struct {
	at     time.Time
	number uint64
	do     func()
	index  int // in the heap; -1 once it rang or was stopped
}

// alarms is a heap of them.
type alarms struct {
	heap []*alarm
	wake chan struct{}
}

func (h *alarms) Len() int { return len(h.heap) }
func (h *alarms) Less(i, j int) bool {
	a, b := h.heap[i], h.heap[j]
	if !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return a.number < b.number
}
func (h *alarms) Swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].index, h.heap[j].index = i, j
}
func (h *alarms) Push(x any) {
	a := x.(*alarm)
	a.index = len(h.heap)
	h.heap = append(h.heap, a)
}
func (h *alarms) Pop() any {
	last := len(h.heap) - 1
	a := h.heap[last]
	h.heap[last] = nil
	h.heap = h.heap[:last]
	a.index = -1
	return a
}

// after makes do be called in d.
func (s *Scheduler) after(d time.Duration, do func()) *alarm {
	a := &alarm{at: time.Now().Add(d), number: s.number(), do: do}
	heap.Push(&s.alarms, a)
	if a.index == 0 {
		select {
		case s.alarms.wake <- struct{}{}:
		default:
		}
	}
	return a
}

// silence stops an alarm. It may be nil, or have rung.
func (s *Scheduler) silence(a *alarm) {
	if a != nil && a.index >= 0 {
		heap.Remove(&s.alarms, a.index)
	}
}

// ring calls alarms when their times come, until the scheduler is closed.
func (s *Scheduler) ring() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		wait := time.Hour
		for !s.closed && len(s.alarms.heap) > 0 {
			if wait = time.Until(s.alarms.heap[0].at); wait > 0 {
				break
			}
			heap.Pop(&s.alarms).(*alarm).do()
			wait = time.Hour
		}
		s.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.alarms.wake:
		case <-s.ctx.Done():
			return
		}
	}
}
