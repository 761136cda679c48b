package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// TestHostile: trees that must not be made are refused, with the directory and the name, before anything is
// made.
func TestHostile(t *testing.T) {
	src := newSource()
	a := wire(src.put(t, digest.SHA256, []byte("a")))
	empty := wire(src.directory(t, digest.SHA256, &repb.Directory{}))
	file := func(name string) *repb.Directory {
		return &repb.Directory{Files: []*repb.FileNode{{Name: name, Digest: a}}}
	}
	link := func(name, target string) *repb.Directory {
		return &repb.Directory{Symlinks: []*repb.SymlinkNode{{Name: name, Target: target}}}
	}
	for name, test := range map[string]struct {
		m    *repb.Directory
		want string
	}{
		"empty name":         {file(""), `""`},
		"dot":                {file("."), `"."`},
		"dot dot":            {file(".."), `".."`},
		"slash":              {file("a/b"), `"a/b"`},
		"absolute":           {file("/etc/passwd"), `"/etc/passwd"`},
		"trailing slash":     {file("a/"), `"a/"`},
		"NUL":                {file("a\x00b"), `"a\x00b"`},
		"long name":          {file(strings.Repeat("n", 256)), "255 bytes"},
		"directory dot dot":  {&repb.Directory{Directories: []*repb.DirectoryNode{{Name: "..", Digest: empty}}}, `".."`},
		"link slash":         {link("a/b", "c"), `"a/b"`},
		"twice":              {&repb.Directory{Files: []*repb.FileNode{{Name: "same", Digest: a}, {Name: "same", Digest: a}}}, `"same"`},
		"file and directory": {&repb.Directory{Files: file("same").Files, Directories: []*repb.DirectoryNode{{Name: "same", Digest: empty}}}, `"same"`},
		"link and file":      {&repb.Directory{Files: file("same").Files, Symlinks: link("same", "x").Symlinks}, `"same"`},
		"no digest":          {&repb.Directory{Files: []*repb.FileNode{{Name: "none"}}}, `"none"`},
		"negative size":      {&repb.Directory{Files: []*repb.FileNode{{Name: "less", Digest: &repb.Digest{Hash: a.Hash, SizeBytes: -1}}}}, `"less"`},
		"bad hash":           {&repb.Directory{Files: []*repb.FileNode{{Name: "hash", Digest: &repb.Digest{Hash: "../../etc", SizeBytes: 3}}}}, `"hash"`},
		"empty link":         {link("void", ""), "empty"},
		"link NUL":           {link("nul", "a\x00"), "NUL"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, src, src.directory(t, digest.SHA256, test.m), test.want) })
		t.Run(name+" below", func(t *testing.T) {
			bad := src.directory(t, digest.SHA256, test.m)
			top := &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "below", Digest: wire(bad)}}}
			refused(t, src, src.directory(t, digest.SHA256, top), bad.String())
		})
	}
}

// refused stages what must be refused, with an error that contains want.
func refused(t *testing.T, src *source, root digest.Digest, want string) {
	t.Helper()
	dir := t.TempDir()
	s := openStager(t, dir, src, Options{MaxNodes: 10000}, 64<<20)
	for range 2 { // the second finds what the first one left in the cache
		_, err := s.Stage(ctx, root, filepath.Join(dir, "into"))
		if !errors.Is(err, blob.ErrInvalid) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("Stage = %v, want ErrInvalid with %q", err, want)
		}
		if _, err := os.Lstat(filepath.Join(dir, "into")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something was made: %v", err)
		}
	}
}

// TestBombs: small graphs that stand for huge trees are refused at once.
func TestBombs(t *testing.T) {
	src := newSource()
	wide := src.directory(t, digest.SHA256, &repb.Directory{})
	for range 40 { // 2^40 directories
		wide = src.directory(t, digest.SHA256, &repb.Directory{Directories: []*repb.DirectoryNode{
			{Name: "a", Digest: wire(wide)}, {Name: "b", Digest: wire(wide)},
		}})
	}
	refused(t, src, wide, "at most")
	deep, long := src.directory(t, digest.SHA256, &repb.Directory{}), digest.SHA256.Empty()
	for i := range 300 {
		deep = src.directory(t, digest.SHA256, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "d", Digest: wire(deep)}}})
		if i < 20 {
			long = src.directory(t, digest.SHA256, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: strings.Repeat("n", 220), Digest: wire(long)}}})
		}
	}
	refused(t, src, deep, "deeper")
	refused(t, src, long, "longer")
	flat := &repb.Directory{}
	for i := range 10001 {
		flat.Directories = append(flat.Directories, &repb.DirectoryNode{Name: fmt.Sprint(i), Digest: wire(digest.SHA256.Empty())})
	}
	refused(t, src, src.directory(t, digest.SHA256, flat), "at most")
}

// TestNoDirectory: a root that is no directory message is refused, and one that makes no sense as well.
func TestNoDirectory(t *testing.T) {
	src := newSource()
	refused(t, src, src.put(t, digest.SHA256, []byte("\xff\xff\xffno message")), "no directory")
	refused(t, src, digest.Digest{Size: 3}, "digest function")
}

// TestLyingTree: what Tree returns under a digest that is not its own is not believed.
func TestLyingTree(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	root := src.store(t, digest.SHA256, sample)
	src.mu.Lock()
	src.dirs[root] = &repb.Directory{Symlinks: []*repb.SymlinkNode{{Name: "lie", Target: "x"}}}
	src.mu.Unlock()
	staged(t, s, root, dir, sample)
}
