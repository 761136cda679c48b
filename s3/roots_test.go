package s3

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// oddNames are names that keys, paths and URLs treat in ways of their own.
var oddNames = []string{
	"a", "a/b", "a//b", "a///b", "/", "//", "/a", "a/", "a/b/", ".", "..", "a/../b", "a/./b", "a.b", "a-b", "a b", "~", "a~b", "%41", "%", "a?b=c&d#e", "a+b",
	"é", "\x00", "\xff", "\n", "a\\b", "\"", "<&>", "A", "c/00/x", "owner",
	strings.Repeat("x", 150), strings.Repeat("x", 151), strings.Repeat("x", blob.MaxRootName), strings.Repeat("\xff", blob.MaxRootName),
	strings.Repeat("x/", 400), strings.Repeat("x/", blob.MaxRootName/2), strings.Repeat("x", 1000) + "/y", strings.Repeat("x", 1000) + "/z",
}

// longPrefix is as long as a bucket's prefix may be.
var longPrefix = strings.Repeat("p", 199) + "/"

// TestRootNames: whatever a root is called, it is kept, found under each beginning of its name, superseded and released.
func TestRootNames(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { rootNames(t, &bucket.Memory{}, bucket.MaxAge) })
	})
	t.Run("gateway", func(t *testing.T) { rootNames(t, gateway(t, longPrefix), 0) })
}

// rootNames waits for so long before what was superseded is collected, which goes when it is old enough.
func rootNames(t *testing.T, b bucket.Bucket, wait time.Duration) {
	ctx := t.Context()
	o := small
	o.uncompressed = true // the encoders are pooled, and none may come from a bubble
	s := openStore(t, b, o)
	for _, value := range []string{"old", "new"} {
		for _, name := range oddNames {
			if err := s.Keep(ctx, name, []byte(value), digest.Set{}); err != nil {
				t.Errorf("Keep %.20q = %v", name, err)
			}
		}
	}
	kept := func(prefix string) (names []string) {
		for r, err := range s.Kept(ctx, prefix) {
			if err != nil || string(r.Value) != "new" {
				t.Errorf("%.20q keeps %q, %v, want the new value", r.Name, r.Value, err)
			}
			names = append(names, r.Name)
		}
		return names
	}
	want := slices.Sorted(slices.Values(oddNames))
	if got := kept(""); !slices.Equal(got, want) {
		t.Errorf("Kept = %.300q, want %.300q", got, want)
	}
	for _, name := range oddNames {
		for _, prefix := range []string{name, name[:len(name)/2], name[:len(name)-1], name + "x"} {
			with := slices.DeleteFunc(slices.Clone(want), func(n string) bool { return !strings.HasPrefix(n, prefix) })
			if got := kept(prefix); !slices.Equal(got, with) {
				t.Errorf("Kept(%.20q) = %.300q, want %.300q", prefix, got, with)
			}
		}
	}
	time.Sleep(wait)
	old := 0
	if wait >= bucket.MaxAge {
		old = len(oddNames)
	}
	if r, err := s.Collect(ctx, Policy{}); err != nil || r.DeletedRoots != old {
		t.Errorf("Collect = %+v, %v, want %d older objects of roots deleted", r, err, old)
	}
	for _, name := range oddNames {
		if err := s.Release(ctx, name); err != nil {
			t.Errorf("Release %.20q = %v", name, err)
		}
	}
	if got := kept(""); len(got) > 0 {
		t.Errorf("after Release %.300q is kept", got)
	}
	closeStore(t, s)
}

// TestRootKeys: no key is longer than S3's, and no part of one longer than a file's name.
func TestRootKeys(t *testing.T) {
	seen := map[string]string{}
	for _, name := range oddNames {
		key := longPrefix + rootName(name, 1<<44-1, newSession())
		if len(key) > 1024 {
			t.Errorf("%.20q has a key of %d bytes", name, len(key))
		}
		for _, part := range strings.Split(key+"/"+rootPrefix(name), "/") {
			if part == "" || part == "." || part == ".." || len(part) > 255 {
				t.Errorf("%.20q has the part %q", name, part)
			}
		}
		if other, ok := seen[rootPrefix(name)]; ok {
			t.Errorf("%.20q and %.20q have one key", name, other)
		}
		seen[rootPrefix(name)] = name
	}
}

// TestRootsReadOnce: a root is read once, whoever lists it how often, and anew when it was changed.
func TestRootsReadOnce(t *testing.T) {
	ctx := t.Context()
	b := &bucket.Memory{}
	a, other := openStore(t, b, small), openStore(t, b, small)
	for i := range 20 {
		if err := a.Keep(ctx, fmt.Sprint("root", i), []byte("old"), digest.Set{}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(want string, reads int) {
		t.Helper()
		before := b.Requests("get")
		n := 0
		for r, err := range a.Kept(ctx, "root") {
			if err != nil || r.Name == "root7" && string(r.Value) != want {
				t.Errorf("%s keeps %q, %v, want %q", r.Name, r.Value, err, want)
			}
			n++
		}
		if got := b.Requests("get") - before; n != 20 || got != reads {
			t.Errorf("%d roots, %d reads, want 20 and %d", n, got, reads)
		}
	}
	list("old", 20)
	list("old", 0)
	if err := other.Keep(ctx, "root7", []byte("new"), digest.Set{}); err != nil {
		t.Fatal(err)
	}
	list("new", 1)
	list("new", 0)
	closeStore(t, a)
	closeStore(t, other)
}

// TestRootCacheBounded: what is read again stays, and the rest goes when there is much of it.
func TestRootCacheBounded(t *testing.T) {
	var c rootCache
	value := make([]byte, blob.MaxRootValue)
	c.put("used", kept{})
	for i := range 4 * rootCacheHalf / len(value) {
		c.put(fmt.Sprint(i), kept{Root: blob.Root{Value: value}})
		if _, ok := c.get("used"); !ok {
			t.Fatalf("what is read again is gone after %d more", i)
		}
	}
	if _, ok := c.get("0"); ok {
		t.Error("the first one is still there")
	}
	if n := len(c.young) + len(c.older); n > 2*rootCacheHalf/len(value) {
		t.Errorf("%d roots of %d bytes are there", n, len(value))
	}
}

// TestSupersededStays: between a writer's look at a root and its write, another server changes the root twice, and a
// collection removes what was superseded. The writer is told that the root was changed: the name that it wants to create
// is still there.
func TestSupersededStays(t *testing.T) {
	ctx := t.Context()
	b := &bucket.Memory{}
	a, other := openStore(t, b, small), openStore(t, b, small)
	if err := a.Keep(ctx, "root", []byte("0"), digest.Set{}); err != nil {
		t.Fatal(err)
	}
	was, err := blob.KeptRoot(ctx, a, "root")
	if err != nil {
		t.Fatal(err)
	}
	b.Before = func(op, key string) {
		if op != "put" || !strings.HasPrefix(key, roots) {
			return
		}
		b.Before = nil
		for _, value := range []string{"1", "2"} {
			if err := other.Keep(ctx, "root", []byte(value), digest.Set{}); err != nil {
				t.Error(err)
			}
		}
		if _, err := other.Collect(ctx, Policy{}); err != nil {
			t.Error(err)
		}
	}
	if err := a.KeepIf(ctx, "root", &was, []byte("3"), digest.Set{}); !errors.Is(err, blob.ErrChanged) {
		t.Errorf("lost update: KeepIf of what is no more = %v", err)
	}
	if r, err := blob.KeptRoot(ctx, a, "root"); err != nil || string(r.Value) != "2" {
		t.Errorf("lost update: the root keeps %q, %v, want the last write", r.Value, err)
	}
	closeStore(t, a)
	closeStore(t, other)
}
