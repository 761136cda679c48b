package tier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A climb is one blob or record on its way from the near store to the far one.
type climb struct {
	size   int64
	do     func(context.Context) error
	free   func() // gives back what it holds
	forget func() // takes it off the list of what climbs

	// Guarded by the queue's mutex.
	try     *try // the one that is queued or under way
	running bool
	next    *try // of a record that was put since try read it
	later   bool // it failed, and its next try is not queued yet
}

// A try is one attempt of a climb.
type try struct {
	done chan struct{}
	err  error // once done
}

func newTry() *try { return &try{done: make(chan struct{})} }

// wait waits for the end of t, and reports whether it came before that of ctx.
func (t *try) wait(ctx context.Context) bool {
	select {
	case <-t.done:
		return true
	case <-ctx.Done():
		return false
	}
}

const (
	// roomWithin is how long a write waits for room in the queue. Clients give up after about a minute.
	roomWithin = 30 * time.Second
	// pauseMin and pauseMax bound the time after which what the far store did not take is tried again.
	pauseMin = time.Second
	pauseMax = 30 * time.Second
)

// climbs is the queue of what climbs, and who works it off.
type climbs struct {
	max       int64 // bytes
	writeBack bool
	workers   sync.WaitGroup

	mu      sync.Mutex
	moved   chan struct{} // closed and made anew whenever there is more room
	work    sync.Cond
	queue   []*climb
	later   []*climb
	timer   *time.Timer // queues later
	pause   time.Duration
	bytes   int64
	pending int64 // queued, under way or later
	closed  bool
	left    int64 // written back, and not taken by the last try after close
	blobs   map[digest.Digest]*climb
	records map[[32]byte]*climb
}

func (c *climbs) begin(ctx context.Context, o Options) {
	c.max, c.writeBack, c.pause = o.Queue, o.WriteBack, pauseMin
	c.moved = make(chan struct{})
	c.work.L = &c.mu
	c.blobs, c.records = map[digest.Digest]*climb{}, map[[32]byte]*climb{}
	for range o.Uploads {
		c.workers.Go(func() { c.serve(ctx) })
	}
}

// serve works the queue off until it is closed and empty.
func (c *climbs) serve(ctx context.Context) {
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.work.Wait()
		}
		if len(c.queue) == 0 {
			c.mu.Unlock()
			return
		}
		next := c.queue[0]
		c.queue[0] = nil // the array lives on
		c.queue = c.queue[1:]
		c.mu.Unlock()
		c.run(ctx, next)
	}
}

// run tries to bring job up, once more for each time that it was changed meanwhile.
func (c *climbs) run(ctx context.Context, job *climb) {
	for c.once(ctx, job) {
	}
}

// once tries once. Written back, what the far store is not there to take stays pinned and is tried again: somebody was
// told that it is safe.
func (c *climbs) once(ctx context.Context, job *climb) (more bool) {
	c.mu.Lock()
	t := job.try
	job.running = true
	c.mu.Unlock()
	if t.err = ctx.Err(); t.err == nil {
		t.err = job.do(ctx)
	}
	defer close(t.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	job.running = false
	if t.err == nil {
		c.pause = pauseMin
	}
	if job.next != nil {
		job.try, job.next = job.next, nil
		return true
	}
	if c.writeBack && t.err != nil && c.closed {
		c.left++
	} else if c.writeBack && errors.Is(t.err, blob.ErrUnavailable) && !mutant.ClimbsOnce {
		job.try = newTry()
		c.postpone(job)
		return false
	}
	job.forget()
	c.mu.Unlock()
	job.free()
	c.mu.Lock()
	c.bytes -= job.size
	c.pending--
	close(c.moved)
	c.moved = make(chan struct{})
	return false
}

// postpone puts job off. The mutex is held.
func (c *climbs) postpone(job *climb) {
	job.later = true
	c.later = append(c.later, job)
	if c.timer != nil {
		return
	}
	c.timer = time.AfterFunc(c.pause, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.resume()
	})
	c.pause = min(2*c.pause, pauseMax)
}

// resume queues what was put off. The mutex is held.
func (c *climbs) resume() {
	for _, job := range c.later {
		if job.later {
			job.later = false
			c.queue = append(c.queue, job)
		}
	}
	c.later = nil
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.work.Broadcast()
}

// join returns the try of job that is still to come, which is queued if it was put off. If job was changed, that is
// one which has not begun. The mutex is held.
func (c *climbs) join(job *climb, changed bool) *try {
	if job.later {
		job.later = false
		c.queue = append(c.queue, job)
		c.work.Signal()
	}
	if !changed || !job.running || mutant.RecordOvertaken {
		return job.try
	}
	if job.next == nil {
		job.next = newTry()
	}
	return job.next
}

// push queues job, whose room is there. The mutex is held.
func (c *climbs) push(job *climb) *try {
	job.try = newTry()
	c.bytes += job.size
	c.pending++
	c.queue = append(c.queue, job)
	c.work.Signal()
	return job.try
}

// close lets the queue run empty. What was put off gets one more try.
func (c *climbs) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.resume()
}

// unclimbed returns how many were given up since close.
func (c *climbs) unclimbed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

func (c *climbs) waiting() (n, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending, c.bytes
}

// patience is how long one waits for room in the queue.
type patience uint8

const (
	never  patience = iota
	awhile          // roomWithin
	always          // until the context ends
)

// room waits until size more bytes may wait, and reports false if there is none. The mutex is held, and is let go of
// meanwhile.
func (c *climbs) room(ctx context.Context, size int64, wait patience) (bool, error) {
	var late <-chan time.Time
	if wait == awhile && c.bytes > 0 && c.bytes+size > c.max {
		timer := time.NewTimer(roomWithin)
		defer timer.Stop()
		late = timer.C
	}
	for c.bytes > 0 && c.bytes+size > c.max {
		if wait == never {
			return false, nil
		}
		moved, bytes := c.moved, c.bytes
		var err error
		c.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			err = ctx.Err()
		case <-late:
			err = fmt.Errorf("%w: %s wait for their way to the far store, and no more may", blob.ErrUnavailable, humanize.IBytes(uint64(bytes)))
		}
		c.mu.Lock()
		if err != nil {
			return false, err
		}
	}
	if c.closed {
		return false, blob.ErrClosed
	}
	return true, nil
}
