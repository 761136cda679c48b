package tier

import (
	"context"
	"errors"
	"fmt"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// Get implements blob.Records. What comes from the far store is its record, by its number: Drop removes that one first,
// and then the near one.
func (s *Store) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	rec, err := s.near.Get(ctx, key)
	if err == nil || ctx.Err() != nil {
		return rec, err
	}
	fill, end := s.puts.read(key)
	defer end()
	if rec, err = s.near.Get(ctx, key); err == nil {
		return rec, nil // it was put in between
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
	sim.Point("tier: read a record")
	if mutant.FillOvertakes {
		fill = func(do func()) { do() }
	}
	fill(func() {
		if s.near.Put(ctx, key, rec.Value) != nil {
			s.counts.unfilled.Add(1) // the far store's copy is as good
		}
	})
	return rec, nil
}

// Put implements blob.Records.
func (s *Store) Put(ctx context.Context, key [32]byte, value []byte) error {
	direct := false
	err := s.puts.put(ctx, key, func() error {
		err := s.near.Put(ctx, key, value)
		if !roomless(err) {
			return err
		}
		// What is near would be found first.
		if _, old := s.near.Get(ctx, key); !errors.Is(old, blob.ErrNotFound) && !mutant.FarHidden {
			return err
		}
		direct = true
		return s.far.Put(ctx, key, value)
	})
	if err != nil || direct {
		return err
	}
	t, err := s.climbRecord(ctx, key, int64(len(value)), awhile)
	if err != nil || s.writeBack {
		return err
	}
	if !t.wait(ctx) {
		return ctx.Err()
	}
	return t.err
}

// climbRecord returns the try that brings the newest value of key to the far store. There is one a key, so
// that no older value comes after a newer one.
func (s *Store) climbRecord(ctx context.Context, key [32]byte, size int64, wait patience) (*try, error) {
	c := &s.climbs
	c.mu.Lock()
	defer c.mu.Unlock()
	if job := c.records[key]; job != nil {
		return c.join(job, true), nil
	}
	if ok, err := c.room(ctx, size, wait); !ok {
		return nil, err
	}
	if job := c.records[key]; job != nil {
		return c.join(job, true), nil
	}
	job := &climb{
		size: size, free: func() {}, forget: func() { delete(c.records, key) },
		do: func(ctx context.Context) error { return s.raiseRecord(ctx, key) },
	}
	c.records[key] = job
	return c.push(job), nil
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
