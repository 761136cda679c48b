package s3

import (
	"context"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// Get implements blob.Records.
func (s *Store) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	l, err := s.enter()
	if err != nil {
		return blob.Record{}, err
	}
	defer s.calls.Leave()
	h, err := s.hold(ctx, l, recordKey(key), -1)
	if err != nil {
		return blob.Record{}, err
	}
	defer h.pin.Release()
	value, err := s.all(ctx, &h, func([]byte) error { return nil })
	if err != nil {
		return blob.Record{}, err
	}
	if !mutant.RecordUnleased {
		l.ledger.Lease(recordKey(key), -1)
	}
	return blob.Record{Value: value, Incarnation: uint64(h.place)}, l.yes()
}

// Put implements blob.Records. Of puts in several servers the one stands whose server's clock was ahead, or that knew
// of the other.
func (s *Store) Put(ctx context.Context, key [32]byte, value []byte) error {
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	k := recordKey(key)
	release, err := l.slot(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	i, p, err := l.claimRecord(k, l.known(k))
	if err != nil {
		return err
	}
	defer l.settle(i)
	object := s.packer.seal(k, value)
	if err := s.send(ctx, i.name(), bytesAt(object), int64(len(object))); err != nil {
		return err
	}
	sim.Point("publish record")
	l.ledger.Supersede(k, int64(len(value)), p, always)
	return l.yes()
}

// known returns the number of the incarnation that the ledger names, or 0.
func (l *life) known(k ledger.Key) uint64 {
	h := held{life: l}
	if !h.tryPin(k, -1) {
		return 0
	}
	h.pin.Release()
	return h.n
}

// slot waits until nobody else in this process changes a record, and returns what ends that.
func (l *life) slot(ctx context.Context, k ledger.Key) (release func(), err error) {
	for {
		f, leads := l.lead(k)
		if leads {
			return func() { l.land(k, f) }, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Drop implements blob.Records. The object stays for other servers, to which it may mean more; a later listing finds it
// again.
func (s *Store) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	l, err := s.enter()
	if err != nil {
		return err
	}
	defer s.calls.Leave()
	l.ledger.Drop(recordKey(key), ledger.Place(incarnation))
	return nil
}
