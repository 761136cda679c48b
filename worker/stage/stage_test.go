package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/files"
)

// openStager opens a stager on a file store of its own, both in dir.
func openStager(t testing.TB, dir string, src *source, o Options, size int64) *Stager {
	t.Helper()
	store, err := files.Open(filepath.Join(dir, "files"), files.Options{MaxSize: size, Lease: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	o.Dir, o.Files, o.Source = dir, store, src
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStager(t, s) })
	return s
}

func closeStager(t testing.TB, s *Stager) {
	t.Helper()
	if err := errors.Join(s.Close(), s.o.Files.Close()); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// diff says how the tree at root differs from want.
func diff(root string, want tree) error {
	left := map[string]bool{}
	for path := range want {
		left[path] = true
		for i, c := range path {
			if c == '/' {
				left[path[:i+1]] = true
			}
		}
	}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		path := strings.TrimPrefix(name, root+"/")
		if e.IsDir() {
			path += "/"
		}
		if !left[path] {
			return fmt.Errorf("%s should not be there", path)
		}
		delete(left, path)
		return wrong(name, e, want[path])
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("not there: %v", left)
	}
	return err
}

func wrong(name string, e fs.DirEntry, want entry) error {
	fi, err := e.Info()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o444)
	switch {
	case e.IsDir():
		mode = fs.ModeDir | 0o755
	case want.target != "":
		mode = fs.ModeSymlink | 0o777
		if got, err := os.Readlink(name); err != nil || got != want.target {
			return fmt.Errorf("%s leads to %q, %v, want %q", name, got, err, want.target)
		}
	case want.executable:
		mode = 0o555
	}
	if fi.Mode() != mode {
		return fmt.Errorf("%s has mode %v, want %v", name, fi.Mode(), mode)
	}
	if fi.Mode().IsRegular() {
		if got, err := os.ReadFile(name); err != nil || string(got) != want.data {
			return fmt.Errorf("%s has %q, %v, want %q", name, got, err, want.data)
		}
	}
	return nil
}

// staged stages root into a new directory below dir and compares it with want.
func staged(t *testing.T, s *Stager, root digest.Digest, dir string, want tree) Stats {
	t.Helper()
	into := filepath.Join(dir, fmt.Sprint("work", time.Now().UnixNano()))
	stats, err := s.Stage(ctx, root, into)
	if err != nil {
		t.Fatal(err)
	}
	if err := diff(into, want); err != nil {
		t.Error(err)
	}
	if got := s.o.Files.Stats(); got.Copied+got.Cloned > 0 {
		t.Errorf("%d files are copies, want links", got.Copied+got.Cloned)
	}
	return stats
}

var sample = tree{
	"a.txt":            {data: "a"},
	"empty":            {data: ""},
	"run.sh":           {data: "#!/bin/sh\n", executable: true},
	"also run.sh":      {data: "#!/bin/sh\n"},
	"bin/run-empty":    {data: "", executable: true},
	"bin/tool":         {data: "tool", executable: true, byMode: true},
	"bin/no tool":      {data: "tool", byMode: true},
	"lib/deep/er/x":    {data: strings.Repeat("x", 100000)},
	"lib/link":         {target: "deep/er/x"},
	"lib/deep/up":      {target: "../../a.txt"},
	"lib/out":          {target: "../../../etc/hostname"},
	"lib/dangling":     {target: "nothing"},
	"lib/absolute":     {target: "/usr/bin/env"},
	"nothing in here/": {},
	"large":            {data: strings.Repeat("large ", 400000)},
}

// TestStage: a tree is staged as it is described, with each digest function, twice, and again by the next
// process.
func TestStage(t *testing.T) {
	for _, f := range digest.Functions {
		t.Run(f.String(), func(t *testing.T) {
			dir, src := t.TempDir(), newSource()
			s := openStager(t, dir, src, Options{}, 64<<20)
			root := src.store(t, f, sample)
			first := staged(t, s, root, dir, sample)
			if first.Resolved != 6 || first.Known != 0 || src.trees != 1 || first.Files != 9 || first.Directories != 6 || first.Symlinks != 5 {
				t.Errorf("first: %+v with %d calls of Tree, want 6 directories by one call", first, src.trees)
			}
			src.forget()
			if again := staged(t, s, root, dir, sample); again.Known != 6 || again.Linked != 9 || src.asked()+src.trees != 0 {
				t.Errorf("second: %+v with %d reads, want none", again, src.asked()+src.trees)
			}
			closeStager(t, s)
			s = openStager(t, dir, src, Options{}, 64<<20)
			if again := staged(t, s, root, dir, sample); again.Known != 6 || src.asked()+src.trees != 0 {
				t.Errorf("after a restart: %+v with %d reads, want none", again, src.asked()+src.trees)
			}
			if got := s.Totals(); got.Trees != 1 || got.Hits != 1 || got.Known != 6 || got.Entries != 6 {
				t.Errorf("Totals = %+v, want one hit of 6 directories", got)
			}
		})
	}
}

// TestOneDirectoryDiffers: a tree that differs in one directory asks for that one, those on the way to it,
// and its new file.
func TestOneDirectoryDiffers(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	want := grove(200, 3)
	staged(t, s, src.store(t, digest.SHA256, want), dir, want)
	want["top3/dir13/new"] = entry{data: "new"}
	root := src.store(t, digest.SHA256, want)
	src.forget()
	stats := staged(t, s, root, dir, want)
	if stats.Resolved != 3 || stats.Known != 208 || stats.Fetched != 1 || src.asked() != 4 || src.trees != 0 {
		t.Errorf("%+v with %d reads and %d trees, want 3 directories and 1 file to be fetched", stats, src.asked(), src.trees)
	}
}

// TestFresh: staged directories are writable and nobody else's; what an action does to its names touches no
// other tree.
func TestFresh(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	root := src.store(t, digest.SHA256, sample)
	one := filepath.Join(dir, "one")
	if _, err := s.Stage(ctx, root, one); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Remove(one + "/a.txt"),
		os.WriteFile(one+"/a.txt", []byte("changed"), 0o600),
		os.Rename(one+"/bin/tool", one+"/lib/tool"),
		os.WriteFile(one+"/lib/deep/er/output", nil, 0o600),
		os.RemoveAll(one + "/lib/deep"),
		os.Chmod(one+"/bin", 0o700),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	staged(t, s, root, dir, sample)
}

func TestIntoIsThere(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	s := openStager(t, dir, src, Options{}, 64<<20)
	root := src.store(t, digest.SHA256, sample)
	into := filepath.Join(dir, "into")
	if err := os.MkdirAll(into+"/precious", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stage(ctx, root, into); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Stage = %v, want ErrExist", err)
	}
	if _, err := os.Stat(into + "/precious"); err != nil {
		t.Error("what was there is gone")
	}
}

// TestMissing: all that the source lacks is named, directories and files, and no tree is left.
func TestMissing(t *testing.T) {
	for name, warm := range map[string]bool{"cold": false, "warm": true} {
		t.Run(name, func(t *testing.T) {
			dir, src := t.TempDir(), newSource()
			s := openStager(t, dir, src, Options{}, 64<<20)
			want := grove(40, 3)
			if warm {
				staged(t, s, src.store(t, digest.SHA256, grove(40, 2)), dir, grove(40, 2))
			}
			root := src.store(t, digest.SHA256, want)
			lost := []digest.Digest{
				digest.SHA256.Of([]byte(want["top7/dir7/file2.go"].data)),
				digest.SHA256.Of([]byte(want["top7/dir17/file2.go"].data)),
				digest.SHA256.Of([]byte(want["top9/dir39/file2.go"].data)),
			}
			src.lose(lost...)
			wantMissing(t, s, root, dir, lost)
			for d, m := range src.dirs { // its files are then unknown, so it must not hold the lost ones
				if len(m.Files) == 3 && m.Files[2].Digest.Hash == digest.SHA256.Of([]byte(want["top1/dir1/file2.go"].data)).Hex() {
					src.lose(d)
					lost = append(lost, d)
				}
			}
			if len(lost) != 4 {
				t.Fatal("no directory to lose")
			}
			closeStager(t, s)
			if err := os.RemoveAll(dir + "/cache"); err != nil {
				t.Fatal(err)
			}
			s = openStager(t, dir, src, Options{}, 64<<20)
			wantMissing(t, s, root, dir, lost)
		})
	}
}

func wantMissing(t *testing.T, s *Stager, root digest.Digest, dir string, want []digest.Digest) {
	t.Helper()
	into := filepath.Join(dir, "into")
	_, err := s.Stage(ctx, root, into)
	var missing *blob.MissingError
	if !errors.As(err, &missing) || !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("Stage = %v, want a MissingError", err)
	}
	got := digest.SetOf(missing.Blobs...)
	for _, d := range want {
		if !got.Has(d) {
			t.Errorf("%s is not named as missing", d)
		}
	}
	if got.Len() != len(want) || len(missing.Blobs) != len(want) {
		t.Errorf("%d blobs are missing, want %d", len(missing.Blobs), len(want))
	}
	if _, err := os.Lstat(into); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tree is left: %v", err)
	}
}
