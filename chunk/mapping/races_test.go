package mapping

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// pointed is a store with a point before each call, and records that take pause to write.
type pointed struct {
	*model.Store
	pause time.Duration
}

func (p pointed) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	sim.Point("missing")
	return p.Store.Missing(ctx, ds)
}

func (p pointed) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	sim.Point("open")
	return p.Store.Open(ctx, d)
}

func (p pointed) Put(ctx context.Context, key [32]byte, value []byte) error {
	sim.Point("put record")
	time.Sleep(p.pause)
	return p.Store.Put(ctx, key, value)
}

// TestSeededComplete splits and splices one blob while the store evicts what it may. What was answered with yes, the
// blob and each chunk, can be read until the lease ends.
func TestSeededComplete(t *testing.T) {
	data := random(10_000, 9)
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		const lease = time.Hour
		store := pointed{model.New(lease), time.Duration(s.Rand.IntN(2)) * 2 * lease}
		x := New(store, store, small(t))
		d := put(t, store.Store, data)
		whole := func(why string, m Mapping) {
			time.Sleep(lease - time.Second)
			var all []byte
			for _, c := range append([]digest.Digest{d}, m.Chunks...) {
				b, err := blob.Get(context.Background(), store.Store, c)
				if err != nil {
					t.Errorf("Complete: %s, but %v", why, err)
				}
				all = append(all, b...)
			}
			want := bytes.Clone(data)
			if len(m.Chunks) > 0 {
				want = append(want, data...)
			}
			if !bytes.Equal(all, want) {
				t.Errorf("%s: the blob and its chunks have %d bytes, want %d", why, len(all), len(want))
			}
		}
		for _, who := range []string{"splitter 1", "splitter 2"} {
			s.Go(who, func() {
				time.Sleep(time.Duration(s.Rand.IntN(3)) * lease)
				m, err := x.Split(context.Background(), d)
				if err == nil {
					whole(who+" was answered", m)
				} else if !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s: Split = %v", who, err)
				}
			})
		}
		s.Go("splicer", func() {
			time.Sleep(time.Duration(s.Rand.IntN(3)) * lease)
			m := pieces(t, store.Store, data, 3)
			err := x.Splice(context.Background(), d, m)
			if err == nil {
				whole("a splice was acknowledged", Mapping{}) // another mapping may have been first
			} else if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrAborted) {
				t.Errorf("Splice = %v", err)
			}
		})
		s.Go("evictor", func() {
			for range 12 {
				store.Evict()
				time.Sleep(lease / 2)
			}
		})
		s.Run()
		if pins := store.Pins(); pins != 0 {
			t.Errorf("%d pins left", pins)
		}
	})
}
