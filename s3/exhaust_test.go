package s3

import (
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestExhaustive runs a collection beside servers that put, ask, keep, begin, crash and stop, in every interleaving of
// their requests.
func TestExhaustive(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	for name, run := range scenarios {
		t.Run(name, func(t *testing.T) {
			rested := map[uint64]bool{}
			explore.Exhaust(t, 1_000_000, func(t *testing.T, s *explore.Schedule) {
				w := newWorld(t, s)
				w.rested = rested
				run(w)
				s.Run()
				w.rest()
			})
		})
	}
}

const (
	soon = 4 * time.Minute  // a heartbeat
	some = 15 * time.Minute // others have given up whoever was stopped for that; what it sent is still good
	long = 2 * time.Hour    // all that it promised has run out, and what it sent is refused
)

// scenarios, all with a collection that takes all it may.
var scenarios = map[string]func(*world){
	"put put": func(w *world) { // of one cold blob, in one process
		w.cold(data(1))
		a := w.serve("a")
		w.s.Go("put 1", func() { _ = a.put(data(1)) })
		w.s.Go("put 2", func() { _ = a.put(data(1)) })
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"put put fails": func(w *world) { // one of two uploads of one blob fails; the other one does not
		a := w.serve("a")
		w.once(bucket.Vanish, "put", blobs)
		var errs [2]error
		for i, name := range []string{"put 1", "put 2"} {
			w.s.Go(name, func() { errs[i] = a.put(data(1)) })
		}
		w.s.Go("check", func() {
			for errs[0] == nil && errs[1] == nil {
				time.Sleep(time.Second)
			}
			time.Sleep(time.Second)
			if errs[0] != nil && errs[1] != nil {
				w.Errorf("HandOver: %v, %v: one upload's failure is another's", errs[0], errs[1])
			}
		})
	},
	"ask, other collects": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("ask", func() { b.ask(data(1)) })
		w.s.Go("poll", b.poll)
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"put, other collects": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("put", func() { _ = b.put(data(1)) })
		w.s.Go("poll", b.poll)
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"late put": func(w *world) {
		a, b := w.serve("a"), w.serve("b")
		w.once(bucket.Late, "put", blobs)
		w.s.Go("put", func() {
			if b.put(data(1)) != nil {
				_ = b.put(data(1))
			}
		})
		w.network("put", 1)
		w.s.Go("poll", b.poll)
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"late delete": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.once(bucket.Late, "delete", blobs)
		w.s.Go("put", func() { _ = b.put(data(1)) })
		w.network("delete", 1)
		w.s.Go("poll", b.poll)
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"keep": func(w *world) { // two blobs, one of them a second time elsewhere
		w.cold(data(1), data(2), data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("keep", func() { _ = b.keep("root", data(1), data(2)) })
		w.s.Go("poll", b.poll)
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"keep, release, collector's own": func(w *world) {
		w.cold(data(1))
		a := w.serve("a")
		w.s.Go("keep", func() {
			if a.keep("root", data(1)) == nil {
				sim.Point("kept")
				delete(w.kept, "root")
				_ = a.Release(w.Context(), "root")
			}
		})
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"add add": func(w *world) { // to one root, which is not there yet, by two servers
		w.cold(data(1), data(2))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("add 1", func() { a.add("root", data(1)) })
		w.s.Go("add 2", func() { b.add("root", data(2)) })
	},
	"add add, stopped": func(w *world) { // while another one collects what was superseded
		w.cold(data(1), data(2))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("add 1", func() { b.add("root", data(1)) })
		w.s.Go("add 2", func() { a.add("root", data(2)); a.add("root", data(2)) })
		w.s.Go("stop", func() { b.stopFor(some) })
		w.s.Go("collect", func() { a.collect(long) })
	},
	"add add, late": func(w *world) { // a root that its writer has given up comes all the same
		w.cold(data(1), data(2))
		a, b := w.serve("a"), w.serve("b")
		w.once(bucket.Late, "put", roots)
		w.s.Go("add 1", func() { a.add("root", data(1)) })
		w.s.Go("add 2", func() { b.add("root", data(2)) })
		w.network("put", 1)
	},
	"begin": func(w *world) { // a session that begins in the middle
		w.begins = true
		w.cold(data(1))
		a := w.serve("a")
		w.s.Go("begin", func() {
			b := w.serve("b")
			b.ask(data(1))
			b.poll()
		})
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"begin and keep": func(w *world) {
		w.begins = true
		w.cold(data(1))
		a := w.serve("a")
		w.s.Go("begin", func() {
			b := w.serve("b")
			_ = b.keep("root", data(1))
			b.poll()
		})
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"find": func(w *world) { // what another one wrote is looked up
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		b.lookup = true
		w.s.Go("find", func() {
			if b.keep("root", data(1)) != nil {
				time.Sleep(time.Minute)
				_ = b.keep("root", data(1))
			}
		})
		w.s.Go("poll", b.poll)
		w.s.Go("collect", func() { a.collect(soon) })
	},
	"ask and crash": func(w *world) { // what a server promised stands when it is dead
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("ask", func() { b.ask(data(1)); b.link.crash() })
		w.s.Go("poll", a.poll)
		w.s.Go("collect", func() { a.collect(long) })
	},
	"keep and crash": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("keep", func() { _ = b.keep("root", data(1)) })
		w.s.Go("crash", func() { b.link.crash() })
		w.s.Go("poll", a.poll)
		w.s.Go("collect", func() { a.collect(long) })
	},
	"keep and crash, collector stopped": func(w *world) { // until what the one that crashed promised has run out
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("keep", func() { _ = b.keep("root", data(1)); b.link.crash() })
		w.s.Go("stop", func() { a.stopFor(long) })
		w.s.Go("collect", func() { a.collect(long) })
	},
	"put, ask, stopped": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("ask", func() {
			_ = b.put(data(2))
			b.ask(data(1))
		})
		w.s.Go("stop", func() { b.stopFor(long) })
		w.s.Go("poll", a.poll)
		w.s.Go("collect", func() { a.collect(long) })
	},
	"keep, stopped": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("keep", func() { _ = b.keep("root", data(1)) })
		w.s.Go("stop", func() { b.stopFor(long) })
		w.s.Go("poll", a.poll)
		w.s.Go("collect", func() { a.collect(long) })
	},
	"collector crashes": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("collect", func() { a.collect(soon); w.done.Store(false) })
		w.s.Go("crash", func() { a.link.crash() })
		w.s.Go("poll", b.poll)
		w.s.Go("collect again", func() {
			b.takeOver()
			b.ask(data(1))
			b.collect(long)
		})
	},
	"collector stopped": func(w *world) { // it goes on when another one has taken over and adopted the blob again
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.s.Go("collect", func() { a.collect(soon); w.done.Store(false) })
		w.s.Go("stop", func() { a.stopFor(2 * some) })
		w.s.Go("poll", b.poll)
		w.s.Go("take over", func() {
			b.takeOver()
			b.ask(data(1))
			time.Sleep(2*some - soon) // the other one goes on, and is given up for good
			b.collect(soon)
		})
	},
	"collector crashes, late delete": func(w *world) {
		w.cold(data(1))
		a, b := w.serve("a"), w.serve("b")
		w.mem.Fault = func(op, key string) bucket.Fault {
			if op == "delete" && key[:2] == blobs && !a.link.dead {
				return bucket.Late
			}
			return bucket.None
		}
		w.s.Go("collect", func() { a.collect(soon); w.done.Store(false) })
		w.s.Go("crash", func() { a.link.crash() })
		w.s.Go("poll", b.poll)
		w.s.Go("take over", func() {
			b.takeOver()
			b.ask(data(1))
			w.mem.Land("delete")
			w.done.Store(true)
		})
	},
}

// network lets late requests land, at any time.
func (w *world) network(op string, times int) {
	w.s.Go("network", func() {
		for range times {
			sim.Point("land")
			w.mem.Land(op)
		}
	})
}
