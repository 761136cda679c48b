package asset

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/action"
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

func (p pointed) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	sim.Point("drop record")
	return p.Store.Drop(ctx, key, incarnation)
}

// TestSeededComplete fetches and pushes while the store evicts what it may. What is served, and what is
// acknowledged, can be read whole until the lease ends; what was pushed whole is not lost to somebody who
// found what was there before incomplete.
func TestSeededComplete(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		const lease = time.Hour
		store := pointed{model.New(lease), time.Duration(s.Rand.IntN(2)) * 2 * lease}
		x := New(store, store)
		n := aName()
		n.Kind = Directory
		uris := []string{"urn:a", "urn:b"}
		upload := func() (Asset, []digest.Digest) {
			root, below := tree(t, store.Store, "root")
			referred := put(t, store.Store, "a reference")
			a := Asset{Digest: root, References: action.References{Function: digest.SHA256, Blobs: []digest.Digest{referred}}}
			return a, slices.Concat([]digest.Digest{root, referred}, below)
		}
		a, all := upload()
		patient := s.Rand.IntN(2) == 0
		whole := func(why string) {
			time.Sleep(lease - time.Second)
			for _, d := range all {
				if r, err := store.Store.Open(context.Background(), d); err != nil {
					t.Errorf("Complete: %s, but %v", why, err)
				} else {
					r.Close()
				}
			}
		}
		push(t, x, n, a, uris...)
		time.Sleep(2 * lease)
		for _, who := range []string{"fetcher 1", "fetcher 2"} {
			s.Go(who, func() {
				if _, _, err := x.Fetch(context.Background(), n, uris, time.Time{}); err == nil {
					whole(who + " was served")
				} else if !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s: Fetch = %v", who, err)
				}
			})
		}
		s.Go("pusher", func() {
			upload()
			push(t, x, n, a, uris...)
			if patient {
				whole("a push was acknowledged")
				return
			}
			for range 2 {
				if _, _, err := x.Fetch(context.Background(), n, uris, time.Time{}); err != nil {
					t.Errorf("Fetch right after the push = %v", err)
				}
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
