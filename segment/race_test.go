package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A race is a ring that tasks of a schedule share, and what it told them.
type race struct {
	*testing.T
	s    *explore.Schedule
	fsys *vfs.Mem
	ring *Ring
	o    Options

	mu      sync.Mutex
	yes     map[digest.Digest]time.Time // until when the blob must be readable
	durable map[digest.Digest]bool      // a result was acknowledged after the yes
	data    map[digest.Digest][]byte
}

func newRace(t *testing.T, s *explore.Schedule, o Options) *race {
	return newRaceOn(t, s, o, &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }})
}

func newRaceOn(t *testing.T, s *explore.Schedule, o Options, fsys *vfs.Mem) *race {
	c := &race{T: t, s: s, o: o, fsys: fsys, yes: map[digest.Digest]time.Time{}, durable: map[digest.Digest]bool{}, data: map[digest.Digest][]byte{}}
	c.open()
	return c
}

// open opens the ring, and waits until its goroutines wait, so that a seed replays.
func (c *race) open() {
	c.ring = openRing(c.T, c.fsys, c.o)
	synctest.Wait()
}

// blob makes the bytes of blob number i, and remembers them.
func (c *race) blob(i, n int) (digest.Digest, []byte) {
	data := storetest.Bytes(c.s.Seed*32+uint64(i), n)
	d := digest.SHA256.Of(data)
	c.data[d] = data
	return d, data
}

// upload uploads d and waits for pause before Commit. Being refused is no failure of a race.
func (c *race) upload(d digest.Digest, pause time.Duration) error {
	w, err := c.ring.Create(context.Background(), d)
	if err != nil {
		return err
	}
	defer w.Close()
	data := c.data[d]
	for _, part := range [][]byte{data[:len(data)/2], data[len(data)/2:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
		sim.Point("wrote a part")
	}
	time.Sleep(pause)
	return w.Commit()
}

// put uploads d, and sees that a yes is true.
func (c *race) put(who string, d digest.Digest, pause time.Duration) (ok bool) {
	err := c.upload(d, pause)
	if err == nil {
		c.said(who, d)
		return true
	}
	if !errors.Is(err, blob.ErrAborted) && !errors.Is(err, blob.ErrClosed) && !errors.Is(err, blob.ErrFull) {
		c.Errorf("%s: Commit = %v", who, err)
	}
	return false
}

// ask asks for d, and sees that a yes is true.
func (c *race) ask(who string, d digest.Digest) (ok bool) {
	missing, err := c.ring.Missing(context.Background(), digest.SetOf(d))
	if errors.Is(err, blob.ErrClosed) {
		return false
	}
	if err != nil {
		c.Errorf("%s: Missing = %v", who, err)
	}
	if ok = err == nil && missing.Len() == 0; ok {
		c.said(who, d)
	}
	return ok
}

func (c *race) said(who string, d digest.Digest) {
	c.mu.Lock()
	c.yes[d] = time.Now().Add(c.o.Lease)
	c.mu.Unlock()
	if err := c.read(c.ring, d); err != nil && !errors.Is(err, blob.ErrClosed) {
		c.Errorf("%s: right after a yes: %v", who, err)
	}
}

// read reads d in two pieces, with points between them.
func (c *race) read(r *Ring, d digest.Digest) error {
	rd, err := r.Open(context.Background(), d)
	if err != nil {
		return err
	}
	defer rd.Close()
	got := make([]byte, rd.Size())
	half := len(got) / 2
	for _, part := range [][2]int{{0, half}, {half, len(got)}} {
		if _, err := rd.ReadAt(got[part[0]:part[1]], int64(part[0])); err != nil {
			return fmt.Errorf("an open blob could not be read: %w", err)
		}
		sim.Point("read a part")
	}
	if !bytes.Equal(got, c.data[d]) {
		return errors.New("bytes that are not the blob's")
	}
	return nil
}

// kept reads everything whose yes still stands, in a ring that may be another process's.
func (c *race) kept(r *Ring, when string) {
	c.mu.Lock()
	yes := maps.Clone(c.yes)
	c.mu.Unlock()
	byHash := func(a, b digest.Digest) int { return bytes.Compare(a.Hash[:], b.Hash[:]) }
	for _, d := range slices.SortedFunc(maps.Keys(yes), byHash) { // in order, so that a seed replays
		if time.Now().Before(yes[d]) {
			if err := c.read(r, d); err != nil {
				c.Errorf("%s: a yes did not stand: %v", when, err)
			}
		}
	}
}

// rest checks the ring when all tasks have ended: RingIsDisk, and what it counts.
func (c *race) rest(r *Ring, fsys *vfs.Mem, when string) {
	synctest.Wait()
	if err := r.leaks(fsys); err != nil {
		c.Errorf("%s: %v", when, err)
	}
	infos, err := fsys.List(r.dir)
	if err != nil {
		c.Fatal(err)
	}
	var listed, sizes int64
	for _, info := range infos {
		sizes += info.Size
		if filepath.Ext(info.Name) == segmentExt {
			listed++
		}
	}
	for _, s := range r.order {
		sizes -= s.punched.Load()
	}
	// A segment of which most was given back counts for a sixteenth all the same.
	if used := r.used(); used < sizes || used > sizes+listed*r.segmentSize/16 {
		c.Errorf("%s: RingIsDisk: %d bytes used, the files have %d", when, used, sizes)
	}
	if got := int64(len(r.order)); got != listed || got != int64(len(*r.table.Load())) {
		c.Errorf("%s: RingIsDisk: %d segments in order, %d for readers, %d listed", when, got, len(*r.table.Load()), listed)
	}
	if !slices.Contains(r.order, r.active) && r.active != nil {
		c.Errorf("%s: RingIsDisk: the active segment is not in the ring", when)
	}
}

// after opens what a process left, evicts all that may go, and reads what was promised.
func (c *race) after(image *vfs.Mem, how string) {
	r := openRing(c.T, image, c.o)
	r.evictAll()
	c.kept(r, how)
	c.rest(r, image, how)
	closeRing(c.T, r)
}

// end runs the tasks, and checks what they left.
func (c *race) end() {
	c.s.Run()
	c.kept(c.ring, "at rest")
	c.rest(c.ring, c.fsys, "at rest")
	closeRing(c.T, c.ring)
}

// rotate seals the active segment and makes the next one, n times.
func (c *race) rotate(n int) {
	for range n {
		c.ring.turn <- struct{}{}
		if !c.ring.closed.Load() {
			_ = c.ring.rotate(0, false)
		}
		<-c.ring.turn
		sim.Point("let go")
	}
}

// result puts a result. What was said before it is durable after it.
func (c *race) result(who string, key [32]byte) {
	c.mu.Lock()
	named := maps.Clone(c.yes)
	c.mu.Unlock()
	err := c.ring.Put(context.Background(), key, []byte(who))
	if err != nil {
		if !errors.Is(err, blob.ErrClosed) && !errors.Is(err, blob.ErrFull) {
			c.Errorf("%s: Put = %v", who, err)
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range named {
		c.durable[d] = true
	}
}

// powerCut returns what a power cut leaves now, where of what was not synced each block of 4 KiB is on
// the disk or not, as the seed decides: disks write blocks in any order.
func powerCut(s *explore.Schedule, fsys *vfs.Mem) *vfs.Mem {
	killed, cut := fsys.Clone(), fsys.PowerCut()
	infos, err := cut.List("ring")
	if err != nil {
		panic(err)
	}
	for _, info := range infos {
		name := filepath.Join("ring", info.Name)
		was, err := killed.Open(name)
		if err != nil {
			continue // removed, and that is not durable yet
		}
		left, err := cut.Open(name)
		if err != nil {
			panic(err)
		}
		var now, then [block]byte
		for off := int64(0); off < info.Size; off += block {
			n := min(block, info.Size-off)
			if _, err := was.ReadAt(now[:n], off); err != nil && err != io.EOF {
				panic(err)
			}
			if _, err := left.ReadAt(then[:n], off); err != nil && err != io.EOF {
				panic(err)
			}
			if now != then && s.Rand.IntN(2) == 0 {
				if _, err := left.WriteAt(now[:n], off); err != nil {
					panic(err)
				}
			}
		}
		if err := errors.Join(left.Sync(), left.Close(), was.Close()); err != nil {
			panic(err)
		}
	}
	return cut
}
