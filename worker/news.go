package worker

import (
	"sync"
	"time"

	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

// shortly is how long an action runs before the scheduler is told how far it is. The result says all of it too, and
// most actions end before anybody could look.
const shortly = 100 * time.Millisecond

// news are what is to be said of an action on its way: the latest, and only if it takes long.
type news struct {
	mu     sync.Mutex
	worker *Worker
	timer  *time.Timer
	late   bool // from now on everything is said at once
	last   *pb.FromWorker
}

func (n *news) begin(w *Worker) {
	n.worker = w
	n.timer = time.AfterFunc(shortly, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.late = true
		if n.last != nil {
			n.worker.say(n.last)
		}
	})
}

func (n *news) set(m *pb.FromWorker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = m
	if n.late {
		n.worker.say(m)
	}
}

// end says nothing more.
func (n *news) end() {
	n.timer.Stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = nil
}
