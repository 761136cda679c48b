package segment

import (
	"context"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

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
	rd, err := r.open(recordKey(key), -1)
	if err != nil {
		return blob.Record{}, err
	}
	defer rd.Close()
	// The header comes too, for its checksum: no hash in the name vouches for a record's bytes.
	off := rd.off - headerSize
	b := make([]byte, headerSize+rd.size)
	if _, err := rd.seg.file.ReadAt(b, off); err != nil {
		return blob.Record{}, fmt.Errorf("read segment %s: %w", rd.seg.name, unexpected(err))
	}
	h, err := rd.seg.decodeHeader(b[:headerSize], off)
	if err != nil || h.bodySum != xxhash.Sum64(b[headerSize:]) {
		return blob.Record{}, fmt.Errorf("%w: record at %d of segment %s", blob.ErrCorrupt, off, rd.seg.name)
	}
	return blob.Record{Value: b[headerSize:], Incarnation: uint64(placeOf(rd.seg.generation, off))}, nil
}

// Put implements blob.Records.
func (r *Ring) Put(ctx context.Context, key [32]byte, value []byte) error {
	if err := r.mayHold(value); err != nil {
		return err
	}
	k := recordKey(key)
	defer r.hold(k)()
	for {
		// Only a ring that turned round within this call gets here again.
		if err := r.put(k, value); !errors.Is(err, errVictim) {
			return err
		}
	}
}

// put appends one incarnation, syncs it and publishes it. The caller holds the slot of k.
func (r *Ring) put(k ledger.Key, value []byte) error {
	req := &request{key: k, size: int64(len(value)), sum: xxhash.Sum64(value), data: value}
	if len(value) == 0 {
		req.data = []byte{} // nil would mean that the bytes come later
	}
	if err := r.append(req); err != nil {
		return err
	}
	e := req.extent
	sim.Point("record appended")
	if err := r.sync(); err != nil {
		e.abandon()
		return err
	}
	sim.Point("publish record")
	if r.ledger.Supersede(k, e.size, e.place(), e.admitted) == ledger.Refused {
		e.abandon()
		return e.refusal()
	}
	e.seg.unref()
	return nil
}

// Drop implements blob.Records.
func (r *Ring) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	r.ledger.Drop(recordKey(key), ledger.Place(incarnation))
	return nil
}

// hold takes the slot of a record's key and returns what gives it back. Whoever holds it is the only
// one to change that record, from extent to publication, so place in the ring is order.
func (r *Ring) hold(k ledger.Key) (release func()) {
	slot := r.slots[int(k.Hash[0])<<8&(slotCount-1)|int(k.Hash[1])]
	if mutant.NoSlot {
		return func() {}
	}
	slot <- true
	return func() { <-slot }
}
