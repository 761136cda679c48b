package tier

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// known are the errors that the contract has. Whatever else the far store says is about the way there.
var known = []error{
	blob.ErrNotFound, blob.ErrMismatch, blob.ErrFull, blob.ErrTooLarge, blob.ErrAborted, blob.ErrCorrupt, blob.ErrInvalid, blob.ErrClosed,
	blob.ErrUnavailable,
}

// unavailable makes blob.ErrUnavailable of what says nothing about the blob or record. The callers' own contexts' ends
// stay what they are.
func unavailable(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, ok := errors.AsType[*blob.MissingError](err); ok {
		return err
	}
	for _, k := range known {
		if errors.Is(err, k) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", blob.ErrUnavailable, err)
}

// A farStore is the far store with errors that front ends know.
type farStore struct{ Far }

func (f farStore) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	missing, err := f.Far.Missing(ctx, ds)
	return missing, unavailable(ctx, err)
}

func (f farStore) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := f.Far.Open(ctx, d)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return farReader{r}, nil
}

type farReader struct{ blob.Reader }

func (r farReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	if n == len(p) || err == nil || off+int64(n) == r.Size() {
		return n, err // io.EOF among them
	}
	return n, unavailable(context.Background(), err)
}

func (f farStore) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	w, err := f.Far.Create(ctx, d)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return farWriter{w}, nil
}

type farWriter struct{ blob.Writer }

func (w farWriter) Commit() error { return unavailable(context.Background(), w.Writer.Commit()) }

func (f farStore) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := f.Far.GetAll(ctx, ds)
	for i := range errs {
		errs[i] = unavailable(ctx, errs[i])
	}
	return data, errs
}

func (f farStore) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := f.Far.PutAll(ctx, ds, data)
	for i := range errs {
		errs[i] = unavailable(ctx, errs[i])
	}
	return errs
}

func (f farStore) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	rec, err := f.Far.Get(ctx, key)
	return rec, unavailable(ctx, err)
}

func (f farStore) Put(ctx context.Context, key [32]byte, value []byte) error {
	return unavailable(ctx, f.Far.Put(ctx, key, value))
}

func (f farStore) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	return unavailable(ctx, f.Far.Drop(ctx, key, incarnation))
}

func (f farStore) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	return unavailable(ctx, f.Far.Keep(ctx, name, value, blobs))
}

func (f farStore) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	return unavailable(ctx, f.Far.KeepIf(ctx, name, was, value, blobs))
}

func (f farStore) ReleaseIf(ctx context.Context, was blob.Root) error {
	return unavailable(ctx, f.Far.ReleaseIf(ctx, was))
}

func (f farStore) Release(ctx context.Context, name string) error {
	return unavailable(ctx, f.Far.Release(ctx, name))
}

func (f farStore) Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error] {
	return func(yield func(blob.Root, error) bool) {
		for root, err := range f.Far.Kept(ctx, prefix) {
			if !yield(root, unavailable(ctx, err)) {
				return
			}
		}
	}
}
