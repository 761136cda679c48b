package action

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// A disk is a store with a point before each call, and records that take pause to write.
type disk struct {
	pointed
	pause time.Duration
}

func (d disk) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	sim.Point("get record")
	return d.Store.Get(ctx, key)
}

func (d disk) Put(ctx context.Context, key [32]byte, value []byte) error {
	sim.Point("put record")
	time.Sleep(d.pause)
	return d.Store.Put(ctx, key, value)
}

func (d disk) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	sim.Point("drop record")
	return d.Store.Drop(ctx, key, incarnation)
}

const raceLease = time.Hour

// A race is an action cache that the tasks of a schedule share.
type race struct {
	*testing.T
	disk   disk
	cache  *Cache
	result *repb.ActionResult
	names  []string // of the blobs that result names, sorted
	blobs  map[string]digest.Digest
	bytes  map[string][]byte
}

func newRace(t *testing.T, pause time.Duration) *race {
	scratch := model.New(raceLease)
	b := &builder{t, scratch, map[string]*repb.Digest{}}
	c := &race{T: t, disk: disk{pointed{model.New(raceLease)}, pause}, result: b.result(), blobs: map[string]digest.Digest{}, bytes: map[string][]byte{}}
	c.cache = New(c.disk, c.disk)
	for name, p := range b.named {
		d, err := digest.New(digest.SHA256, p.Hash, p.SizeBytes)
		if err != nil {
			t.Fatal(err)
		}
		if c.bytes[name], err = blob.Get(t.Context(), scratch, d); err != nil {
			t.Fatal(err)
		}
		c.names, c.blobs[name] = append(c.names, name), d
	}
	slices.Sort(c.names)
	return c
}

func (c *race) upload(name string) {
	if err := blob.Put(context.Background(), c.disk, c.blobs[name], c.bytes[name]); err != nil {
		c.Errorf("upload of %s = %v", name, err)
	}
}

func (c *race) uploadAll() {
	for _, name := range c.names {
		c.upload(name)
	}
}

// served gets the result, and if there is one sees that all of it is there until the lease ends.
func (c *race) served(who string) {
	if _, err := c.cache.Get(context.Background(), anAction); err == nil {
		c.whole(who + ": a result was served")
	} else if !errors.Is(err, blob.ErrNotFound) {
		c.Errorf("%s: Get = %v", who, err)
	}
}

// put puts the result, and if that is acknowledged sees that all of it is there until the lease ends.
func (c *race) put(who string) error {
	err := c.cache.Put(context.Background(), anAction, c.result)
	if err == nil {
		c.whole(who + ": a result was acknowledged")
	}
	return err
}

// whole reads everything that the result names, now and at the end of the lease. It asks a store without
// points, which leases nothing anew before that.
func (c *race) whole(why string) {
	var open []blob.Reader
	sim.Point("yes")
	time.Sleep(raceLease - time.Second)
	for _, name := range c.names {
		r, err := c.disk.Store.Open(context.Background(), c.blobs[name])
		if err != nil {
			c.Errorf("Complete: %s, but %s is gone: %v", why, name, err)
			continue
		}
		open = append(open, r)
	}
	for _, r := range open {
		r.Close()
	}
}

func (c *race) rest() {
	if pins := c.disk.Pins(); pins != 0 {
		c.Errorf("%d pins left", pins)
	}
}

// TestRaceTreeFile is the first of seed 002's family, NativeLink at scale (pull request 2243).
//
// A worker there uploaded what a result named in the background, and of an output directory it took the
// tree, but not the files inside the tree. The result was published all the same. The next build was told
// that the action had been run, asked for a file in its output directory, and failed with lost inputs. Here a
// result is acknowledged only when every file inside its trees and below its root directories is there and
// pinned. Serving it asks again, so whoever sees a result can read all of it, in whatever order it came.
func TestRaceTreeFile(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, 0)
		order := slices.Clone(c.names)
		s.Rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		if s.Rand.IntN(2) == 0 { // the last one never comes
			order = order[:len(order)-1]
		}
		s.Go("uploader", func() {
			for _, name := range order {
				c.upload(name)
				sim.Point("uploaded")
			}
		})
		s.Go("updater", func() {
			for range 4 {
				var incomplete *blob.MissingError
				if err := c.put("updater"); err != nil && !errors.As(err, &incomplete) {
					t.Errorf("updater: Put = %v", err)
				}
				sim.Point("put")
			}
		})
		s.Go("getter", func() {
			c.served("getter")
			c.served("getter")
		})
		s.Run()
		c.rest()
	})
}

// TestRaceLostInputs is the rest of seed 002's family as far as it is an action cache's.
//
// A result was looked up there, what it names was looked for in another moment, and eviction came in
// between; or the answer came out of a cache of what had once been there. An upload that failed left an
// entry that others took for the blob. Clients were handed results of which parts were gone, or lost a good
// result to somebody who had found its predecessor incomplete. Here all that a result names is leased in one
// pass before it is served, and pinned while it is written. What is found incomplete is dropped as the one
// copy that was looked at.
func TestRaceLostInputs(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, time.Duration(s.Rand.IntN(2))*2*raceLease)
		stale := s.Rand.IntN(2) == 0
		if stale { // there is a result, of which a part or all may go
			c.uploadAll()
			if err := c.cache.Put(context.Background(), anAction, c.result); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * raceLease)
			for _, name := range c.names {
				if s.Rand.IntN(2) == 0 {
					c.upload(name) // leased anew
				}
			}
		}
		for _, who := range []string{"getter 1", "getter 2"} {
			s.Go(who, func() { c.served(who) })
		}
		s.Go("updater", func() {
			c.uploadAll()
			if err := c.put("updater"); err != nil {
				t.Errorf("Complete: Put of a result all of which was uploaded = %v", err)
			}
		})
		s.Go("quitter", func() { c.quit(s) })
		s.Go("evictor", func() {
			for range 6 {
				c.disk.Evict()
				sim.Point("evicted")
				time.Sleep(raceLease / 2)
			}
		})
		s.Run()
		c.rest()
	})
}

// quit begins uploads of what others upload too, and ends them badly.
func (c *race) quit(s *explore.Schedule) {
	for i, name := range c.names {
		w, err := c.disk.Create(context.Background(), c.blobs[name])
		if err != nil {
			c.Errorf("quitter: Create = %v", err)
			return
		}
		lie := []byte(strings.Repeat("x", len(c.bytes[name])))
		if _, err := w.Write(lie); err != nil {
			c.Errorf("quitter: Write = %v", err)
		}
		sim.Point("wrote")
		if i%2 == 0 {
			if err := w.Commit(); !errors.Is(err, blob.ErrMismatch) {
				c.Errorf("quitter: Commit of wrong bytes = %v, want ErrMismatch", err)
			}
		}
		w.Close()
	}
}

// TestRaceDrop is seed 002's lost update: of a result that was found incomplete, and of the one that takes
// its place meanwhile. Whoever puts a complete result is served it right after that, though others still
// act on what they saw before.
func TestRaceDrop(t *testing.T) {
	explore.Run(t, 500, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, 0)
		c.uploadAll()
		if err := c.cache.Put(context.Background(), anAction, c.result); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * raceLease)
		c.disk.Evict()
		for _, who := range []string{"getter 1", "getter 2"} {
			s.Go(who, func() { c.served(who) })
		}
		s.Go("updater", func() {
			c.uploadAll()
			if err := c.cache.Put(context.Background(), anAction, c.result); err != nil {
				t.Errorf("Put = %v", err)
			}
			for range 3 {
				if _, err := c.cache.Get(context.Background(), anAction); err != nil {
					t.Errorf("lost update: Get right after a complete result was put = %v", err)
				}
			}
		})
		s.Run()
		c.rest()
	})
}
