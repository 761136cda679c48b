package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRestoreModes: a target that is there keeps its mode and time, and so does a directory above what is restored; files
// run as nobody else; a directory that may not be written is written all the same, and gets its mode back.
func TestRestoreModes(t *testing.T) {
	dir := fill(t)
	if err := errors.Join(os.Chmod(filepath.Join(dir, "run.sh"), 0o755|fs.ModeSetuid|fs.ModeSetgid), os.Chmod(filepath.Join(dir, "many"), 0o555)); err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t)
	_, root := keep(t, c, dir, Options{})
	target := t.TempDir()
	mode := func(name string, want fs.FileMode) {
		t.Helper()
		if info, err := os.Stat(filepath.Join(target, name)); err != nil || info.Mode()&^fs.ModeType != want {
			t.Errorf("%s has the mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	then := time.Unix(1_400_000_000, 0)
	top, above := fs.FileMode(0o777)|fs.ModeSticky, fs.FileMode(0o770)
	if err := errors.Join(os.MkdirAll(filepath.Join(target, "a/b"), 0o700), os.Chmod(filepath.Join(target, "a/b"), above), os.Chmod(target, top), os.Chtimes(target, then, then)); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{"a/b/c/deep"}}); err != nil {
		t.Fatal(err)
	}
	mode("a/b", above)
	mode("a/b/c", 0o755)
	if info, err := os.Stat(target); err != nil || !info.ModTime().Equal(then) {
		t.Errorf("the target got the time %v, %v, want %v", info.ModTime(), err, then)
	}
	for range 2 {
		if err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{"."}}); err != nil {
			t.Fatal(err)
		}
		mode("", top)
		mode("a/b", 0o711)
		mode("run.sh", 0o755)
		mode("many", 0o555)
		if err := errors.Join(os.Chmod(filepath.Join(target, "many"), 0o755), os.Remove(filepath.Join(target, "many/007")), os.Chmod(filepath.Join(target, "many"), 0o500)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestoreAbsentPath: each path that is not there is named, and the others are restored.
func TestRestoreAbsentPath(t *testing.T) {
	c, _ := connect(t)
	_, root := keep(t, c, fill(t), Options{})
	target := t.TempDir()
	err := Restore(t.Context(), c, root, target, RestoreOptions{Paths: []string{"run.sh", "a/none", "none"}})
	if err == nil || !strings.Contains(err.Error(), `"a/none"`) || !strings.Contains(err.Error(), `"none"`) || strings.Contains(err.Error(), "run.sh") {
		t.Errorf("got %v, want the two paths that are not there", err)
	}
	if _, err := os.Stat(filepath.Join(target, "run.sh")); err != nil {
		t.Error(err)
	}
}
