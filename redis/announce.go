package redis

import (
	"context"
	"sync"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A writer collects commands that write, so that all who write at one time share a round trip.
type writer struct {
	mu    sync.Mutex
	busy  bool // a goroutine sends
	next  *round
	bytes int
}

// A round is commands that are sent together.
type round struct {
	cmds []command
	done chan struct{}
}

// maxWaiting is how many bytes may wait while others are sent. What is more is lost: it is a miss for somebody.
const maxWaiting = 64 << 20

// push hands a command over and returns what ends when it was sent, or nil if it was not taken.
func (c *Client) push(cmd command) <-chan struct{} {
	w := &c.write
	w.mu.Lock()
	defer w.mu.Unlock()
	size := len(cmd.key) + len(cmd.value)
	if c.ctx.Err() != nil || w.bytes+size > maxWaiting {
		c.counts.lost.Add(1)
		return nil
	}
	if w.next == nil {
		w.next = &round{done: make(chan struct{})}
	}
	r := w.next
	r.cmds = append(r.cmds, cmd)
	w.bytes += size
	if !w.busy {
		w.busy = true
		c.group.Go(c.flush)
	}
	return r.done
}

// flush sends rounds until nothing waits.
func (c *Client) flush() {
	w := &c.write
	for {
		w.mu.Lock()
		r := w.next
		w.next, w.bytes = nil, 0
		w.busy = r != nil
		w.mu.Unlock()
		if r == nil {
			return
		}
		for _, reply := range c.do(context.Background(), r.cmds) {
			if reply.ok {
				c.counts.announced.Add(1)
			} else {
				c.counts.lost.Add(1)
			}
		}
		close(r.done)
	}
}

// announce writes an entry. What it returns ends when that was done or given up; nil is at once.
func (c *Client) announce(lookup string, e entry) <-chan struct{} {
	v := set
	if isRecord(lookup) && !mutant.RedisOlder {
		v = setNewer
	}
	return c.push(command{v, lookup, e.encode()})
}

// forget removes an entry whose object is gone, or that did not verify. Nobody waits for that.
func (c *Client) forget(lookup, name string) {
	c.push(command{drop, lookup, name + "\n"})
}

// wait waits for what announce returned.
func wait(ctx context.Context, done <-chan struct{}) {
	if done == nil || mutant.RedisLate {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
