package s3

import (
	"context"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// GetAll implements blob.Batcher. What does not hash to its digest is dropped, and not found.
func (s *Store) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	var group sync.WaitGroup
	for i, d := range ds {
		if d.IsEmpty() {
			data[i] = []byte{}
			continue
		}
		group.Go(func() {
			if data[i], errs[i] = s.getOne(ctx, d); errs[i] != nil {
				data[i], errs[i] = nil, &blob.Error{Op: "get", Digest: d, Err: errs[i]}
			}
		})
	}
	group.Wait()
	return data, errs
}

func (s *Store) getOne(ctx context.Context, d digest.Digest) ([]byte, error) {
	l, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer s.calls.Leave()
	var data []byte
	err = s.undamaged(ctx, l, keyOf(d), func() (err error) {
		data, err = s.getHeld(ctx, l, d)
		return err
	})
	return data, err
}

func (s *Store) getHeld(ctx context.Context, l *life, d digest.Digest) ([]byte, error) {
	h, err := s.hold(ctx, l, keyOf(d), d.Size)
	if err != nil {
		return nil, err
	}
	defer h.pin.Release()
	return s.all(ctx, &h, func(value []byte) error {
		if got := d.Function.Of(value); got.Hash != d.Hash {
			return blob.Mismatch(d, got)
		}
		return nil
	})
}

// PutAll implements blob.Batcher.
func (s *Store) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	l, err := s.enter()
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	defer s.calls.Leave()
	var group sync.WaitGroup
	first := make(map[digest.Digest]int, len(ds))
	twin := make([]int, len(ds))
	for i, d := range ds {
		twin[i] = i
		if errs[i] = s.mayPut(l, d, data[i]); errs[i] != nil || d.IsEmpty() {
			continue
		}
		if j, ok := first[d]; ok {
			twin[i] = j
			continue
		}
		first[d] = i
		if ok, _ := l.ledger.Lease(keyOf(d), d.Size); ok {
			errs[i] = l.yes()
			continue
		}
		group.Go(func() {
			object := s.packer.seal(keyOf(d), data[i])
			errs[i] = s.upload(ctx, l, keyOf(d), d.Size, bytesAt(object), int64(len(object)))
		})
	}
	group.Wait()
	for i, j := range twin {
		errs[i] = errs[j]
		if errs[i] != nil {
			errs[i] = &blob.Error{Op: "put", Digest: ds[i], Err: errs[i]}
		}
	}
	return errs
}

func (s *Store) mayPut(l *life, d digest.Digest, data []byte) error {
	if err := l.mayCreate(d); err != nil {
		return err
	}
	if got := d.Function.Of(data); got != d && !mutant.Immutable {
		return blob.Mismatch(d, got)
	}
	return nil
}
