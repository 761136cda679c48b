package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestSeededServers: three servers put, ask, keep and collect, one of them stops or crashes, and the network loses,
// delays and repeats what it may.
func TestSeededServers(t *testing.T) {
	explore.Run(t, 300, func(t *testing.T, s *explore.Schedule) {
		w := newWorld(t, s)
		s.Only = nil
		w.cold(data(1), data(2), data(1))
		a, b, c := w.serve("a"), w.serve("b"), w.serve("c")
		b.lookup = true
		w.mem.Fault = func(op, key string) bucket.Fault {
			if s.Rand.IntN(20) > 0 {
				return bucket.None
			}
			switch op {
			case "put":
				return []bucket.Fault{bucket.Refuse, bucket.Lose, bucket.Late, bucket.Vanish, bucket.Duplicate}[s.Rand.IntN(5)]
			case "delete":
				return []bucket.Fault{bucket.Refuse, bucket.Lose, bucket.Late, bucket.Duplicate}[s.Rand.IntN(4)]
			}
			return bucket.Refuse
		}
		for i, sv := range []*server{b, c} {
			w.s.Go(fmt.Sprint("client ", i), func() {
				for range 4 {
					d := data(1 + s.Rand.Uint64N(3))
					switch s.Rand.IntN(4) {
					case 0:
						sv.ask(d)
					case 1:
						_ = sv.keep(fmt.Sprint("root", s.Rand.IntN(2)), d, data(1))
					case 2:
						_ = sv.Release(context.Background(), "root0")
						w.mu.Lock()
						delete(w.kept, "root0")
						w.mu.Unlock()
					default:
						_ = sv.put(d)
					}
				}
			})
			w.s.Go(fmt.Sprint("poll ", i), sv.poll)
		}
		w.network("", 3)
		switch s.Rand.IntN(3) {
		case 0:
			w.s.Go("stop", func() { c.stopFor([]time.Duration{soon, some, long}[s.Rand.IntN(3)]) })
		case 1:
			w.s.Go("crash", func() { c.link.crash() })
		}
		w.s.Go("poll a", a.poll)
		w.s.Go("collect", func() { a.collect(long) })
		s.Run()
		w.kept = nil // a Release may have come after a Keep that was told first
		w.rest()
	})
}

// TestSuspended: a server that could not reach the bucket for too long says so, and then begins a new session by itself.
func TestSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		b := &bucket.Memory{Fault: func(string, string) bucket.Fault {
			if away.Load() {
				return bucket.Refuse
			}
			return bucket.None
		}}
		o := small
		o.Heartbeat, o.manual, o.uncompressed = time.Minute, false, true
		s := openStore(t, b, o)
		first := storetest.Bytes(1, 100)
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(first), first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if got := s.Stats().Sessions; got != 1 {
			t.Errorf("after ten good minutes: %d sessions, want 1", got)
		}
		away.Store(true)
		time.Sleep(2 * time.Minute)
		if _, err := s.Missing(t.Context(), digest.SetOf(digest.SHA256.Of(first))); !errors.Is(err, ErrSuspended) {
			t.Errorf("Missing when the bucket can't be reached = %v, want ErrSuspended", err)
		}
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(first), first); err == nil {
			t.Error("Put when the bucket can't be reached = nil")
		}
		away.Store(false)
		time.Sleep(time.Minute)
		if got := s.Stats().Sessions; got != 2 {
			t.Errorf("after it is back: %d sessions, want 2", got)
		}
		if err := check(s, digest.SHA256.Of(first)); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
		if keys := b.Keys(sessions); len(keys) != 2 {
			t.Errorf("records %v, want the two sessions'", keys)
		}
	})
}

// TestShared: what one server writes, another one finds: when it looks, when it is told, and when it lists.
func TestShared(t *testing.T) {
	b := &bucket.Memory{}
	a := openStore(t, b, small)
	looks := small
	looks.Lookup = true
	looking, listing, told := openStore(t, b, looks), openStore(t, b, small), openStore(t, b, small)
	ctx := t.Context()
	data := storetest.Bytes(1, 5000)
	d := digest.SHA256.Of(data)
	if err := blob.Put(ctx, a, d, data); err != nil {
		t.Fatal(err)
	}
	if err := a.Put(ctx, [32]byte{7}, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if _, err := listing.Open(ctx, d); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open before it is listed = %v, want ErrNotFound", err)
	}
	if err := listing.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if err := told.Adopt(ctx, b.Keys(blobs)[0]); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"looks": looking, "lists": listing, "is told": told} {
		if err := check(s, d); err != nil {
			t.Errorf("a server that %s: %v", name, err)
		}
	}
	// The second to put a record knows of the first, or has a later clock: its value stands everywhere.
	if err := listing.Put(ctx, [32]byte{7}, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, err := looking.Get(ctx, [32]byte{7}); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a server that looks for blobs: Get = %v, want ErrNotFound, as records are not looked for", err)
	}
	if err := errors.Join(a.Refresh(ctx), looking.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"the first": a, "the second": listing, "one that listed it": looking} {
		if r, err := s.Get(ctx, [32]byte{7}); err != nil || string(r.Value) != "new" {
			t.Errorf("%s has %q, %v, want the new value", name, r.Value, err)
		}
	}
	for _, s := range []*Store{a, looking, listing, told} {
		closeStore(t, s)
	}
}

// TestSecondCopy: of two servers' copies of one blob one goes, while it is read.
func TestSecondCopy(t *testing.T) {
	b := &bucket.Memory{}
	secondCopy(t, b)
	if keys := b.Keys(blobs); len(keys) != 1 {
		t.Errorf("after the collection: %v, want one copy", keys)
	}
}

func secondCopy(t *testing.T, b bucket.Bucket) {
	o := small
	o.Heartbeat = 2 * time.Second
	o.manual = false
	a, other := openStore(t, b, o), openStore(t, b, o)
	ctx := t.Context()
	data := storetest.Bytes(1, 50000)
	d := digest.SHA256.Of(data)
	for _, s := range []*Store{a, other} {
		if err := blob.Put(ctx, s, d, data); err != nil {
			t.Fatal(err)
		}
	}
	r, err := other.Open(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := a.Collect(ctx, Policy{Patience: time.Minute}); err != nil || report.Deleted != 1 {
		t.Errorf("Collect = %+v, %v, want one copy deleted", report, err)
	}
	got := make([]byte, len(data))
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a reader of the copy that went: %v", err)
	}
	_ = r.Close()
	for _, s := range []*Store{a, other} {
		if err := check(s, d); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	}
}

// TestDamaged: an object that is damaged or gone is not found, and can be put again.
func TestDamaged(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"gone":    func([]byte) []byte { return nil },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"flipped": func(b []byte) []byte { return flipped(b, len(b)-1) },
		"header":  func(b []byte) []byte { return flipped(b, 20) },
	} {
		for _, n := range sizes {
			b := &bucket.Memory{}
			s := openStore(t, b, small)
			data := storetest.Bytes(1, n)
			d := digest.SHA256.Of(data)
			for range 2 {
				if err := blob.Put(t.Context(), s, d, data); err != nil {
					t.Fatalf("%s, %d bytes: Put = %v", name, n, err)
				}
				if err := check(s, d); err != nil {
					t.Errorf("%s, %d bytes: %v", name, n, err)
				}
				key := b.Keys(blobs)[len(b.Keys(blobs))-1]
				b.Set(key, damage(b.Value(key)))
				if _, err := blob.Get(t.Context(), s, d); !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s, %d bytes: Get = %v, want ErrNotFound", name, n, err)
				}
			}
			closeStore(t, s)
		}
	}
}

// TestCompressed: what gains is stored compressed, and comes back.
func TestCompressed(t *testing.T) {
	b := &bucket.Memory{}
	s := openStore(t, b, small)
	data := bytes.Repeat([]byte("abcdefgh"), 10000)
	d := digest.SHA256.Of(data)
	if err := blob.Put(t.Context(), s, d, data); err != nil {
		t.Fatal(err)
	}
	if key := b.Keys(blobs)[0]; len(b.Value(key)) > len(data)/4 {
		t.Errorf("%d bytes are stored as %d", len(data), len(b.Value(key)))
	}
	if err := check(s, d); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

// TestMaxSize: the oldest go, until the rest fits.
func TestMaxSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		o := small
		o.uncompressed = true
		s := openStore(t, b, o)
		var ds []digest.Digest
		for i := range 10 {
			data := storetest.Bytes(uint64(i), 900)
			ds = append(ds, digest.SHA256.Of(data))
			if err := blob.Put(t.Context(), s, ds[i], data); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if r, err := s.Collect(t.Context(), Policy{MaxSize: 5000}); err != nil || r.Deleted != 0 || r.Refused == 0 {
			t.Errorf("all leased: %+v, %v", r, err)
		}
		time.Sleep(2 * small.Lease)
		if r, err := s.Collect(t.Context(), Policy{MaxSize: 5000, DryRun: true}); err != nil || r.Deleted != 0 || r.Candidates == 0 {
			t.Errorf("dry run: %+v, %v", r, err)
		}
		for range 2 { // what was used has a second chance
			if _, err := s.Collect(t.Context(), Policy{MaxSize: 5000}); err != nil {
				t.Fatal(err)
			}
		}
		missing, err := s.Missing(t.Context(), digest.SetOf(ds...))
		if err != nil || missing.Len() != 5 || missing.List()[0] != ds[0] || missing.List()[4] != ds[4] {
			t.Errorf("%d are missing, %v, want the oldest five", missing.Len(), err)
		}
		closeStore(t, s)
	})
}

// TestNames: a name says what it names, and nothing else is one.
func TestNames(t *testing.T) {
	for _, function := range digest.Functions {
		i := incarnation{keyOf(function.Of([]byte("x"))), 1, newSession(), 7}
		if got, ok := parseName(i.name()); !ok || got != i {
			t.Errorf("%s is read as %+v", i.name(), got)
		}
		for _, bad := range []string{"", i.name() + "0", strings.ToUpper(i.name()), i.name()[1:], strings.Replace(i.name(), "-1.", "-01.", 1)} {
			if got, ok := parseName(bad); ok {
				t.Errorf("%q is read as %+v", bad, got)
			}
		}
	}
	r := incarnation{key: recordKey([32]byte{1}), session: newSession(), n: stamp()}
	if got, ok := parseName(r.name()); !ok || got != r {
		t.Errorf("%s is read as %+v", r.name(), got)
	}
}

func FuzzFrame(f *testing.F) {
	k := keyOf(digest.SHA256.Of([]byte("x")))
	for _, n := range []int{0, 1, 100, 5000} {
		f.Add(packer{block: 1 << 10}.seal(k, bytes.Repeat([]byte("x"), n)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := open(k, b); err != nil && !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("open = %v, want ErrCorrupt", err)
		}
	})
}
