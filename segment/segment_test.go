package segment

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A ring of 16 segments of 64 KiB: blobs up to 512 bytes are appended with their neighbours, up to
// 16 KiB stream into an extent, and larger ones get a segment of their own.
var small = Options{MaxSize: 1 << 20, Lease: time.Hour, segmentSize: 64 << 10, smallSize: 512}

var sizes = []int{1, 500, 3000, 40000}

func openRing(t *testing.T, fsys vfs.FS, o Options) *Ring {
	t.Helper()
	r, err := Open(t.Context(), fsys, "ring", o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func closeRing(t *testing.T, r *Ring) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// evictAll evicts every segment that may go, the active one too.
func (r *Ring) evictAll() {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	if r.rotate() != nil {
		return
	}
	for r.evictOldest() == nil {
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
