package httpcache

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// pointed is a store with a point before each call. It knows the keys of all records.
type pointed struct {
	*model.Store
	keys map[[32]byte]bool
}

func (p pointed) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	sim.Point("missing")
	return p.Store.Missing(ctx, ds)
}

func (p pointed) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	sim.Point("open")
	return p.Store.Open(ctx, d)
}

func (p pointed) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	sim.Point("get record")
	return p.Store.Get(ctx, key)
}

func (p pointed) Put(ctx context.Context, key [32]byte, value []byte) error {
	sim.Point("put record")
	p.keys[key] = true // one task runs at a time
	return p.Store.Put(ctx, key, value)
}

// An entries is a handler over such a store, without HTTP before it.
type entries struct {
	*handler
	t     *testing.T
	store pointed
	space space
}

func newEntries(t *testing.T) *entries {
	store := pointed{model.New(time.Hour), map[[32]byte]bool{}}
	return &entries{newHandler(Options{Store: store, Actions: action.New(store, store)}), t, store, space{routeNx, "team"}}
}

// put makes text the entry at path, and reports whether it was stored.
func (e *entries) put(path, text string, once bool) bool {
	e.t.Helper()
	ctx, d := context.Background(), digest.SHA256.Of([]byte(text))
	if err := blob.Put(ctx, e.store, d, []byte(text)); err != nil {
		e.t.Errorf("put of the bytes of %s: %v", path, err)
	}
	stored, err := e.keep(ctx, e.space, path, &entry{digest: d}, once)
	if err != nil {
		e.t.Errorf("put of %s: %v", path, err)
	}
	return stored
}

// get returns what is at path, or "".
func (e *entries) get(path string) string {
	e.t.Helper()
	o, err := e.open(context.Background(), e.space, path)
	if errors.Is(err, blob.ErrNotFound) {
		return ""
	}
	if err != nil {
		e.t.Errorf("get of %s: %v", path, err)
		return ""
	}
	defer o.Close()
	data := make([]byte, o.digest.Size)
	_, _ = o.Read(data)
	return string(data)
}

// TestSeededFirst lets the first entries of a namespace come at once. Each that was acknowledged is there; of two for
// one path one was stored, and stays.
func TestSeededFirst(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		e := newEntries(t)
		winners := make(chan string, 2)
		for _, text := range []string{"one", "two"} {
			s.Go(text, func() {
				if e.put("shared", text, true) {
					winners <- text
				}
				e.put(text, text, false)
				if got := e.get(text); got != text {
					t.Errorf("acknowledged %q: got %q", text, got)
				}
			})
		}
		s.Run()
		if len(winners) != 1 {
			t.Fatalf("%d were told that theirs was stored, want 1", len(winners))
		}
		if got, want := e.get("shared"), <-winners; got != want {
			t.Errorf("got %q, want %q, which was stored", got, want)
		}
	})
}

// TestSeededClean cleans a namespace while others put and get. What was there before is gone when clean returns, and
// what is put after that stays.
func TestSeededClean(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		e := newEntries(t)
		e.put("before", "before", false)
		cleaned := false
		s.Go("cleaner", func() {
			if err := e.clean(context.Background(), e.space); err != nil {
				t.Errorf("clean: %v", err)
			}
			cleaned = true
			if got := e.get("before"); got != "" {
				t.Errorf("after clean: got %q", got)
			}
		})
		for _, text := range []string{"one", "two"} {
			s.Go(text, func() {
				after := cleaned
				e.put(text, text, false)
				if got := e.get(text); after && got != text {
					t.Errorf("put %q after clean: got %q", text, got)
				}
			})
		}
		s.Run()
		if got := e.get("before"); got != "" {
			t.Errorf("at the end: got %q", got)
		}
	})
}

// TestSeededEvicted evicts bytes that nobody has a lease of while entries are put and got: whoever was told that an entry
// was stored, or got it, finds it until the lease ends.
func TestSeededEvicted(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		e := newEntries(t)
		e.put("old", "old", false)
		time.Sleep(2 * time.Hour)
		s.Go("evictor", func() {
			for range 3 {
				e.store.Evict()
				time.Sleep(40 * time.Minute)
			}
		})
		again := func(path string) {
			time.Sleep(59 * time.Minute)
			if got := e.get(path); got != path {
				t.Errorf("%s within the lease: got %q", path, got)
			}
		}
		s.Go("putter", func() {
			e.put("new", "new", false)
			again("new")
		})
		s.Go("getter", func() {
			if got := e.get("old"); got != "" {
				again("old")
			}
		})
		s.Run()
		if pins := e.store.Pins(); pins != 0 {
			t.Errorf("%d pins left", pins)
		}
	})
}

// TestEpochEvicted loses what says which epoch a namespace is in. Then all of it is gone, and stays gone.
func TestEpochEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEntries(t)
		if _, err := e.epochToPut(t.Context(), e.space); err != nil {
			t.Fatal(err)
		}
		epoch := maps.Clone(e.store.keys)
		if len(epoch) != 1 {
			t.Fatalf("got %d records, want 1", len(epoch))
		}
		e.put("old", "old", false)
		time.Sleep(2 * time.Hour)
		for key := range epoch {
			e.store.ForgetRecord(key)
		}
		if got := e.get("old"); got != "" {
			t.Errorf("without its epoch: got %q", got)
		}
		e.put("new", "new", false)
		if got := e.get("new"); got != "new" {
			t.Errorf("in another epoch: got %q", got)
		}
		if got := e.get("old"); got != "" {
			t.Errorf("in another epoch: got %q of the one before", got)
		}
	})
}
