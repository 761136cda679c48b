package s3

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// load fills the ledger of a life that has said nothing yet. What the register says comes first: what is listed after
// that is there, unless a document that was seen names it.
func (s *Store) load(ctx context.Context, l *life) error {
	if err := s.follow(ctx, l); err != nil {
		return err
	}
	return s.list(ctx, l, true)
}

// loadAlive is load, with renewals meanwhile: it may take longer than a heartbeat.
func (s *Store) loadAlive(ctx context.Context, l *life) error {
	ctx, cancel := context.WithCancel(ctx)
	var renewals sync.WaitGroup
	defer renewals.Wait()
	defer cancel()
	renewals.Go(func() {
		s.eachBeat(ctx, func() {
			wait, cancel := context.WithTimeout(ctx, s.heartbeat/2)
			if err := s.renew(wait, l); err != nil && ctx.Err() == nil {
				s.log.Warn("the bucket does not answer", "error", err)
			} else if err == nil {
				_ = s.answer(wait, l) // the next beat tries again
			}
			cancel()
		})
	})
	if err := s.load(ctx, l); err != nil {
		return err
	}
	return l.yes()
}

// list adopts what is in the bucket.
func (s *Store) list(ctx context.Context, l *life, fresh bool) error {
	for _, prefix := range []string{blobs, records} {
		if err := s.listAll(ctx, l, prefix, func(drops uint64, p []bucket.Object) (again bool, err error) {
			return !l.adopt(drops, incarnationsOf(p), fresh), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func incarnationsOf(objects []bucket.Object) []incarnation {
	found := make([]incarnation, 0, len(objects))
	for _, o := range objects {
		if i, ok := parseName(o.Key); ok {
			found = append(found, i)
		}
	}
	return found
}

// listers is how many listings are under way at once.
const listers = 32

// listAll calls do with all objects below a prefix that is followed by two hexadecimal digits, a page at a time, from
// several goroutines. do may ask to see a page again.
func (s *Store) listAll(ctx context.Context, l *life, prefix string, do func(drops uint64, page []bucket.Object) (again bool, err error)) error {
	more, err := s.listPart(ctx, l, prefix, 1, do)
	if err != nil || !more {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var group sync.WaitGroup
	for range listers {
		group.Go(func() {
			for i := range next {
				if _, err := s.listPart(ctx, l, fmt.Sprintf("%s%02x/", prefix, i), -1, do); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range 256 {
		if ctx.Err() == nil {
			next <- i
		}
	}
	close(next)
	group.Wait()
	return context.Cause(ctx)
}

// listPart lists at most so many pages; a negative number is all. The first of several pages is not shown, as it is
// listed again.
func (s *Store) listPart(ctx context.Context, l *life, prefix string, pages int, do func(uint64, []bucket.Object) (bool, error)) (more bool, err error) {
	for after := ""; ; {
		drops := l.dropCount()
		p, err := s.bucket.List(ctx, prefix, after)
		if err != nil {
			return false, err
		}
		if pages == 1 && p.More {
			return true, nil
		}
		again, err := do(drops, p.Objects)
		if err != nil {
			return false, err
		}
		if again {
			continue
		}
		if !p.More || len(p.Objects) == 0 {
			return false, nil
		}
		after = p.Objects[len(p.Objects)-1].Key
	}
}

// find adopts the objects of a blob, and reports whether there is one of which a collection has not decided yet whether
// it goes.
func (s *Store) find(ctx context.Context, l *life, k ledger.Key) (undecided bool, err error) {
	_, err = s.listPart(ctx, l, blobPrefix(k), -1, func(drops uint64, p []bucket.Object) (bool, error) {
		if !l.adopt(drops, incarnationsOf(p), false) {
			return true, nil
		}
		undecided = undecided || slices.ContainsFunc(incarnationsOf(p), l.undecided)
		return false, nil
	})
	return undecided, err
}

// Adopt lets the ledger name an object that another server says it wrote, if it is there.
func (s *Store) Adopt(ctx context.Context, key string) error {
	i, ok := parseName(key)
	if !ok {
		return fmt.Errorf("%q is no object of a store", key)
	}
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	for {
		drops := l.dropCount()
		if _, err := s.bucket.Head(ctx, key); err != nil {
			return err
		}
		if l.adopt(drops, []incarnation{i}, false) {
			return nil
		}
	}
}
