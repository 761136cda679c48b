package tier

import (
	"context"
	"errors"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A load is one small blob on its way from the far store.
type load struct {
	done chan struct{}
	data []byte // once done, unless err is set
	err  error
}

// GetAll implements blob.Batcher.
func (s *Store) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	places := make([]int, len(ds))
	for i := range places {
		places[i] = i
	}
	// What somebody else fails to get is got once more in the same way: a leader that went away leaves no herd. What was not
	// there for that one may have come since, and be promised by now; the second load was begun after this call.
	for _, gone := range []error{nil, blob.ErrNotFound} {
		if places = getFrom(ctx, s.near, ds, places, data, errs); len(places) == 0 || ctx.Err() != nil {
			return data, errs
		}
		if places = s.loadAll(ctx, ds, places, data, errs, gone); len(places) == 0 || ctx.Err() != nil {
			return data, errs
		}
	}
	getFrom(ctx, s.far, ds, places, data, errs)
	return data, errs
}

// getFrom gets the blobs at places from one store, and returns the places of those that it did not give.
func getFrom(ctx context.Context, from blob.Batcher, ds []digest.Digest, places []int, data [][]byte, errs []error) (rest []int) {
	some, failures := from.GetAll(ctx, pick(ds, places))
	for n, i := range places {
		if data[i], errs[i] = some[n], failures[n]; errs[i] != nil {
			rest = append(rest, i)
		}
	}
	return rest
}

// loadAll gets the blobs at places from the far store. What somebody else is getting is waited for; what comes to nothing
// there is returned, unless it is with the error gone.
func (s *Store) loadAll(ctx context.Context, ds []digest.Digest, places []int, data [][]byte, errs []error, gone error) (again []int) {
	var mine, theirs []int
	loads := make(map[int]*load, len(places))
	for _, i := range places {
		l, leads := s.loads.join(ds[i], func() *load { return &load{done: make(chan struct{})} })
		loads[i] = l
		if leads {
			mine = append(mine, i)
		} else {
			theirs = append(theirs, i)
		}
	}
	s.lead(ctx, ds, mine, loads)
	for _, i := range theirs {
		select {
		case <-loads[i].done:
		case <-ctx.Done():
			errs[i] = &blob.Error{Op: "get", Digest: ds[i], Err: ctx.Err()}
			continue
		}
		if loads[i].err != nil && (gone == nil || !errors.Is(loads[i].err, gone)) && !mutant.LeaderPoisons {
			again = append(again, i)
		}
	}
	for _, i := range places {
		select {
		case <-loads[i].done:
			data[i], errs[i] = loads[i].data, loads[i].err
		default:
		}
	}
	return again
}

// lead gets the blobs at places, for this caller and for all who wait, and fills the near store.
func (s *Store) lead(ctx context.Context, ds []digest.Digest, places []int, loads map[int]*load) {
	if len(places) == 0 {
		return
	}
	wanted := pick(ds, places)
	data, errs := s.far.GetAll(ctx, wanted)
	var filled []digest.Digest
	var bytes [][]byte
	for n, i := range places {
		loads[i].data, loads[i].err = data[n], errs[n]
		if errs[n] == nil && !wanted[n].IsEmpty() {
			filled, bytes = append(filled, whole(wanted[n], data[n])), append(bytes, data[n])
		}
	}
	s.counts.fetched.Add(int64(len(filled)))
	// First the near store, then the others are told: who comes in between finds it in one of the two. That this caller
	// is gone is no reason to get it again for the next one.
	for _, err := range s.near.PutAll(context.WithoutCancel(ctx), filled, bytes) {
		if err != nil {
			s.counts.unfilled.Add(1)
		}
	}
	for _, i := range places {
		s.loads.land(ds[i])
		close(loads[i].done)
	}
}

func pick(ds []digest.Digest, places []int) []digest.Digest {
	some := make([]digest.Digest, len(places))
	for n, i := range places {
		some[n] = ds[i]
	}
	return some
}

// PutAll implements blob.Batcher.
func (s *Store) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := s.near.PutAll(ctx, ds, data)
	var direct []int
	tries := map[int]*try{}
	var full error // for which one blob of them waited long enough
	for i, err := range errs {
		switch {
		case err == nil && !ds[i].IsEmpty() && full != nil:
			errs[i] = full
		case err == nil && !ds[i].IsEmpty():
			if tries[i], errs[i] = s.acknowledge(ctx, ds[i]); errors.Is(errs[i], blob.ErrUnavailable) {
				full = errs[i]
			}
		case roomless(err):
			direct = append(direct, i)
		}
	}
	if len(direct) > 0 {
		var bytes [][]byte
		for _, i := range direct {
			bytes = append(bytes, data[i])
		}
		for n, err := range s.far.PutAll(ctx, pick(ds, direct), bytes) {
			errs[direct[n]] = err
		}
	}
	for i, t := range tries {
		if t != nil {
			errs[i] = s.await(ctx, ds[i], t)
		}
	}
	return errs
}

// roomless says whether the near store has no room for what the far one may have.
func roomless(err error) bool {
	return errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrTooLarge)
}
