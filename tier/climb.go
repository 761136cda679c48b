package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A climb is one blob or record on its way from the near store to the far one.
type climb struct {
	size  int64
	do    func(context.Context) error
	free  func() // gives back what it holds
	again bool   // a record was put since the job read it
	done  chan struct{}
	err   error // once done
}

// climbs is the queue of what climbs, and who works it off.
type climbs struct {
	store   *Store
	max     int64 // bytes
	workers sync.WaitGroup
	stop    context.CancelFunc

	mu      sync.Mutex
	moved   chan struct{} // closed and made anew whenever the queue gets shorter
	work    sync.Cond
	queue   []func(context.Context)
	bytes   int64
	pending int64 // queued or under way
	closed  bool
	blobs   map[digest.Digest]*climb
	records map[[32]byte]*climb
}

func (c *climbs) begin(s *Store, workers int, most int64) {
	c.store, c.max = s, most
	c.moved = make(chan struct{})
	c.work.L = &c.mu
	c.blobs, c.records = map[digest.Digest]*climb{}, map[[32]byte]*climb{}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	for range workers {
		c.workers.Go(func() { c.serve(ctx) })
	}
}

// serve works the queue off until it is closed and empty, or ctx ends.
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
		c.queue = c.queue[1:]
		c.mu.Unlock()
		next(ctx)
	}
}

// end lets the queue run empty, or gives it up when ctx ends.
func (c *climbs) end(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.work.Broadcast()
	c.mu.Unlock()
	idle := make(chan struct{})
	go func() {
		c.workers.Wait()
		close(idle)
	}()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		n, bytes := c.waiting()
		err = fmt.Errorf("%d blobs and records of %s did not reach the far store yet: %w", n, humanize.IBytes(uint64(bytes)), ctx.Err())
	}
	c.stop()
	<-idle
	return err
}

func (c *climbs) waiting() (n, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending, c.bytes
}

// room waits until size more bytes may wait, and reports false if it may not wait and there is none. The mutex is
// held, and is let go of meanwhile.
func (c *climbs) room(ctx context.Context, size int64, wait bool) (bool, error) {
	for c.bytes > 0 && c.bytes+size > c.max {
		if !wait {
			return false, nil
		}
		moved := c.moved
		c.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	if c.closed {
		return false, blob.ErrClosed
	}
	return true, nil
}

// push queues job, whose room is there. forget is called, with the mutex held, when it has ended. The mutex is held.
func (c *climbs) push(job *climb, forget func()) {
	c.bytes += job.size
	c.pending++
	c.queue = append(c.queue, func(ctx context.Context) {
		if job.err = ctx.Err(); job.err == nil {
			job.err = job.do(ctx)
		}
		job.free()
		c.mu.Lock()
		defer c.mu.Unlock()
		forget()
		c.bytes -= job.size
		c.pending--
		close(c.moved)
		c.moved = make(chan struct{})
		close(job.done)
	})
	c.work.Signal()
}

// Climb lets d climb if it is only near, as far as there is room in the queue: nobody waits for it. It is for
// what a yes was given for, and for what a restart found.
func (s *Store) Climb(ctx context.Context, d digest.Digest) {
	_, _ = s.climb(ctx, d, false) // it is asked for again
}

// ClimbAll lets what a restart found near climb, and waits while the queue is full. What is not near any more is left
// out.
func (s *Store) ClimbAll(ctx context.Context, blobs iter.Seq[digest.Digest], records iter.Seq[[32]byte]) error {
	for d := range blobs {
		if _, err := s.climb(ctx, d, true); err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	for key := range records {
		rec, err := s.near.Get(ctx, key)
		if err == nil {
			_, err = s.climbRecord(ctx, key, int64(len(rec.Value)))
		}
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	return nil
}

// climb returns the job that brings d to the far store, begun here or by somebody else, or nil if there is no
// room for it and wait is not set.
func (s *Store) climb(ctx context.Context, d digest.Digest, wait bool) (*climb, error) {
	held, err := s.near.Open(ctx, d) // pinned until it has climbed
	if err != nil {
		return nil, err
	}
	d = sized(d, held)
	c := &s.climbs
	c.mu.Lock()
	defer c.mu.Unlock()
	if job := c.blobs[d]; job != nil {
		return job, held.Close()
	}
	if ok, err := c.room(ctx, d.Size, wait); !ok {
		return nil, errors.Join(err, held.Close())
	}
	if job := c.blobs[d]; job != nil {
		return job, held.Close()
	}
	job := &climb{size: d.Size, done: make(chan struct{}), free: func() { _ = held.Close() }}
	if mutant.ClimbUnpinned {
		job.free()
	}
	job.do = func(ctx context.Context) error { return s.raise(ctx, d, held) }
	c.blobs[d] = job
	c.push(job, func() { delete(c.blobs, d) })
	return job, nil
}

// raise writes d, which held reads, to the far store, unless it is there.
func (s *Store) raise(ctx context.Context, d digest.Digest, held blob.Reader) (err error) {
	defer func() { s.count(err, "blob", d) }()
	missing, err := s.far.Missing(ctx, digest.SetOf(d))
	if err != nil || missing.Len() == 0 {
		return err
	}
	sim.Point("tier: climbs")
	if d.Size <= pieceSize {
		data := make([]byte, d.Size)
		if n, err := held.ReadAt(data, 0); n < len(data) {
			return errors.Join(io.ErrUnexpectedEOF, err)
		}
		return s.far.PutAll(ctx, []digest.Digest{d}, [][]byte{data})[0]
	}
	w, err := s.far.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.CopyBuffer(w, io.NewSectionReader(held, 0, d.Size), make([]byte, pieceSize)); err != nil {
		return err
	}
	return w.Commit()
}

func (s *Store) count(err error, what string, name any) {
	if err == nil {
		s.counts.climbed.Add(1)
		return
	}
	s.counts.failed.Add(1)
	s.log.Warn("the far store did not take what the near one has", what, name, "error", err)
}

// acknowledge lets d, which is near, climb. Written back, that is all: no job is returned.
func (s *Store) acknowledge(ctx context.Context, d digest.Digest) (*climb, error) {
	job, err := s.climb(ctx, d, true)
	if err != nil || s.writeBack || mutant.AckEarly {
		return nil, err
	}
	return job, nil
}

// landed waits for job. If it was begun by somebody else and failed, this caller tries by itself.
func (s *Store) landed(ctx context.Context, d digest.Digest, job *climb) error {
	for try := 0; ; try++ {
		select {
		case <-job.done:
		case <-ctx.Done():
			return &blob.Error{Op: "commit", Digest: d, Err: ctx.Err()}
		}
		if job.err == nil || try == 1 {
			return job.err
		}
		again, err := s.climb(ctx, d, true)
		if again == nil {
			return errors.Join(job.err, err)
		}
		job = again
	}
}
