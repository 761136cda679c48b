package segment

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// What the mistakes of internal/mutant need beside a line where they are made. In an ordinary build
// nothing here is called.

// openStale is the mistakes PlaceFirst and StaleHandle: it looks up where a record lies, and acts on that
// when it may mean nothing any more.
func (r *Ring) openStale(k ledger.Key, size int64) (*reader, error) {
	p := r.placeNow(k)
	if p == 0 {
		return nil, blob.ErrNotFound
	}
	generation, off := splitPlace(p)
	sim.Point("looked up")
	attempts := 1
	if mutant.StaleHandle {
		attempts = 3
	}
	for range attempts {
		if s := (*r.table.Load())[generation]; s != nil && s.tryRef() {
			rd := &reader{key: k, seg: s, off: off + headerSize}
			var ok bool
			if rd.pin, ok = r.ledger.Pin(k, size, func(_ ledger.Place, n int64) { rd.size = n }); ok {
				return rd, nil
			}
			s.unref()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("segment %d: %w", generation, fs.ErrNotExist)
}

// placeNow returns where k lies at this moment, which need not be true for a moment longer.
func (r *Ring) placeNow(k ledger.Key) (p ledger.Place) {
	if pin, ok := r.ledger.Pin(k, digest.AnySize, func(now ledger.Place, _ int64) { p = now }); ok {
		pin.Release()
	}
	return p
}

// forget is the mistake Poisoned: it takes away what lies under a key, whoever stored it.
func (r *Ring) forget(k ledger.Key) { r.ledger.Drop(k, r.placeNow(k)) }

// writeHeader is the mistake HeaderLate: the header comes after the bytes.
func (e *extent) writeHeader() {
	_ = e.writeAt(e.seg.appendHeader(nil, header{key: e.key, size: e.size, moved: e.moved}, e.off), -headerSize)
}

// markLate is the mistake MarkLate: the cleaner may have been here.
func (r *Ring) markLate() {
	sim.Point("mark")
	_ = r.mark(context.Background())
}
