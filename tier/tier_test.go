package tier_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/tier"
)

// fixture is a near store before a far one. What is evicted is evicted in one of them, or in both.
func fixture(sizes []int, evict func(near, far *model.Store), o tier.Options) func(*testing.T) storetest.Fixture {
	return func(t *testing.T) storetest.Fixture {
		near, far := model.New(time.Hour), model.New(time.Hour)
		s := tier.New(near, far, o)
		return storetest.Fixture{
			Store: s,
			Lease: time.Hour,
			Sizes: sizes,
			Evict: func() { evict(near, far) },
			Leaks: func() error {
				if err := s.Close(context.Background()); err != nil {
					return err
				}
				if n := near.Pins() + far.Pins(); n > 0 {
					return fmt.Errorf("%d pins are held", n)
				}
				return nil
			},
			Close: func() {},
		}
	}
}

var both = func(near, far *model.Store) { near.Evict(); far.Evict() }

// Sizes of blobs that go in a batch, in one piece and in three.
var (
	all  = []int{1, 5000, 300 << 10, 700 << 10}
	some = []int{100, 300 << 10}
)

func TestStore(t *testing.T) {
	storetest.Run(t, fixture(all, both, tier.Options{}))
}

func TestWriteBack(t *testing.T) {
	storetest.Run(t, fixture(all, both, tier.Options{WriteBack: true, Queue: 1000}))
}

func TestSeeded(t *testing.T) {
	t.Run("through", func(t *testing.T) { storetest.Seeded(t, fixture(some, both, tier.Options{Uploads: 2})) })
	t.Run("back", func(t *testing.T) {
		nearOnly := func(near, _ *model.Store) { near.Evict() }
		storetest.Seeded(t, fixture(some, nearOnly, tier.Options{Uploads: 2, WriteBack: true}))
	})
}

func TestKeeper(t *testing.T) {
	t.Run("through", func(t *testing.T) { storetest.Keeper(t, fixture(all, both, tier.Options{})) })
	t.Run("back", func(t *testing.T) { storetest.Keeper(t, fixture(all, both, tier.Options{WriteBack: true})) })
}

func TestSeededKeeper(t *testing.T) {
	storetest.SeededKeeper(t, fixture(some, both, tier.Options{Uploads: 2, WriteBack: true}))
}
