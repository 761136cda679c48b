package blob

import (
	"context"
	"fmt"
	"io"

	"github.com/sarsen-build/sarsen/digest"
)

// Batches returns s itself if it moves batches, else s with batches made of single calls.
func Batches(s Store) Batcher {
	if b, ok := s.(Batcher); ok {
		return b
	}
	return oneByOne{s}
}

type oneByOne struct{ Store }

func (o oneByOne) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	for i, d := range ds {
		data[i], errs[i] = Get(ctx, o.Store, d)
	}
	return data, errs
}

func (o oneByOne) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	for i, d := range ds {
		errs[i] = Put(ctx, o.Store, d, data[i])
	}
	return errs
}

// An Opener is the part of a Store that reads.
type Opener interface {
	Open(ctx context.Context, d digest.Digest) (Reader, error)
}

// Get returns the blob whole. The caller bounds d.Size: the memory is taken at once.
func Get(ctx context.Context, s Opener, d digest.Digest) ([]byte, error) {
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, r.Size())
	if n, err := r.ReadAt(data, 0); n < len(data) {
		if err == nil || err == io.EOF {
			err = fmt.Errorf("%w: %d bytes where there should be %d", ErrCorrupt, n, len(data))
		}
		return nil, &Error{"read", d, err}
	}
	return data, nil
}

// Put stores data as d.
func Put(ctx context.Context, s Store, d digest.Digest, data []byte) error {
	w, err := s.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}
