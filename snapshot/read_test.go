package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// TestReplaced: a file whose place a link or a pipe took, or whose directory's place, is neither followed nor waited for.
func TestReplaced(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{filepath.Join(outside, "f"), filepath.Join(dir, "f")} {
		if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pipe(t, filepath.Join(dir, "pipe"))
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "d"), 0o700), os.Symlink(outside, filepath.Join(dir, "out")), os.Symlink("f", filepath.Join(dir, "in")),
		os.Symlink(filepath.Join(outside, "f"), filepath.Join(dir, "over"))); err != nil {
		t.Fatal(err)
	}
	u := &uploader{root: root}
	for _, name := range []string{"pipe", "d", "in", "over", "out/f", "gone"} {
		if data, err := u.readSmall(&file{name: name}); !unreadable(err) {
			t.Errorf("%s: read %q, %v, want that it can't be read", name, data, err)
		}
	}
	if data, err := u.readSmall(&file{name: "f"}); err != nil || string(data) != "text" {
		t.Errorf("f: read %q, %v", data, err)
	}
	info, err := os.Lstat(filepath.Join(dir, "d"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out", "in", "gone"} {
		if _, err := u.below(t.Context(), root, name, info); !unreadable(err) {
			t.Errorf("%s was walked, %v", name, err)
		}
	}
}

// asked calls a function before it says what is missing.
type asked struct {
	*model.Store
	first func(digest.Set)
}

func (s asked) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	s.first(ds)
	return s.Store.Missing(ctx, ds)
}

// TestChanges changes a large file after it was hashed, behind its time. Once is met by reading it again; each time, it is
// left out by name, and the rest is kept.
func TestChanges(t *testing.T) {
	for _, changes := range []int64{1, 1 << 30} {
		dir := fill(t)
		name := filepath.Join(dir, "a/large")
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		data := random(9<<20, 1)
		var left atomic.Int64
		left.Store(changes)
		c := serve(t, asked{model.New(0), func(ds digest.Set) {
			if ds.Len() == 1 && ds.List()[0].Size == int64(len(data)) && left.Add(-1) >= 0 {
				data[100]++
				if err := errors.Join(os.WriteFile(name, data, 0o644), os.Chtimes(name, info.ModTime(), info.ModTime())); err != nil {
					t.Error(err)
				}
			}
		}})
		var skipped []string
		_, root := keep(t, c, dir, Options{Skipped: func(name string, why error) {
			if !errors.Is(why, errChanged) {
				t.Errorf("%s is left out: %v, want that it changed", name, why)
			}
			skipped = append(skipped, name)
		}})
		target := t.TempDir()
		if err := Restore(t.Context(), c, root, target, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(target, "a/large"))
		if changes == 1 {
			if err != nil || !bytes.Equal(got, data) || len(skipped) > 0 {
				t.Errorf("changed once: %d bytes came back, %v, and %q were left out", len(got), err, skipped)
			}
		} else if !errors.Is(err, fs.ErrNotExist) || !slices.Equal(skipped, []string{"a/large"}) {
			t.Errorf("changed each time: %v, left out %q", err, skipped)
		}
		if _, err := os.Stat(filepath.Join(target, "many/299")); err != nil {
			t.Error(err)
		}
	}
}

// TestSameTime: a file that changed and got its old time and size, as what is made reproducibly does, is read again; one
// that did not change since the snapshot before is not.
func TestSameTime(t *testing.T) {
	c, store := connect(t)
	dir := fill(t)
	name := filepath.Join(dir, "run.sh")
	old := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	for later, again := range map[time.Duration]bool{0: true, -time.Hour: true, time.Hour: false} {
		write := func(text string) {
			if err := errors.Join(os.WriteFile(name, []byte(text), 0o600), os.Chtimes(name, old, old)); err != nil {
				t.Fatal(err)
			}
		}
		write("one")
		_, before := keep(t, c, dir, Options{})
		write("two")
		_, root := keep(t, c, dir, Options{Before: before, BeforeTime: time.Now().Add(later)})
		store.Evict()
		target := t.TempDir()
		if err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{"run.sh"}}); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(target, "run.sh")); (string(got) == "two") != again {
			t.Errorf("a snapshot %v later: %q came back, read again should be %v", later, got, again)
		}
	}
}
