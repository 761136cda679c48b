package s3

import (
	"bytes"
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

// Keep implements blob.Keeper.
func (s *Store) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	return s.keepRoot(ctx, name, value, blobs, nil)
}

// KeepIf implements blob.Keeper. A name that it begins is best not released: what says so stays in the bucket for ever.
func (s *Store) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	return s.keepRoot(ctx, name, value, blobs, is(name, was))
}

// A condition says whether a root may be written above the one that is there; nil is above any. None is nil.
type condition func(now *blob.Root) error

// is wants a root to be what it was.
func is(name string, was *blob.Root) condition {
	return func(now *blob.Root) error {
		if !was.Is(now) {
			return fmt.Errorf("root %q: %w", name, blob.ErrChanged)
		}
		return nil
	}
}

// keepRoot keeps a root if it may. All that is held is pinned from before the root is written until it is there, or can't
// come any more.
func (s *Store) keepRoot(ctx context.Context, name string, value []byte, blobs digest.Set, may condition) error {
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
	if err := s.writeRoot(ctx, l, name, r.Encode(), may); errors.Is(err, blob.ErrChanged) {
		release()
		return err
	} else if err != nil {
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

// writeRoot writes a root above all of that name, if it may. Of several who write above the same one, on whichever server,
// one does: the next object's name is made of that one's, and created once. Whether this session is believed to live is
// asked after the requests' time was taken: so they come to nothing if the process is stopped here until others have given
// it up.
func (s *Store) writeRoot(ctx context.Context, l *life, name string, value []byte, may condition) error {
	if !mutant.RootUnfenced {
		ctx = bucket.WithIssued(ctx, time.Now())
	}
	if err := l.yes(); err != nil {
		return err
	}
	object := s.packer.seal(rootKey(name), value)
	for tried := ""; ; {
		newest, err := s.newestRoot(ctx, rootPrefix(name))
		if err == nil && may != nil {
			err = s.mayFollow(ctx, newest, may)
		}
		if err != nil {
			return err
		}
		next := l.nextRoot(name, newest, may)
		if mutant.RootOvertaken {
			_, n, _, _ := splitRoot(newest)
			next = rootName(name, l.stamp(n), l.id)
		}
		created, err := s.create(ctx, next, object)
		switch {
		case err != nil:
			return err
		case created:
			return l.yes()
		case next == tried:
			return fmt.Errorf("%w: %s is there and not listed", blob.ErrUnavailable, next)
		}
		tried = next
	}
}

// create creates an object, and reports whether it is there: one with other bytes was created by somebody else. One with
// the same bytes may be of an earlier try of this request, whose answer was lost.
func (s *Store) create(ctx context.Context, key string, object []byte) (bool, error) {
	_, err := s.bucket.Put(ctx, key, bytesAt(object), int64(len(object)), bucket.Condition{Absent: true})
	if !errors.Is(err, bucket.ErrCondition) {
		return err == nil, err
	}
	b, _, err := s.bucket.Get(ctx, key, 0, -1)
	if errors.Is(err, bucket.ErrNotFound) {
		return false, nil
	}
	return bytes.Equal(b, object), err
}

// mayFollow asks whether a root may be written above the one of that key.
func (s *Store) mayFollow(ctx context.Context, key string, may condition) error {
	if key == "" {
		return may(nil)
	}
	k := s.knownKept(ctx, key)
	if k.err != nil {
		return k.err
	}
	if k.none {
		return may(nil)
	}
	return may(&k.Root)
}

// nextRoot returns the key of the root that comes after that of a key, "" for none. A chain has the name of the session
// that began it, so that none is there twice. One that may only be begun where nothing is has the same name whoever
// begins it, and is there as long as the bucket.
func (l *life) nextRoot(name, newest string, may condition) string {
	_, n, chain, ok := splitRoot(newest)
	switch {
	case ok:
		return rootName(name, n+1, chain)
	case may != nil:
		return rootName(name, 1, firstChain)
	}
	return rootName(name, l.stamp(0), l.id)
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
	return s.writeRoot(ctx, l, name, blob.EncodeReleased(name), nil)
}

// ReleaseIf implements blob.Keeper.
func (s *Store) ReleaseIf(ctx context.Context, was blob.Root) error {
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	return s.writeRoot(ctx, l, was.Name, blob.EncodeReleased(was.Name), is(was.Name, &was))
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
		for i, next := range ahead(newest, func(key string) kept { return s.knownKept(ctx, key) }) {
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
