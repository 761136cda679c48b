package s3

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// Blocks of 1 KiB, of which a Reader gets two at once: the sizes below are less than a block, one, and several parts.
var small = Options{Lease: time.Hour, Heartbeat: 1000 * time.Hour, parallel: 16, blockSize: 1 << 10, chunk: 2, manual: true}

var sizes = []int{1, 1000, 1024, 3000, 40000}

// newMemory returns a bucket whose requests are points for the scheduler.
func newMemory() *bucket.Memory {
	return &bucket.Memory{Before: func(op, key string) { sim.Point(op + " " + key) }}
}

func openStore(t *testing.T, b bucket.Bucket, o Options) *Store {
	t.Helper()
	if os.Getenv("SARSEN_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	begin := time.Now()
	o.clock = func() time.Duration { return time.Since(begin) }
	s, err := Open(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// evictAll removes all that may go.
func (s *Store) evictAll(t *testing.T) {
	if _, err := s.Collect(t.Context(), Policy{All: true}); err != nil {
		t.Errorf("Collect = %v", err)
	}
}

// leaks says what is wrong with a store at rest that is alone on its bucket: pins that are held, objects that nobody names
// and names without an object.
func (s *Store) leaks(b *bucket.Memory) error {
	stats := s.Stats()
	if stats.Pins > 0 {
		return fmt.Errorf("%d pins are held", stats.Pins)
	}
	l := s.now.Load()
	objects := map[string]bool{}
	for _, key := range append(b.Keys(blobs), b.Keys(records)...) {
		i, ok := parseName(key)
		if !ok {
			return fmt.Errorf("a strange object %s", key)
		}
		if !l.ledger.Names(i.key, l.ids.place(i)) {
			return fmt.Errorf("nobody names %s", key)
		}
		objects[key] = true
	}
	if len(objects) != stats.Blobs+stats.Records {
		return fmt.Errorf("%d objects for %d blobs and %d records", len(objects), stats.Blobs, stats.Records)
	}
	return nil
}

// plain is without compression, whose coders have goroutines that no bubble may own.
func plain(t *testing.T) storetest.Fixture { return fixtureOf(t, true) }

func fixture(t *testing.T) storetest.Fixture { return fixtureOf(t, false) }

func fixtureOf(t *testing.T, plain bool) storetest.Fixture {
	b := newMemory()
	o := small
	o.uncompressed = plain
	o.SpoolFS, o.Spool = &vfs.Mem{}, "spool"
	s := openStore(t, b, o)
	return storetest.Fixture{
		Store: s,
		Lease: small.Lease,
		Sizes: sizes,
		Evict: func() { s.evictAll(t) },
		Leaks: func() error { return s.leaks(b) },
		Close: func() { closeStore(t, s) },
	}
}

func TestStore(t *testing.T)        { storetest.Run(t, fixture) }
func TestSeeded(t *testing.T)       { storetest.Seeded(t, plain) }
func TestKeeper(t *testing.T)       { storetest.Keeper(t, fixture) }
func TestSeededKeeper(t *testing.T) { storetest.SeededKeeper(t, plain) }

// TestSize: each blob counts once, whoever put it, and records do not.
func TestSize(t *testing.T) {
	b := &bucket.Memory{}
	s := openStore(t, b, small)
	for i, n := range []int{10, 300, 5000, 300} {
		data := storetest.Bytes(uint64(n), n)
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(data), data); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), [32]byte{byte(i)}, []byte("a record")); err != nil {
			t.Fatal(err)
		}
	}
	other := openStore(t, b, small)
	for _, s := range []*Store{s, other} {
		if got := s.Size(); got != 5310 {
			t.Errorf("Size = %d, want 5310", got)
		}
		closeStore(t, s)
	}
}
