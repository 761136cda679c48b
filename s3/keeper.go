package s3

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// Keep implements blob.Keeper. All that is held is pinned from before the root is written until it is there, or can't
// come any more.
func (s *Store) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	r, list, err := blob.NewRoot(name, value, blobs)
	if err != nil {
		return err
	}
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	ds := blobs.List()
	if list != nil {
		object := s.packer.seal(keyOf(r.List), list)
		if err := s.upload(ctx, l, keyOf(r.List), r.List.Size, bytesAt(object), int64(len(object))); err != nil {
			return fmt.Errorf("keep %q: its list: %w", name, err)
		}
		ds = append(slices.Clone(ds), r.List)
	}
	release, err := s.pinAll(ctx, l, ds)
	if err != nil {
		return err
	}
	sim.Point("pinned all")
	if err := s.writeRoot(ctx, l, name, r.Encode()); err != nil {
		// It may come yet. Until it can't, what it names must stay.
		s.beats.Go(func() {
			late := time.NewTimer(bucket.MaxAge)
			defer late.Stop()
			select {
			case <-late.C:
			case <-s.ctx.Done():
			}
			release()
		})
		return fmt.Errorf("keep %q: %w", name, err)
	}
	// From here on a lease tells the collector's questions that the root is newer than the roots that it has read.
	for _, d := range ds {
		l.ledger.Lease(keyOf(d), d.Size)
	}
	release()
	return l.yes()
}

// pinAll pins blobs, all or none.
func (s *Store) pinAll(ctx context.Context, l *life, ds []digest.Digest) (release func(), err error) {
	if mutant.KeepUnpinned {
		return func() {}, nil
	}
	pins := make([]ledger.Pin, 0, len(ds))
	release = func() {
		for _, p := range pins {
			p.Release()
		}
	}
	var missing []digest.Digest
	for _, d := range ds {
		if d.IsEmpty() {
			continue
		}
		h, err := s.hold(ctx, l, keyOf(d), d.Size)
		switch {
		case err == nil:
			pins = append(pins, h.pin)
		case errors.Is(err, blob.ErrNotFound):
			missing = append(missing, d)
		default:
			release()
			return nil, err
		}
	}
	if len(missing) > 0 {
		release()
		return nil, &blob.MissingError{Blobs: missing}
	}
	return release, nil
}

// writeRoot writes a root above all of that name. Whether this session is believed to live is asked after the requests'
// time was taken: so they come to nothing if the process is stopped here until others have given it up.
func (s *Store) writeRoot(ctx context.Context, l *life, name string, value []byte) error {
	if !mutant.RootUnfenced {
		ctx = bucket.WithIssued(ctx, time.Now())
	}
	if err := l.yes(); err != nil {
		return err
	}
	newest := uint64(0)
	if _, err := bucket.All(ctx, s.bucket, rootPrefix(name), func(page []bucket.Object) error {
		for _, o := range page {
			if _, n, ok := splitRoot(o.Key); ok {
				newest = max(newest, n)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	object := s.packer.seal(rootKey(name), value)
	if _, err := s.bucket.Put(ctx, rootName(name, l.stamp(newest), l.id), bytesAt(object), int64(len(object)), bucket.Condition{}); err != nil {
		return err
	}
	return l.yes()
}

// Release implements blob.Keeper.
func (s *Store) Release(ctx context.Context, name string) error {
	if name == "" || len(name) > blob.MaxRootName {
		return fmt.Errorf("%w: a root's name has 1 to %d bytes", blob.ErrInvalid, blob.MaxRootName)
	}
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	p, err := s.bucket.List(ctx, rootPrefix(name), "")
	if err != nil || len(p.Objects) == 0 {
		return err
	}
	return s.writeRoot(ctx, l, name, blob.EncodeReleased(name))
}

// Kept implements blob.Keeper.
func (s *Store) Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error] {
	return func(yield func(blob.Root, error) bool) {
		escaped, _ := escapeRoot(prefix)
		newest, err := s.newestRoots(ctx, roots+escaped)
		if err != nil {
			yield(blob.Root{}, err)
			return
		}
		names := make(map[string]string, len(newest))
		for _, key := range newest {
			if names[key], err = s.nameOfRoot(ctx, key); err != nil {
				yield(blob.Root{}, err)
				return
			}
		}
		slices.SortFunc(newest, func(a, b string) int { return strings.Compare(names[a], names[b]) })
		for i, next := range ahead(newest, func(key string) kept { return s.readKept(ctx, key) }) {
			got := next()
			if got.err != nil {
				yield(blob.Root{}, got.err)
				return
			}
			if !got.none && strings.HasPrefix(names[newest[i]], prefix) && !yield(got.Root, nil) {
				return
			}
		}
	}
}
