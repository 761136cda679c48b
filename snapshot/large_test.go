package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestManyNames keeps a directory whose message is larger than an answer of GetTree can be, and restores it.
func TestManyNames(t *testing.T) {
	dir := t.TempDir()
	const files = 25_000
	for i := range files {
		if err := os.Symlink("a target", filepath.Join(dir, fmt.Sprintf("%0200d", i))); err != nil {
			t.Fatal(err)
		}
	}
	c, store := connect(t)
	s, root := keep(t, c, dir, Options{})
	store.Evict()
	if s.Root.SizeBytes < 5<<20 {
		t.Fatalf("the directory's message has only %d bytes", s.Root.SizeBytes)
	}
	target := t.TempDir()
	if err := Restore(t.Context(), c, root, target, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadDir(target); err != nil || len(got) != files {
		t.Errorf("%d of %d names are there, %v", len(got), files, err)
	}
}
