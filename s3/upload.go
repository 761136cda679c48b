package s3

import (
	"context"
	"io"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A flight is an upload under way. Others with the same bytes wait for it, and one of them takes over if it fails.
type flight struct {
	done chan struct{}
	err  error
}

// upload makes a blob present whose bytes are verified. It waits for another upload of the same blob; if that fails,
// the failure is only that one's.
func (s *Store) upload(ctx context.Context, l *life, k ledger.Key, size int64, object io.ReaderAt, stored int64) error {
	for {
		if ok, _ := l.ledger.Lease(k, size); ok {
			return l.yes()
		}
		f, leads := l.lead(k)
		if leads {
			f.err = s.put(ctx, l, k, size, object, stored)
			l.land(k, f)
			return f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if mutant.WaitersFail && f.err != nil {
			return f.err
		}
	}
}

// lead returns the flight of a blob, and whether it is the caller's.
func (l *life) lead(k ledger.Key) (f *flight, leads bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f = l.flights[k]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	l.flights[k] = f
	return f, true
}

func (l *life) land(k ledger.Key, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flights, k)
	close(f.done)
}

// put writes an incarnation and publishes it. If it fails, the incarnation may yet appear: nobody names it then but
// who finds it.
func (s *Store) put(ctx context.Context, l *life, k ledger.Key, size int64, object io.ReaderAt, stored int64) error {
	i, p, err := l.claim(k, size)
	if err != nil {
		return err
	}
	defer l.settle(i)
	if err := s.send(ctx, i.name(), object, stored); err != nil {
		return err
	}
	sim.Point("publish")
	l.ledger.Publish(k, size, p, always)
	return l.yes()
}

// send writes an object, when its turn has come.
func (s *Store) send(ctx context.Context, name string, object io.ReaderAt, stored int64) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.slots }()
	if _, err := s.bucket.Put(ctx, name, object, stored, bucket.Condition{}); err != nil {
		return err
	}
	s.counts.uploads.Add(1)
	s.counts.bytesUp.Add(stored)
	return nil
}
