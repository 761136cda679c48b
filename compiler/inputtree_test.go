package compiler

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// outside returns a directory that is not below /tmp, without links.
func outside(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "sarsen-cc-test-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil || strings.HasPrefix(dir, "/tmp/") {
		t.Skipf("SKIPPED: /var/tmp is no directory of its own here: %v", err)
	}
	return dir
}

// TestInputTree: every name leads in the tree to what it leads to here, over links and dots, and to nothing else.
func TestInputTree(t *testing.T) {
	dir := outside(t)
	for _, name := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"a/b/h.h": "h", "c/run": "run", "c/other": "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/c/run", 0o777); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"c/up": "../a/b", "all": dir, "a/h": "b/h.h", "loop": "loop", "away": "/tmp"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	tree, files := newInputTree(), newHashes()
	for _, name := range []string{"/all/all/c/up/../h", "//c/./up/h.h", "/c/run"} {
		if err := tree.add(files, dir+name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]error{
		"/loop": errLinks, "/away/x": errPrivate, "/c/run/x": errNoFile, "/nothing": os.ErrNotExist,
	} {
		if err := tree.add(files, dir+name); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	root, blobs, err := tree.encode()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	list(t, blobs, root, "", got)
	want := map[string]string{
		"/a/b/h.h": "h", "/c/run": "run, executable", "/c/up": "-> ../a/b", "/all": "-> " + dir, "/a/h": "-> b/h.h",
		"/loop": "-> loop", "/away": "-> /tmp",
	}
	for name, text := range want {
		if got[dir+name] != text {
			t.Errorf("%s: got %q, want %q", name, got[dir+name], text)
		}
		delete(got, dir+name)
	}
	if len(got) > 0 {
		t.Errorf("there is more in the tree: %v", slices.Sorted(maps.Keys(got)))
	}
}

// list adds all files and links below a directory of a tree to all.
func list(t *testing.T, blobs map[digest.Digest]input, d digest.Digest, at string, all map[string]string) {
	t.Helper()
	var m repb.Directory
	if err := proto.Unmarshal(blobs[d].text, &m); err != nil {
		t.Fatal(err)
	}
	of := func(p *repb.Digest) digest.Digest {
		d, err := upstream.FromProto(digest.SHA256, p)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, f := range m.Files {
		in := blobs[of(f.Digest)]
		text, err := in.read()
		if err != nil {
			t.Fatal(err)
		}
		all[at+"/"+f.Name] = string(text)
		if f.IsExecutable {
			all[at+"/"+f.Name] += ", executable"
		}
	}
	for _, l := range m.Symlinks {
		all[at+"/"+l.Name] = "-> " + l.Target
	}
	for _, sub := range m.Directories {
		list(t, blobs, of(sub.Digest), at+"/"+sub.Name, all)
	}
}

// TestInputChanges: a file that changed since it was added is not sent.
func TestInputChanges(t *testing.T) {
	name := filepath.Join(outside(t), "x")
	if err := os.WriteFile(name, []byte("one"), 0o666); err != nil {
		t.Fatal(err)
	}
	tree := newInputTree()
	real, _, err := tree.file(newHashes(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("two"), 0o666); err != nil {
		t.Fatal(err)
	}
	in := tree.files[real]
	if b, err := in.read(); !errors.Is(err, errChanged) {
		t.Errorf("got %q, %v, want %v", b, err, errChanged)
	}
}

// A reader gives one response file to package args, which reads it as gcc does.
type reader []byte

func (r reader) ReadFile(string) ([]byte, error) { return r, nil }
func (reader) LookupEnv(string) (string, bool)   { return "", false }

// TestResponseFile: arguments come out of the file as they went in.
func TestResponseFile(t *testing.T) {
	argv := []string{"-c", "a b.c", `-DT="x\y"`, "-DQ='q'", "-D", "TAB=\t|\v\f", "-DÄ=ö", "-o", "x.o"}
	c, err := args.Parse(args.GCC, []string{"@file"}, reader(responseFile(argv)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Argv, argv) {
		t.Errorf("got %q, want %q", c.Argv, argv)
	}
}
