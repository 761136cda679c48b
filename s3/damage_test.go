package s3

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// keepAll puts blobs and keeps them under a name.
func keepAll(t *testing.T, s *Store, name string, all ...[]byte) (ds []digest.Digest) {
	t.Helper()
	for _, data := range all {
		d := digest.SHA256.Of(data)
		if err := blob.Put(t.Context(), s, d, data); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	if err := s.Keep(t.Context(), name, nil, digest.SetOf(ds...)); err != nil {
		t.Fatal(err)
	}
	return ds
}

// many returns so many blobs that a root has a list of its own.
func many() (all [][]byte) {
	for i := range 250 {
		all = append(all, storetest.Bytes(uint64(i), 20))
	}
	return all
}

// TestDamagedRoot: a root that can't be read may keep anything, so no blob goes. The rest of the collection is done, and
// says so; when the root is kept anew all is as it was.
func TestDamagedRoot(t *testing.T) {
	for name, damage := range map[string]func(b *bucket.Memory){
		"flipped": func(b *bucket.Memory) {
			spoil(b, last(b.Keys(roots)), func(v []byte) []byte { return flipped(v, len(v)-1) })
		},
		"cut": func(b *bucket.Memory) {
			spoil(b, last(b.Keys(roots)), func(v []byte) []byte { return v[:headerSize+2] })
		},
		"empty":   func(b *bucket.Memory) { spoil(b, last(b.Keys(roots)), func([]byte) []byte { return []byte{} }) },
		"list":    func(b *bucket.Memory) { spoil(b, listKey(b), func(v []byte) []byte { return flipped(v, len(v)-1) }) },
		"no list": func(b *bucket.Memory) { spoil(b, listKey(b), func([]byte) []byte { return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { damagedRoot(t, damage) })
		})
	}
}

func damagedRoot(t *testing.T, damage func(*bucket.Memory)) {
	b := &bucket.Memory{}
	o := small
	o.uncompressed = true
	s := openStore(t, b, o)
	keepAll(t, s, "root", storetest.Bytes(999, 20)) // superseded
	ds := keepAll(t, s, "root", many()...)
	for i := range 2 {
		if err := s.Put(t.Context(), [32]byte{1}, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * small.Lease)
	damage(b)
	r, err := s.Collect(t.Context(), Policy{All: true})
	var damaged *DamagedError
	if !errors.As(err, &damaged) || len(damaged.Roots) != 1 || !strings.HasPrefix(damaged.Roots[0].Key, roots) ||
		!strings.HasPrefix(damaged.Error(), "1 root is damaged,") {
		t.Errorf("Collect = %+v, %v, want a DamagedError", r, err)
	}
	if got := len(b.Keys(records)); got != 0 {
		t.Errorf("%d records are left, which no root names", got)
	}
	if dry, err := s.Collect(t.Context(), Policy{All: true, DryRun: true}); !errors.As(err, &damaged) || dry.Candidates != 0 {
		t.Errorf("a dry run = %+v, %v", dry, err)
	}
	missing, err := s.Missing(t.Context(), digest.SetOf(ds...))
	if err != nil || missing.Len() > 0 {
		t.Errorf("CollectorSpares: %d blobs of a damaged root are gone, %v", missing.Len(), err)
	}
	if got := len(b.Keys(roots)); name(t) != "list" && name(t) != "no list" && got < 2 {
		t.Errorf("%d roots are left: what a damaged one superseded is gone", got)
	}
	if err := s.Keep(t.Context(), "root", nil, digest.SetOf(ds...)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * small.Lease)
	if r, err := s.Collect(t.Context(), Policy{All: true}); err != nil || r.Kept != 251 || len(b.Keys(roots)) != 1 {
		t.Errorf("when it was kept anew: %+v, %v", r, err)
	}
	closeStore(t, s)
}

func name(t *testing.T) string { return t.Name()[strings.LastIndexByte(t.Name(), '/')+1:] }

func last(keys []string) string { return keys[len(keys)-1] }

func spoil(b *bucket.Memory, key string, change func([]byte) []byte) {
	b.Set(key, change(b.Value(key)))
}

// listKey returns the object that has the list of the last root.
func listKey(b *bucket.Memory) string {
	key := last(b.Keys(roots))
	r, _, _ := decodeRootObject(key, b.Value(key))
	return b.Keys(blobPrefix(keyOf(r.List)))[0]
}

// TestDamagedSession: a server that lives mends its session's record. One that does not blocks, and is named.
func TestDamagedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		o := small
		o.Heartbeat, o.manual, o.uncompressed = time.Minute, false, true
		s := openStore(t, b, o)
		alone := o
		alone.newID = func() string { return "z" }
		begin := time.Now()
		alone.clock = func() time.Duration { return time.Since(begin) }
		b.Set(b.Keys(sessions)[0], []byte("{"))
		_, err := CollectAlone(t.Context(), b, alone, Policy{All: true, Patience: 2 * time.Minute})
		if err != nil {
			t.Errorf("Collect while a server lives whose record was damaged = %v", err)
		}
		if got := s.Stats().Sessions; got != 1 {
			t.Errorf("%d sessions, want that the first goes on", got)
		}
		closeStore(t, s)
		b.Set(b.Keys(sessions)[0], []byte("{"))
		time.Sleep(24 * time.Hour)
		var blocked *BlockedError
		if _, err = CollectAlone(t.Context(), b, alone, Policy{All: true, Patience: 2 * time.Minute}); err != nil {
			t.Errorf("with nothing to remove Collect = %v", err)
		}
		b.Set("c/00/"+strings.Repeat("0", 64), []byte("strange"))
		i := incarnation{key: keyOf(digest.SHA256.Of(data(1))), size: 10, session: "0", n: 1}
		b.Set(i.name(), packer{block: 1 << 10, plain: true}.seal(i.key, data(1)))
		_, err = CollectAlone(t.Context(), b, alone, Policy{All: true, Patience: 2 * time.Minute})
		if !errors.As(err, &blocked) || !blocked.Damaged || !strings.Contains(err.Error(), b.Keys(sessions)[0]) {
			t.Errorf("Collect beside a damaged record of nobody = %v", err)
		}
		b.Set(b.Keys(sessions)[0], nil)
		if r, err := CollectAlone(t.Context(), b, alone, Policy{All: true, Patience: 2 * time.Minute}); err != nil || r.Deleted == 0 {
			t.Errorf("when it was removed: %+v, %v", r, err)
		}
	})
}

// TestDamagedDocument: what a session refused, and what a verdict names, is not known by halves.
func TestDamagedDocument(t *testing.T) {
	s := newStore(&bucket.Memory{}, small)
	defer s.stop()
	p := proposal{force: true, lines: []line{{"c/1", ""}, {"c/2", "c/3"}}}
	for _, what := range []string{"flipped", "cut", "empty", "line"} {
		if err := s.writeLines(t.Context(), "p/1", p.encode()); err != nil {
			t.Fatal(err)
		}
		if got, err := s.readProposal(t.Context(), "p/1"); err != nil || !slices.Equal(got.lines, p.lines) || !got.force {
			t.Errorf("read back: %+v, %v", got, err)
		}
		m := s.bucket.(*bucket.Memory)
		spoil(m, "p/1", map[string]func([]byte) []byte{
			"flipped": func(b []byte) []byte { return flipped(b, len(documentHead)+8) },
			"cut":     func(b []byte) []byte { return b[:len(b)-3] },
			"empty":   func([]byte) []byte { return []byte{} },
			"line":    func(b []byte) []byte { return b[:len(b)-sumDigits-1] },
		}[what])
		if _, err := s.readProposal(t.Context(), "p/1"); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: readProposal = %v, want ErrCorrupt", what, err)
		}
	}
}

// TestDamagedCopy: of two copies one is damaged. The other one is read, by who begins then, too, and it is the one that
// stays.
func TestDamagedCopy(t *testing.T) {
	for _, size := range []int{10, 5000} {
		for _, bad := range []int{0, 1} {
			synctest.Test(t, func(t *testing.T) { damagedCopy(t, size, bad) })
		}
	}
}

func damagedCopy(t *testing.T, size, bad int) {
	b := &bucket.Memory{}
	o := small
	o.uncompressed = true
	value := storetest.Bytes(1, size)
	d := digest.SHA256.Of(value)
	var keys []string
	for i := range 2 {
		at := incarnation{key: keyOf(d), size: d.Size, session: "0", n: uint64(i + 1)}
		b.Set(at.name(), packer{block: 1 << 10, plain: true}.seal(at.key, value))
		keys = append(keys, at.name())
	}
	spoil(b, keys[bad], func(v []byte) []byte { return flipped(v, headerSize+1) })
	s := openStore(t, b, o)
	if err := check(s, d); err != nil {
		t.Errorf("%d bytes, copy %d damaged: %v", size, bad, err)
	}
	if got, errs := s.GetAll(t.Context(), []digest.Digest{d}); errs[0] != nil || len(got[0]) != size {
		t.Errorf("%d bytes, copy %d damaged: GetAll = %v", size, bad, errs[0])
	}
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), Policy{}); err != nil {
		t.Errorf("Collect = %v", err)
	}
	if got := b.Keys(blobs); bad == 1 && !slices.Equal(got, keys[:1]) || len(got) != 1 {
		t.Errorf("%d bytes, copy %d damaged: %v is left", size, bad, got)
	}
	if bad == 1 {
		l := s.now.Load()
		if agreed, _ := l.condemn(line{keys[0], keys[1]}, true, 1); agreed {
			t.Error("a good copy goes for a damaged one")
		}
	}
	if err := check(s, d); err != nil {
		t.Errorf("%d bytes, copy %d damaged, after a collection: %v", size, bad, err)
	}
	closeStore(t, s)
}

// TestDamagedVerdict: who can't read what may be deleted adopts nothing, and nobody else's work ends with it. When the
// verdict can't be carried out any more, it is closed, and all that is there is found again.
func TestDamagedVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{Fault: func(op, key string) bucket.Fault {
			if op == "delete" && strings.HasPrefix(key, blobs) {
				return bucket.Vanish
			}
			return bucket.None
		}}
		o := small
		o.uncompressed, o.Lease = true, time.Second
		s := openStore(t, b, o)
		d := keepAll(t, s, "root", data(1))[0]
		if err := s.Release(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := s.Collect(t.Context(), Policy{All: true}); err == nil {
			t.Error("Collect = nil, though nothing could be deleted")
		}
		closeStore(t, s)
		b.Fault = nil
		spoil(b, b.Keys(verdicts)[0], func(v []byte) []byte { return flipped(v, len(documentHead)+8) })
		s = openStore(t, b, o)
		if missing, err := s.Missing(t.Context(), digest.SetOf(d)); err != nil || missing.Len() != 1 {
			t.Errorf("what may be deleted is said to be there, %v", err)
		}
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(data(2)), data(2)); err != nil {
			t.Errorf("Put = %v", err)
		}
		time.Sleep(time.Hour)
		if r, err := s.Collect(t.Context(), Policy{}); err != nil || r.Deleted != 0 {
			t.Errorf("Collect = %+v, %v", r, err)
		}
		for _, value := range [][]byte{data(1), data(2)} {
			if err := check(s, digest.SHA256.Of(value)); err != nil {
				t.Errorf("when the verdict is closed: %v", err)
			}
		}
		closeStore(t, s)
	})
}
