package tier

import (
	"context"
	"errors"
	"fmt"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// Get implements blob.Records.
func (s *Store) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	rec, err := s.near.Get(ctx, key)
	if err == nil || ctx.Err() != nil {
		return rec, err
	}
	rec, err = s.far.Get(ctx, key)
	if errors.Is(err, blob.ErrUnavailable) {
		s.complain("the far store did not say which records it has; those that are not near count as missing", err)
		return blob.Record{}, fmt.Errorf("%w near: %w", blob.ErrNotFound, err)
	}
	if err != nil {
		return blob.Record{}, err
	}
	s.counts.fetched.Add(1)
	if s.near.Put(ctx, key, rec.Value) != nil {
		return rec, nil // the far store's copy is as good
	}
	s.counts.filled.Add(1)
	return s.near.Get(ctx, key)
}

// Put implements blob.Records.
func (s *Store) Put(ctx context.Context, key [32]byte, value []byte) error {
	if err := s.near.Put(ctx, key, value); roomless(err) {
		return s.far.Put(ctx, key, value)
	} else if err != nil {
		return err
	}
	job, err := s.climbRecord(ctx, key, int64(len(value)))
	if err != nil || s.writeBack {
		return err
	}
	select {
	case <-job.done:
		return job.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// climbRecord returns the job that brings the newest value of key to the far store. There is one a key, so
// that no older value comes after a newer one.
func (s *Store) climbRecord(ctx context.Context, key [32]byte, size int64) (*climb, error) {
	c := &s.climbs
	c.mu.Lock()
	defer c.mu.Unlock()
	if job := c.records[key]; job != nil {
		job.again = true
		return job, nil
	}
	if ok, err := c.room(ctx, size, true); !ok {
		return nil, err
	}
	if job := c.records[key]; job != nil {
		job.again = true
		return job, nil
	}
	job := &climb{size: size, done: make(chan struct{}), free: func() {}}
	job.do = func(ctx context.Context) error {
		for {
			c.mu.Lock()
			job.again = false
			c.mu.Unlock()
			err := s.raiseRecord(ctx, key)
			c.mu.Lock()
			last := !job.again || mutant.RecordOvertaken
			if last {
				delete(c.records, key)
			}
			c.mu.Unlock()
			if last {
				return err
			}
		}
	}
	c.records[key] = job
	c.push(job, func() {
		if c.records[key] == job {
			delete(c.records, key)
		}
	})
	return job, nil
}

func (s *Store) raiseRecord(ctx context.Context, key [32]byte) error {
	rec, err := s.near.Get(ctx, key)
	if errors.Is(err, blob.ErrNotFound) {
		return nil // dropped
	}
	if err == nil {
		err = s.far.Put(ctx, key, rec.Value)
	}
	s.count(err, "record", key)
	return err
}

// Drop implements blob.Records. Which of the two stores the incarnation is of does not matter: should the other
// have another record by the same number, that one is lost from a cache.
func (s *Store) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	return errors.Join(s.near.Drop(ctx, key, incarnation), s.far.Drop(ctx, key, incarnation))
}
