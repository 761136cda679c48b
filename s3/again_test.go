package s3

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A garbling bucket damages the first answer for each part of an object below a prefix.
type garbling struct {
	*bucket.Memory
	prefix string

	mu   sync.Mutex
	seen map[[2]any]bool
}

func (g *garbling) Get(ctx context.Context, key string, off, n int64) ([]byte, bucket.Object, error) {
	b, o, err := g.Memory.Get(ctx, key, off, n)
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := [2]any{key, off}; err == nil && g.prefix != "" && strings.HasPrefix(key, g.prefix) && !g.seen[at] {
		g.seen[at] = true
		b = flipped(b, len(b)-1)
	}
	return b, o, err
}

// TestGarbled: what comes damaged once is read again, be it a blob, a large one's frame or blocks, or a root's list: none
// of it is given up.
func TestGarbled(t *testing.T) {
	b := &garbling{Memory: &bucket.Memory{}, seen: map[[2]any]bool{}}
	o := small
	o.uncompressed = true
	s := openStore(t, b, o)
	ds := keepAll(t, s, "root", append(many(), storetest.Bytes(1000, 40000))...)
	b.prefix = blobs
	if r, err := s.Collect(t.Context(), Policy{All: true}); err != nil || r.Kept != 252 || r.Deleted > 0 {
		t.Errorf("Collect = %+v, %v", r, err)
	}
	r, err := s.Open(t.Context(), ds[250])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, r.Size()), 0); err != nil {
		t.Errorf("ReadAt = %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if got := s.Stats().Corrupt; got > 0 {
		t.Errorf("%d objects were dropped, which are sound", got)
	}
	closeStore(t, s)
}

// TestLostStays: what was let go of in vain is found again by the next look, if the first one fails.
func TestLostStays(t *testing.T) {
	b := &bucket.Memory{}
	s := openStore(t, b, small)
	d := keepAll(t, s, "root", data(1))[0]
	l := s.now.Load()
	l.ledger.Drop(keyOf(d), l.ids.place(incarnation{key: keyOf(d), session: l.id, n: 1}))
	l.lost.Store(true)
	b.Fault = func(op, key string) bucket.Fault {
		if op == "list" && key == blobs {
			return bucket.Refuse
		}
		return bucket.None
	}
	if _, err := s.Collect(t.Context(), Policy{}); !errors.Is(err, bucket.ErrBusy) {
		t.Errorf("Collect = %v, want ErrBusy", err)
	}
	b.Fault = nil
	if err := s.follow(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if missing, err := s.Missing(t.Context(), digest.SetOf(d)); err != nil || missing.Len() > 0 {
		t.Errorf("what is kept is missing: %v", err)
	}
	closeStore(t, s)
}

// TestDocumentGarbled: a verdict that comes damaged once holds nothing up when it was read.
func TestDocumentGarbled(t *testing.T) {
	b := &garbling{Memory: &bucket.Memory{}, seen: map[[2]any]bool{}}
	s := openStore(t, b, small)
	r := register{Serial: 7, Epoch: 3, Session: "x", Verdicts: []verdict{{documentKey(verdicts, 3, "x"), "x"}}}
	if err := s.writeLines(t.Context(), r.Verdicts[0].Key, proposal{lines: []line{{"c/1", ""}}}.encode()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.writeRegister(t.Context(), "", &r); err != nil {
		t.Fatal(err)
	}
	at := incarnation{key: keyOf(digest.SHA256.Of(data(1))), size: 10, session: "0", n: 1}
	b.Set(at.name(), packer{block: 1 << 10, plain: true}.seal(at.key, data(1)))
	b.prefix = verdicts
	for range 2 {
		if err := s.follow(t.Context(), s.now.Load()); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(s, digest.SHA256.Of(data(1))); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

// TestPinSuspended: who is believed dead pins nothing.
func TestPinSuspended(t *testing.T) {
	s := openStore(t, &bucket.Memory{}, small)
	d := keepAll(t, s, "root", data(1))[0]
	s.now.Load().end()
	if _, err := s.Pin(t.Context(), digest.SetOf(d)); !errors.Is(err, ErrSuspended) {
		t.Errorf("Pin = %v, want ErrSuspended", err)
	}
	if n := s.Stats().Pins; n > 0 {
		t.Errorf("%d pins are held", n)
	}
	s.stop()
}

// TestUndecidedBetween: a proposal ends, or begins, between the moment in which a blob was looked for and that in which it
// is held. It is not said to be gone.
func TestUndecidedBetween(t *testing.T) {
	b := &bucket.Memory{}
	o := small
	o.Lookup, o.Lease = true, time.Millisecond
	one, two := openStore(t, b, o), openStore(t, b, o)
	d := keepAll(t, two, "root", data(1))[0]
	l := one.now.Load()
	p := proposal{force: true, lines: []line{{b.Keys(blobs)[0], ""}}}
	defer sim.Install(nil)
	meanwhile := func(do func()) {
		sim.Install(func(point string) {
			if point == "looked" {
				sim.Install(nil)
				do()
			}
		})
	}
	meanwhile(func() { l.letGoOf("p/2-x", p, true) })
	if err := check(one, d); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("when a proposal begins, Open = %v, want ErrUnavailable", err)
	}
	meanwhile(func() { l.forget(l.heeded+1, nil) })
	if err := check(one, d); err != nil {
		t.Errorf("when it ends, Open = %v", err)
	}
	closeStore(t, one)
	closeStore(t, two)
}

// TestDamagedUnlisted: of two copies one is damaged, and the bucket can't be listed for the other one. Nobody says that the
// blob is gone, and when the bucket is back it is there.
func TestDamagedUnlisted(t *testing.T) {
	b := &bucket.Memory{}
	d := digest.SHA256.Of(data(1))
	for i := range 2 {
		at := incarnation{key: keyOf(d), size: d.Size, session: "0", n: uint64(i + 1)}
		b.Set(at.name(), packer{block: 1 << 10, plain: true}.seal(at.key, data(1)))
	}
	s := openStore(t, b, small)
	for _, key := range b.Keys(blobs) {
		if i, _ := parseName(key); s.now.Load().ledger.Names(i.key, s.now.Load().ids.place(i)) {
			spoil(b, key, func(v []byte) []byte { return flipped(v, headerSize+1) })
		}
	}
	b.Fault = func(op, key string) bucket.Fault {
		if op == "list" {
			return bucket.Refuse
		}
		return bucket.None
	}
	if err := check(s, d); !errors.Is(err, bucket.ErrBusy) || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open = %v, want ErrBusy", err)
	}
	b.Fault = nil
	if err := s.follow(t.Context(), s.now.Load()); err != nil {
		t.Fatal(err)
	}
	if err := check(s, d); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

// TestLongLoad: a server that begins anew and loads for longer than a heartbeat is back when it has loaded.
func TestLongLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		o := small
		o.Heartbeat, o.manual, o.uncompressed = time.Minute, false, true
		s := openStore(t, b, o)
		b.Before = func(op, key string) {
			if op == "list" && key == blobs {
				time.Sleep(5 * time.Minute)
			}
		}
		s.now.Load().end()
		time.Sleep(6 * time.Minute)
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(data(1)), data(1)); err != nil {
			t.Errorf("Put = %v", err)
		}
		if got := s.Stats().Sessions; got != 2 {
			t.Errorf("%d sessions, want 2", got)
		}
		closeStore(t, s)
	})
}
