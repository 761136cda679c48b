package hitratio

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// A store is the real ring, in memory, as a policy. Between requests time passes, so that leases end.
type store struct {
	t       *testing.T
	ring    *segment.Ring
	digests map[uint32]digest.Digest
	refused int
}

// pause is the time between two requests. A lease of a second covers twenty of them.
const pause = 50 * time.Millisecond

func (s *store) Get(key uint32, size int64) bool {
	time.Sleep(pause)
	ctx := context.Background()
	d, ok := s.digests[key]
	if !ok {
		d = digest.SHA256.Of(content(key, size))
		s.digests[key] = d
	}
	missing, err := s.ring.Missing(ctx, digest.SetOf(d))
	if err != nil {
		s.t.Fatalf("Missing = %v", err)
	}
	if missing.Len() == 0 {
		rd, err := s.ring.Open(ctx, d)
		if err != nil {
			s.t.Fatalf("Open after a yes = %v", err)
		}
		if err := rd.Close(); err != nil {
			s.t.Fatalf("Close = %v", err)
		}
		return true
	}
	switch err := blob.Put(ctx, s.ring, d, content(key, size)); {
	case errors.Is(err, blob.ErrFull):
		s.refused++
	case err != nil:
		s.t.Fatalf("Put = %v", err)
	}
	return false
}

// content is what object key holds.
func content(key uint32, size int64) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, key)
	return b
}

// TestStore shows the real ring beside the simulated policies, over a trace small enough for it.
func TestStore(t *testing.T) {
	const size = 32 << 10
	const capacity = 2 * segment.MinSize
	w := zipf(scale{objects: 16_000, requests: 30_000}, 0.9, 10)
	w.resize(false, 16_000)
	for key := range w.sizes[1:] {
		w.sizes[key+1] = size
	}
	var rows []score
	for _, c := range rivals {
		rows = append(rows, run(c.make(w, capacity), w))
		t.Logf("%-8s hits %.1f %%", c.name, rows[len(rows)-1].hits)
	}
	synctest.Test(t, func(t *testing.T) {
		ring, err := segment.Open(t.Context(), new(vfs.Mem), "ring", segment.Options{
			MaxSize: capacity, Lease: time.Second, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &store{t: t, ring: ring, digests: map[uint32]digest.Digest{}}
		got := run(s, w)
		stats := ring.Stats()
		t.Logf("%-8s hits %.1f %%; %d segments, %d refused", "Sarsen", got.hits, stats.Segments, s.refused)
		// Of a ring this small, the cleaner's room and the segment ahead are a fourteenth.
		if lru := rows[0].hits; got.hits < lru-1 {
			t.Errorf("the store hits %.1f %%, LRU %.1f %%", got.hits, lru)
		}
		if s.refused > 0 {
			t.Errorf("%d puts were refused, though next to nothing is leased", s.refused)
		}
		if stats.EvictedSegments == 0 {
			t.Error("nothing was evicted, so nothing was tested")
		}
		if err := ring.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}
