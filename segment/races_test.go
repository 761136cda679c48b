package segment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestRaceEmplace is seed 000, NativeLink's file store (pull request 2341).
//
// Two copies of one digest shared one file name there, the map changed before the disk did, and the
// clean-up of a replaced entry ran later. So a writer who had been replaced still renamed, because the
// key was present; a reader used a path that it had captured before the lock; and a reader with a stale
// handle tried that handle again. Builds failed with "no such file" for blobs that the server had just
// said it had, and a late clean-up moved the successor's file away until the next restart. Here a copy has
// a place that no other copy ever gets, and whoever removes, moves or replaces names that place. A reader
// gets its place, its pin and its hold of the file in one section, so nothing is ever tried again.
func TestRaceEmplace(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, s, small)
		d, _ := c.blob(0, sizes[1+s.Rand.IntN(3)])
		if s.Rand.IntN(2) == 0 { // an entry that may be replaced
			if err := c.upload(d, 0); err != nil {
				t.Fatal(err)
			}
			if s.Rand.IntN(2) == 0 {
				time.Sleep(2 * small.Lease)
			}
		}
		for _, who := range []string{"writer 1", "writer 2", "writer 3"} {
			s.Go(who, func() { c.put(who, d, 0) })
		}
		for _, who := range []string{"reader 1", "reader 2"} {
			s.Go(who, func() {
				for range 2 {
					c.ask(who, d)
					if err := c.read(c.ring, d); err != nil && !errors.Is(err, blob.ErrNotFound) {
						t.Errorf("%s: %v", who, err)
					}
				}
			})
		}
		s.Go("evictor", func() {
			c.ring.evictAll()
			c.ring.evictAll()
		})
		c.end()
	})
}

// TestRaceStaleUnref is seed 000's fourth race, which its authors did not see (NativeLink issues 2644 and
// 2715).
//
// An entry left the map there, and what removed its file came later. In between another writer put the
// same digest under the same name. The late removal then took the new file. The map went on to say that
// the blob was there, and every read failed until a restart. Here what comes late (somebody who found the
// old copy damaged, the cleaner at a superseded record) acts on the copy that it looked at, or on nothing.
func TestRaceStaleUnref(t *testing.T) {
	explore.Run(t, 300, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, s, small)
		d, data := c.blob(0, 3000)
		if err := c.upload(d, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ring.active.file.WriteAt([]byte{^data[7]}, firstSize+headerSize+7); err != nil {
			t.Fatal(err)
		}
		found := make(chan struct{})
		var once sync.Once
		for _, who := range []string{"reader 1", "reader 2"} {
			s.Go(who, func() {
				err := c.read(c.ring, d)
				once.Do(func() { close(found) })
				if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s: %v", who, err)
				}
			})
		}
		s.Go("writer", func() {
			<-found
			c.put("writer", d, 0)
		})
		c.end()
	})
}

// TestRaceLostInputs is the part of seed 002 that is a store's, NativeLink at scale (pull request 2243).
//
// A cache of existence said yes there for blobs that the disk had evicted meanwhile, eviction chose its
// victims before it looked whether they were wanted, and an upload that failed left an entry behind that
// others took for the blob. Builds ended with "Lost inputs no longer available remotely", again and
// again until somebody emptied the cache. Here only the ledger says yes, it leases in the section in which
// it looks, and it removes in the section in which it sees that there is no lease. Uploads of one digest
// have nothing in common before one of them is published, so that one which fails takes nothing along. A
// writer who comes second says yes with a lease of its own, however long ago the first one came.
func TestRaceLostInputs(t *testing.T) {
	explore.Run(t, 600, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, s, small)
		d, data := c.blob(0, sizes[1+s.Rand.IntN(3)])
		if s.Rand.IntN(2) == 0 {
			if err := c.upload(d, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * small.Lease)
		}
		wait := s.Rand.IntN(20)
		s.Go("asker", func() {
			for range wait { // to come at any moment of the eviction
				sim.Point("wait")
			}
			c.ask("asker", d)
		})
		s.Go("evictor", func() {
			c.ring.evictAll()
			c.kept(c.ring, "evictor")
			c.ring.evictAll()
		})
		if s.Rand.IntN(2) == 0 {
			c.end() // these two alone, in all their orders
			return
		}
		s.Go("fast writer", func() { c.put("fast writer", d, 0) })
		slow := time.Duration(s.Rand.IntN(3)) * small.Lease
		s.Go("slow writer", func() {
			c.put("slow writer", d, slow)
			c.ring.evictAll()
			c.kept(c.ring, "slow writer")
		})
		s.Go("quitter", func() {
			if w, err := c.ring.Create(context.Background(), d); err == nil {
				_, _ = w.Write(data[:len(data)/2])
				sim.Point("wrote a part")
				w.Close()
			}
			c.kept(c.ring, "quitter")
		})
		c.end()
	})
}

// TestRaceLeaseAndKill is the stale positive of seed 002 across a restart.
//
// Servers keep in memory alone until when they promised a blob. One that is killed and started again in
// the middle of a build has forgotten that. It then evicts what it told the client not to upload, and the
// build fails with lost inputs. Here a yes that nothing on the disk tells of is written down before it is
// given. Start-up leases what it finds written, so a new process keeps what the old one promised.
func TestRaceLeaseAndKill(t *testing.T) {
	explore.Run(t, 300, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, s, small)
		var ds []digest.Digest
		for i := range 3 {
			d, _ := c.blob(i, sizes[i])
			if err := c.upload(d, 0); err != nil {
				t.Fatal(err)
			}
			ds = append(ds, d)
		}
		time.Sleep(2 * small.Lease)
		closeRing(t, c.ring) // the next process knows that none of them is leased
		c.open()
		var image *vfs.Mem
		var then map[digest.Digest]time.Time
		s.Go("asker", func() {
			for _, d := range ds {
				c.ask("asker", d)
			}
		})
		s.Go("mover", c.ring.evictAll)
		s.Go("killer", func() {
			for range s.Rand.IntN(40) {
				sim.Point("wait")
			}
			c.mu.Lock()
			then = maps.Clone(c.yes)
			c.mu.Unlock()
			image = c.fsys.Clone()
		})
		s.Run()
		closeRing(t, c.ring)
		c.yes = then
		c.after(image, "after a kill")
	})
}

// TestRaceRing is seed 003, Kura's ring of segments (pull request 11249).
//
// The state of the ring was a record there that one task cloned, changed and saved while another did the
// same. So an evicted segment came back and was counted without a file, or a fresh one was left out and
// its half gigabyte lost for ever. The next pressure then killed a live segment too early, and results
// named blobs that were gone. Here the ring is the listing of its directory, only the owner of the turn
// changes what memory has of it, and the number of a segment is used once. Bytes that move are on the disk
// before the ledger names them there, and only then does their old segment go.
func TestRaceRing(t *testing.T) {
	explore.Run(t, 300, func(t *testing.T, s *explore.Schedule) {
		names := &lives{made: map[string]bool{}, gone: map[string]bool{}}
		o := cramped
		if s.Rand.IntN(2) == 0 {
			o.Durability = Sync // then every yes outlives a power cut
		}
		c := newRaceOn(t, s, o, &vfs.Mem{Before: func(op, name string) {
			sim.Point(op + " " + name)
			names.note(t, op, name)
		}})
		for i := range 6 {
			d, _ := c.blob(i, []int{400, 3000, 15000, 15001, 15002, 40000}[i])
			who := fmt.Sprint("writer ", i)
			s.Go(who, func() {
				c.put(who, d, time.Duration(i%2)*cramped.Lease/2)
				c.ask(who, d)
			})
		}
		for i := range 4 {
			who := fmt.Sprint("rotator ", i)
			s.Go(who, func() { c.rotate(2) })
			who = fmt.Sprint("evictor ", i)
			s.Go(who, c.ring.evictOldest)
		}
		for i := range 2 {
			who := fmt.Sprint("recorder ", i)
			s.Go(who, func() { c.result(who, [32]byte{byte(i)}) })
		}
		s.Run()
		c.kept(c.ring, "at rest")
		c.rest(c.ring, c.fsys, "at rest")
		names.check(t, c.fsys)
		image, how := c.fsys.Clone(), "after a kill"
		if s.Rand.IntN(2) == 0 {
			image, how = powerCut(s, c.fsys), "after a power cut"
			maps.DeleteFunc(c.yes, func(d digest.Digest, _ time.Time) bool { return o.Durability != Sync && !c.durable[d] })
		}
		closeRing(t, c.ring)
		c.after(image, how)
	})
}

// lives is the names that a directory had.
type lives struct {
	mu         sync.Mutex
	made, gone map[string]bool
}

// note sees that a segment's name is created once and removed once.
func (l *lives) note(t *testing.T, op, name string) {
	if !strings.HasSuffix(name, segmentExt) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch op {
	case "create":
		if l.made[name] {
			t.Errorf("segment %s was created twice", name)
		}
		l.made[name] = true
	case "remove":
		if l.gone[name] {
			t.Errorf("segment %s was removed twice", name)
		}
		l.gone[name] = true
	}
}

// check sees that no removed segment is back.
func (l *lives) check(t *testing.T, fsys *vfs.Mem) {
	infos, err := fsys.List("ring")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if l.gone[info.Name] {
			t.Errorf("RingIsDisk: %s was removed, and is there again", info.Name)
		}
	}
}

// TestRaceCopyAndPowerCut is seed 003's loss with a power cut: what the cleaner moved must be on the disk
// before its old segment goes. The blobs are durable, because a result was acknowledged after them, and
// leased. So each of them is there after a power cut at any instant.
func TestRaceCopyAndPowerCut(t *testing.T) {
	explore.Run(t, 300, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, s, small)
		for i := range 3 {
			d, _ := c.blob(i, []int{400, 3000, 15000}[i])
			c.put("setup", d, 0)
		}
		c.result("setup", [32]byte{1})
		c.ring.sealActive(t)
		var image *vfs.Mem
		s.Go("evictor", func() {
			c.ring.evictOldest()
			sim.Point("evicted")
		})
		s.Go("rotator", func() { c.rotate(1) })
		s.Go("cutter", func() {
			for range s.Rand.IntN(60) {
				sim.Point("wait")
			}
			image = powerCut(s, c.fsys)
		})
		s.Run()
		closeRing(t, c.ring)
		c.after(image, "after a power cut")
	})
}
