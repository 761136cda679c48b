package s3

import (
	"context"
	"errors"
	"fmt"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A held incarnation can't be condemned, though the ledger may come to name another copy of it.
type held struct {
	incarnation
	life  *life
	place ledger.Place
	pin   ledger.Pin
}

// hold pins a key and returns where it lies. With Lookup it looks in the bucket for a blob that the ledger does not know.
func (s *Store) hold(ctx context.Context, l *life, k ledger.Key, size int64) (h held, err error) {
	h = held{life: l}
	if h.tryPin(k, size) {
		return h, nil
	}
	if !s.lookup || k.Kind == ledger.Record {
		return h, blob.ErrNotFound
	}
	for {
		before := l.changeCount()
		undecided, err := s.find(ctx, l, k)
		if err != nil {
			return h, err
		}
		sim.Point("looked")
		switch {
		case h.tryPin(k, size):
			return h, nil
		case l.changeCount() != before: // what was found may have been let go of, or been free to be adopted, since
		case undecided && !mutant.UndecidedGone:
			return h, errUndecided
		default:
			return h, blob.ErrNotFound
		}
	}
}

// errUndecided is the answer for a blob that this session let go of while others are still asked. One of them may have
// promised or kept it. Of a record that is a miss, which does no harm.
var errUndecided = fmt.Errorf("%w: a collection is about to decide whether it goes", blob.ErrUnavailable)

// tryPin pins what the ledger names for a key, if it names something.
func (h *held) tryPin(k ledger.Key, size int64) (ok bool) {
	var have int64
	h.pin, ok = h.life.ledger.Pin(k, size, func(p ledger.Place, n int64) { h.place, have = p, n })
	if ok {
		h.incarnation = h.life.ids.at(k, have, h.place)
	}
	return ok
}

// again looks whether the ledger names another copy than the one that was held, which is gone.
func (h *held) again() bool {
	next := held{life: h.life}
	if !next.tryPin(h.key, digest.AnySize) {
		return false
	}
	defer next.pin.Release()
	if next.place == h.place {
		return false
	}
	h.incarnation, h.place = next.incarnation, next.place
	return true
}

// get reads a part of what is held. An object that was a second copy may be gone for the one that stays.
func (s *Store) get(ctx context.Context, h *held, off, n int64) ([]byte, error) {
	for {
		b, err := s.receive(ctx, h.name(), off, n)
		if err == nil || !errors.Is(err, bucket.ErrNotFound) {
			return b, err
		}
		if !h.again() {
			return nil, s.drop(h, err)
		}
	}
}

// receive reads from an object, when its turn has come.
func (s *Store) receive(ctx context.Context, name string, off, n int64) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.slots }()
	b, _, err := s.bucket.Get(ctx, name, off, n)
	s.counts.downloads.Add(1)
	s.counts.bytesDown.Add(int64(len(b)))
	return b, err
}

// drop forgets an object that is gone, or whose bytes do not verify, which nobody but a meddler can bring about. It is
// then not found, so that it is uploaded again.
func (s *Store) drop(h *held, cause error) error {
	// COMMIT: the blob is absent from here on.
	if h.life.ledger.Drop(h.key, h.place) {
		s.counts.corrupt.Add(1)
		s.log.Error("an object is damaged or gone and was dropped", "key", h.name(), "error", cause)
	}
	if errors.Is(cause, blob.ErrCorrupt) || errors.Is(cause, blob.ErrMismatch) {
		h.life.spoil(h.name())
	}
	return fmt.Errorf("%w: %w: %w", blob.ErrNotFound, errDropped, cause)
}

var errDropped = errors.New("its object was damaged or removed")

// copies is how many copies of one blob are tried, of which all but the last are damaged.
const copies = 3

// undamaged calls do, and again when that found an object damaged that the bucket has another copy of.
func (s *Store) undamaged(ctx context.Context, l *life, k ledger.Key, do func() error) (err error) {
	for range copies {
		if err = do(); !errors.Is(err, errDropped) {
			return err
		}
		if _, failed := s.find(ctx, l, k); failed != nil {
			l.lost.Store(true) // so that another copy is found when the bucket can be listed
			return failed
		}
	}
	return err
}

// tries is how often bytes are read that come damaged: that may have happened on the way, or in a cache before the bucket.
const tries = 2

// all reads what is held whole, and once more if it came damaged or verify refuses it.
func (s *Store) all(ctx context.Context, h *held, verify func(value []byte) error) (value []byte, err error) {
	for range tries {
		var b []byte
		if b, err = s.get(ctx, h, 0, -1); err != nil {
			return nil, err
		}
		if value, err = open(h.key, b); err == nil {
			err = verify(value)
		}
		if err == nil {
			return value, nil
		}
	}
	return nil, s.drop(h, err)
}
