package tier

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// Climb lets d climb if it is only near, as far as there is room in the queue: nobody waits for it. It is for
// what a yes was given for, and for what a restart found.
func (s *Store) Climb(ctx context.Context, d digest.Digest) {
	_, _ = s.climb(ctx, d, never) // it is asked for again
}

// ClimbAll lets what a restart found near climb, and waits while the queue is full. What is not near any more is left
// out.
func (s *Store) ClimbAll(ctx context.Context, blobs iter.Seq[digest.Digest], records iter.Seq[[32]byte]) error {
	for d := range blobs {
		if _, err := s.climb(ctx, d, always); err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	for key := range records {
		rec, err := s.near.Get(ctx, key)
		if err == nil {
			_, err = s.climbRecord(ctx, key, int64(len(rec.Value)), always)
		}
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
	}
	return nil
}

// climb returns the try that brings d to the far store, begun here or by somebody else, or nil if there is no
// room for it and nobody waits.
func (s *Store) climb(ctx context.Context, d digest.Digest, wait patience) (*try, error) {
	held, err := s.near.Open(ctx, d) // pinned until it has climbed
	if err != nil {
		return nil, err
	}
	d = sized(d, held)
	c := &s.climbs
	c.mu.Lock()
	if job := c.blobs[d]; job != nil {
		t := c.join(job, false)
		c.mu.Unlock()
		return t, held.Close()
	}
	ok, err := c.room(ctx, d.Size, wait)
	job := c.blobs[d] // somebody else may have begun meanwhile
	switch {
	case !ok:
		c.mu.Unlock()
		return nil, errors.Join(err, held.Close())
	case job != nil:
		t := c.join(job, false)
		c.mu.Unlock()
		return t, held.Close()
	}
	defer c.mu.Unlock()
	job = &climb{
		size: d.Size, free: func() { _ = held.Close() }, forget: func() { delete(c.blobs, d) },
		do: func(ctx context.Context) error { return s.raise(ctx, d, held) },
	}
	if mutant.ClimbUnpinned {
		job.free()
	}
	c.blobs[d] = job
	return c.push(job), nil
}

// raise writes d, which held reads, to the far store, unless it is there.
func (s *Store) raise(ctx context.Context, d digest.Digest, held blob.Reader) (err error) {
	missing, err := s.far.Missing(ctx, digest.SetOf(d))
	if err == nil && missing.Len() == 0 {
		return nil
	}
	defer func() { s.count(err, "blob", d) }()
	if err != nil {
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
	s.complain("the far store did not take what the near one has", err, what, name)
}

// acknowledge lets d, which is near, climb. Written back, that is all: no try is returned.
func (s *Store) acknowledge(ctx context.Context, d digest.Digest) (*try, error) {
	t, err := s.climb(ctx, d, awhile)
	if err != nil || s.writeBack || mutant.AckEarly {
		return nil, err
	}
	return t, nil
}

// await waits for t. If it was begun by somebody else and failed, this caller tries by itself.
func (s *Store) await(ctx context.Context, d digest.Digest, t *try) error {
	for n := 0; ; n++ {
		if !t.wait(ctx) {
			return &blob.Error{Op: "commit", Digest: d, Err: ctx.Err()}
		}
		if t.err == nil || n == 1 {
			return t.err
		}
		again, err := s.climb(ctx, d, awhile)
		if again == nil {
			return errors.Join(t.err, err)
		}
		t = again
	}
}
