package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// An update is one Put of a record, and when it began and ended.
type update struct {
	begin, end int // of a clock that each call moves; end is 0 before it ended
}

// A log is what was put under one key, and what may be read there.
type log struct {
	clock    int
	versions []update
}

func (l *log) begin() int {
	l.clock++
	l.versions = append(l.versions, update{begin: l.clock})
	return len(l.versions) - 1
}

func (l *log) end(v int) {
	l.clock++
	l.versions[v].end = l.clock
}

// now returns what has begun and ended so far.
func (l *log) now() *log {
	return &log{l.clock, append([]update(nil), l.versions...)}
}

// value is what version v is: many blocks that say the same.
func value(v, n int) []byte { return bytes.Repeat([]byte{byte(v + 1)}, n) }

// judge says what is wrong with bytes that were read after everything that l has: they must be one
// version, whole, and none that was superseded by one which began after its end and was acknowledged.
func (l *log) judge(b []byte, n int) error {
	if len(b) != n {
		return fmt.Errorf("torn: %d bytes of %d", len(b), n)
	}
	v := int(b[0]) - 1
	if v < 0 || v >= len(l.versions) || !bytes.Equal(b, value(v, n)) {
		return fmt.Errorf("torn: it begins with %d and ends with %d", b[0], b[n-1])
	}
	if l.versions[v].end == 0 {
		return nil
	}
	for w, other := range l.versions {
		if other.end > 0 && other.begin > l.versions[v].end {
			return fmt.Errorf("lost update: version %d, and %d was acknowledged after it", v, w)
		}
	}
	return nil
}

// TestRaceTornEntry is seed 001, clcache's entries (pull request 286).
//
// An entry was an object file, its output and a manifest there, replaced one by one, and statistics were
// read, changed and written without a lock. A reader who came in between, or a kill, saw the parts of two
// compilations, or half a file. Of two updates at once one was lost. Here an entry is one record: it is
// published in one step, with a checksum of its bytes, and never changed in place. Updates of one record
// hold its slot from the extent to the publication, and its copies too, so the order on the disk is the
// order in which they were acknowledged, and start-up keeps the last.
func TestRaceTornEntry(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		c := newRace(t, s, small)
		e := &entryRace{race: c, key: [32]byte{1}, n: []int{40, 6000, 15000}[s.Rand.IntN(3)], late: s.Rand.IntN(3) == 0}
		if s.Rand.IntN(2) == 0 {
			e.update("setup")
			c.ring.sealActive(t)
		}
		for _, who := range []string{"updater 1", "updater 2"} {
			s.Go(who, func() {
				e.update(who)
				e.update(who)
			})
		}
		s.Go("reader", func() {
			for range 3 {
				before := e.log.now()
				rec, err := c.ring.Get(context.Background(), e.key)
				e.check("reader", rec, err, before, &e.log)
			}
		})
		// A blob's upload is under way, so that what comes after it lies behind half a record.
		d, _ := c.blob(0, 9000)
		s.Go("writer", func() { c.put("writer", d, 0) })
		s.Go("rotator", func() { c.rotate(1) })
		s.Go("evictor", e.evict)
		how := []string{"close", "kill", "power cut"}[s.Rand.IntN(3)]
		var image *vfs.Mem
		var then *log
		s.Go("end", func() {
			for range s.Rand.IntN(100) {
				sim.Point("wait")
			}
			if then = e.log.now(); how == "kill" {
				image = c.fsys.Clone()
			} else if how == "power cut" {
				image = powerCut(s, c.fsys)
			}
		})
		s.Run()
		c.rest(c.ring, c.fsys, "at rest")
		closeRing(t, c.ring)
		if how == "close" {
			image, then = c.fsys.Clone(), e.log.now()
		}
		for _, when := range []string{"after a " + how, "after another start"} {
			next := openRing(t, image, small)
			rec, err := next.Get(t.Context(), e.key)
			e.check(when, rec, err, then, then)
			closeRing(t, next)
		}
	})
}

// An entryRace is one record that several change.
type entryRace struct {
	*race
	key  [32]byte
	n    int // bytes
	late bool
	log  log
}

func (e *entryRace) update(who string) {
	v := e.log.begin()
	if err := e.ring.Put(context.Background(), e.key, value(v, e.n)); err != nil {
		e.Errorf("%s: Put = %v", who, err)
		return
	}
	e.log.end(v)
	sim.Point("acknowledged")
}

func (e *entryRace) evict() {
	e.ring.evictOldest()
	if e.late {
		time.Sleep(2 * small.Lease)
	}
	e.ring.evictOldest()
	e.ring.evictOldest()
}

// check judges an answer: of what had ended before the question, and of what had begun before the answer.
func (e *entryRace) check(who string, rec blob.Record, err error, before, after *log) {
	if errors.Is(err, blob.ErrNotFound) {
		for _, v := range before.versions {
			if v.end > 0 && !e.late {
				e.Errorf("%s: lost: not found, and a version was acknowledged", who)
				return
			}
		}
		return
	}
	if err != nil {
		e.Errorf("%s: Get = %v", who, err)
		return
	}
	known := &log{after.clock, append([]update(nil), after.versions...)}
	for i := range known.versions {
		if i >= len(before.versions) || before.versions[i].end == 0 {
			known.versions[i].end = 0
		}
	}
	if err := known.judge(rec.Value, e.n); err != nil {
		e.Errorf("%s: %v", who, err)
	}
}
