package segment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// mayHold refuses a record that would need a segment of its own: those leave out of order, and the
// order of segments is what keeps superseded records dead.
func (r *Ring) mayHold(value []byte) error {
	if limit := r.segmentSize / 4; span(int64(len(value))) > limit {
		return fmt.Errorf("%w: a record of %d bytes, at most %d are taken", blob.ErrTooLarge, len(value), limit-headerSize)
	}
	return nil
}

func recordKey(key [32]byte) ledger.Key { return ledger.Key{Kind: ledger.Record, Hash: key} }

// Get implements blob.Records.
func (r *Ring) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	rec, err := r.readRecord(key)
	if err != nil || mutant.RecordUnleased {
		return rec, err
	}
	if err := r.leaseRecord(recordKey(key)); err != nil {
		return blob.Record{}, err
	}
	return rec, nil
}

// readRecord is Get without a lease.
func (r *Ring) readRecord(key [32]byte) (blob.Record, error) {
	rd, err := r.open(recordKey(key), -1)
	if err != nil {
		return blob.Record{}, err
	}
	defer rd.Close()
	value, err := rd.all()
	return blob.Record{Value: value, Incarnation: uint64(placeOf(rd.seg.generation, rd.off-headerSize))}, err
}

// leaseRecord leases what k is now, which may have been superseded since the caller read it.
func (r *Ring) leaseRecord(k ledger.Key) error {
	_, due := r.ledger.Lease(k, -1)
	err := r.writeDownOne(k, due)
	if err == nil || errors.Is(err, blob.ErrClosed) {
		return err
	}
	r.log.Error("a record is called missing that is there", slog.Any("error", err))
	return fmt.Errorf("%w: its lease can't be written down: %w", blob.ErrNotFound, err)
}

// Put implements blob.Records.
func (r *Ring) Put(ctx context.Context, key [32]byte, value []byte) error {
	if err := r.mayHold(value); err != nil {
		return err
	}
	return r.revise(recordKey(key), &revision{value: value, by: putter})
}

// A revision is one incarnation of a record or a root on its way. What is to be done in order with other updates is
// done while the slot is held: before anything, and then after it is published or when it failed.
type revision struct {
	value                 []byte
	by                    asker
	may                   func() error // asked before anything, if it is not nil
	before, after, failed func()

	released bool // a root that is none any more
	appended bool // even if it fails, a restart may find it
}

// revise tries until there is room, or can be none.
func (r *Ring) revise(k ledger.Key, u *revision) error {
	for {
		err := r.put(k, u)
		if errors.Is(err, errNoRoom) && u.by == mover {
			return r.full("there is not even room to give some back")
		}
		if errors.Is(err, errNoRoom) {
			// Not while holding the slot, for which the cleaner may wait.
			err = r.append(&request{key: k, size: int64(len(u.value)), by: waiter})
			if err == nil {
				continue
			}
		}
		// Only a ring that turned round within this call gives the other reason to try again.
		if !errors.Is(err, errVictim) {
			return err
		}
	}
}

func (r *Ring) put(k ledger.Key, u *revision) error {
	defer r.hold(k)()
	if u.may != nil {
		if err := u.may(); err != nil {
			return err
		}
	}
	if u.before != nil {
		u.before()
	}
	due, err := r.putSynced(k, u)
	switch {
	case err != nil && u.failed != nil:
		u.failed()
	case err == nil && u.after != nil:
		u.after()
	}
	if err != nil || k.Kind == ledger.Root { // which needs no lease to stay
		return err
	}
	return r.writeDownOne(k, due)
}

// putSynced appends one incarnation, syncs it and publishes it.
func (r *Ring) putSynced(k ledger.Key, u *revision) (ledger.Quarter, error) {
	req := &request{key: k, size: int64(len(u.value)), data: u.value, by: u.by}
	if len(u.value) == 0 {
		req.data = []byte{} // nil would mean that the bytes come later
	}
	if err := r.append(req); err != nil {
		return 0, err
	}
	e := req.extent
	u.appended = true
	sim.Point("record appended")
	if r.durability != None && !mutant.ResultUnsynced {
		if err := r.sync(); err != nil {
			e.abandon()
			return 0, err
		}
	}
	sim.Point("publish record")
	outcome, due := r.ledger.Supersede(k, e.size, e.place(), e.admit)
	if outcome == ledger.Refused {
		e.abandon()
		return 0, e.refusal()
	}
	e.seg.unref()
	return due, nil
}

// Drop implements blob.Records.
func (r *Ring) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	r.ledger.Drop(recordKey(key), ledger.Place(incarnation))
	return nil
}

// hold takes the slot of a record's key and returns what gives it back. Whoever holds it is the only
// one to change that record, from extent to publication, so place in the ring is order.
func (r *Ring) hold(k ledger.Key) (release func()) {
	if mutant.NoSlot {
		return func() {}
	}
	slot := &r.slots[slotOf(k)]
	slot.take()
	return slot.drop
}

// A slot is a channel that is made when it is needed first, since most never are.
type slot struct{ c atomic.Pointer[chan struct{}] }

func (s *slot) take() {
	if s.c.Load() == nil {
		c := make(chan struct{}, 1)
		s.c.CompareAndSwap(nil, &c)
	}
	*s.c.Load() <- struct{}{}
}

func (s *slot) drop() { <-*s.c.Load() }

func slotOf(k ledger.Key) int { return int(k.Hash[0])<<8&(slotCount-1) | int(k.Hash[1]) }
