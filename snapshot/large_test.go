package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// TestTooManyNames: a directory that the server would not read is named, and not sent.
func TestTooManyNames(t *testing.T) {
	leaf := &directory{message: new(repb.Directory)}
	for i := range 100_000 {
		leaf.message.Files = append(leaf.message.Files, &repb.FileNode{Name: fmt.Sprintf("%0100d", i), Digest: upstream.ToProto(digest.SHA256.Of(nil))})
	}
	top := &directory{message: &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "wide"}}}, children: []*directory{leaf}}
	u := &uploader{Options: Options{Function: digest.SHA256}}
	if _, err := u.finish(t.Context(), top, ""); err == nil || !strings.Contains(err.Error(), `directory "wide" has too many entries`) {
		t.Errorf("got %v, want that there are too many entries", err)
	}
}

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
