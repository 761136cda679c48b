package segment

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A ring of 16 segments of 64 KiB: blobs up to 512 bytes are appended with their neighbours, up to
// 16 KiB stream into an extent, and larger ones get a segment of their own.
var small = Options{MaxSize: 1 << 20, Lease: time.Hour, segmentSize: 64 << 10, smallSize: 512, tick: -1}

var sizes = []int{1, 500, 3000, 40000}

func openRing(t *testing.T, fsys vfs.FS, o Options) *Ring {
	if os.Getenv("SARSEN_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	t.Helper()
	r, err := Open(t.Context(), fsys, "ring", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // its goroutines must end with the test
	return r
}

func closeRing(t *testing.T, r *Ring) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// evictAll cleans every segment, the active one too: all that may go goes.
func (r *Ring) evictAll() {
	r.broom <- struct{}{}
	defer func() { <-r.broom }()
	r.turn <- struct{}{}
	if r.closed.Load() {
		<-r.turn
		return
	}
	_ = r.rotate(0, false) // without room for a next one the cleaner takes his reserve
	victims := slices.Clone(r.order)
	<-r.turn
	for _, s := range victims {
		r.evict(s)
	}
}

// evict cleans one segment, unless it is the active one. The caller has the broom.
func (r *Ring) evict(s *segment) {
	r.turn <- struct{}{}
	ok := !r.closed.Load() && slices.Contains(r.order, s) && s != r.active && !(s.own && s.refs.Load() > 1)
	if ok && !s.own {
		s.victim.Store(true)
	}
	r.loan = max(0, r.reserve()-r.room())
	<-r.turn
	if ok {
		_ = (&sweep{ring: r, seg: s, force: true}).run()
	}
}

// evictOldest cleans the oldest segment that may go.
func (r *Ring) evictOldest() {
	r.broom <- struct{}{}
	defer func() { <-r.broom }()
	r.turn <- struct{}{}
	s := r.oldest()
	<-r.turn
	if s != nil {
		r.evict(s)
	}
}

// leaks says what is wrong with a ring at rest: RingIsDisk, and no pin is held.
func (r *Ring) leaks(fsys vfs.FS) error {
	if s := r.Stats(); s.Pins > 0 {
		return fmt.Errorf("%d pins are held", s.Pins)
	}
	infos, err := fsys.List(r.dir)
	if err != nil {
		return err
	}
	sizes := map[string]int64{}
	for _, info := range infos {
		sizes[filepath.Join(r.dir, info.Name)] = info.Size
	}
	for _, s := range *r.table.Load() {
		size, ok := sizes[s.name]
		if !ok {
			return fmt.Errorf("RingIsDisk: phantom %s", s.name)
		}
		if counted := s.size.Load(); counted != size {
			return fmt.Errorf("RingIsDisk: %s counts for %d bytes, and has %d", s.name, counted, size)
		}
		delete(sizes, s.name)
		if n := s.refs.Load(); n != 1 {
			return fmt.Errorf("%s has %d references, want the ring's one", s.name, n)
		}
	}
	maps.DeleteFunc(sizes, func(name string, _ int64) bool { return filepath.Ext(name) == leaseExt })
	if len(sizes) > 0 {
		return fmt.Errorf("RingIsDisk: orphans %v", sizes)
	}
	if n := r.leaving.Load(); n != 0 {
		return fmt.Errorf("RingIsDisk: %d bytes of removed segments are counted", n)
	}
	return nil
}

func fixture(t *testing.T) storetest.Fixture {
	fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
	r := openRing(t, fsys, small)
	return storetest.Fixture{
		Store: r,
		Lease: small.Lease,
		Sizes: sizes,
		Evict: r.evictAll,
		Leaks: func() error { return r.leaks(fsys) },
		Close: func() { closeRing(t, r) },
	}
}

func TestStore(t *testing.T)  { storetest.Run(t, fixture) }
func TestSeeded(t *testing.T) { storetest.Seeded(t, fixture) }

func TestKeeper(t *testing.T)       { storetest.Keeper(t, fixture) }
func TestSeededKeeper(t *testing.T) { storetest.SeededKeeper(t, fixture) }
