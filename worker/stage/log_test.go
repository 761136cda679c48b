package stage

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sarsen-build/sarsen/digest"
)

// TestTornLog: the file of the cache is cut at any length, or any byte of it is wrong. Start-up takes in what
// is whole and right, what is not is fetched again, and the next process knows it all.
func TestTornLog(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	want := tree{"a/b/c/x": {data: "x"}, "a/y": {data: "y"}, "d/z": {data: "z"}}
	root := src.store(t, digest.SHA256, want)
	staged(t, s, root, dir, want)
	closeStager(t, s)
	name := filepath.Join(dir, "cache", logName)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole); n += 1 + n%7 {
		for what, content := range map[string][]byte{"cut": whole[:n], "flipped": flipped(whole, n)} {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s := openStager(t, dir, src, Options{}, 64<<20)
			known := s.Totals().Entries
			if known >= 5 {
				t.Fatalf("%s at %d: %d directories are known, want fewer than 5", what, n, known)
			}
			if stats := staged(t, s, root, dir, want); stats.Known+stats.Resolved != 5 {
				t.Errorf("%s at %d: %+v, want 5 directories", what, n, stats)
			}
			closeStager(t, s)
			s = openStager(t, dir, src, Options{}, 64<<20)
			if got := s.Totals().Entries; got != 5 {
				t.Errorf("%s at %d: the next process knows %d directories, want 5", what, n, got)
			}
			closeStager(t, s)
		}
	}
}

func flipped(b []byte, n int) []byte {
	b = append([]byte(nil), b...)
	b[n] ^= 0x10
	return b
}

// TestOtherFormat: a file of another format is begun anew.
func TestOtherFormat(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	root := src.store(t, digest.SHA256, sample)
	staged(t, s, root, dir, sample)
	closeStager(t, s)
	name := filepath.Join(dir, "cache", logName)
	if err := os.WriteFile(name, []byte("sarsen directories 2\nwhatever"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cache", newName), []byte("litter"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStager(t, dir, src, Options{}, 64<<20)
	if got := s.Totals().Entries; got != 0 {
		t.Errorf("%d directories are known, want none", got)
	}
	staged(t, s, root, dir, sample)
}

// TestCacheBounds: the cache is bounded in entries and bytes, also at start, and its file with it.
func TestCacheBounds(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	for i := range 30 {
		want := tree{fmt.Sprint("dir/file", i): {data: "x"}}
		staged(t, s, src.store(t, digest.SHA256, want), dir, want)
	}
	if got := s.Totals(); got.Entries != 60 {
		t.Errorf("Totals = %+v, want 60 entries", got)
	}
	closeStager(t, s)
	for _, o := range []Options{{MaxEntries: 7}, {MaxBytes: 600}} {
		s = openStager(t, dir, src, o, 64<<20)
		got := s.Totals()
		if o.MaxEntries > 0 && got.Entries != 7 || o.MaxBytes > 0 && (got.Bytes > 600 || got.Entries < 3) {
			t.Errorf("with %+v: Totals = %+v", o, got)
		}
		want := tree{"dir/file29": {data: "x"}} // the last one of all
		if stats := staged(t, s, src.store(t, digest.SHA256, want), dir, want); stats.Known != 2 {
			t.Errorf("with %+v: %+v, want the youngest tree to be known", o, stats)
		}
		closeStager(t, s)
	}
}

// TestRenew: the file is written anew when it has grown to twice what the cache may hold, and then holds what
// the cache does.
func TestRenew(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	o := Options{MaxEntries: 20}
	s := openStager(t, dir, src, o, 64<<20)
	s.keeper.limit = 3000
	var want tree
	for i := range 60 {
		want = tree{fmt.Sprint("dir/file", i): {data: "x"}}
		staged(t, s, src.store(t, digest.SHA256, want), dir, want)
	}
	closeStager(t, s)
	fi, err := os.Stat(filepath.Join(dir, "cache", logName))
	if err != nil || fi.Size() > 4500 {
		t.Errorf("the file has %d bytes, %v, want little more than 3000", fi.Size(), err)
	}
	s = openStager(t, dir, src, o, 64<<20)
	if stats := staged(t, s, src.store(t, digest.SHA256, want), dir, want); stats.Known != 2 {
		t.Errorf("%+v, want the youngest tree to be known", stats)
	}
}

// TestUsedStays: what a plan uses is not evicted, however small the cache is.
func TestUsedStays(t *testing.T) {
	c := newCache(2, 1<<20)
	d := func(i int) digest.Digest { return digest.SHA256.Of(fmt.Append(nil, i)) }
	p := &plan{nodes: map[digest.Digest]*node{d(0): {digest: d(0)}}}
	c.putAll(p.nodes, []message{{d(0), nil}})
	for i := range 5 {
		c.restore(&node{digest: d(i + 1)})
	}
	if !c.has(d(0)) || c.has(d(1)) || !c.has(d(5)) {
		t.Error("want the used node and the youngest one in the cache")
	}
	c.release(p)
	c.restore(&node{digest: d(9)})
	if entries, _, evicted := c.size(); c.has(d(0)) || entries != 2 || evicted != 5 {
		t.Errorf("%d entries, %d evicted, want 2 and 5, and the oldest gone", entries, evicted)
	}
}
