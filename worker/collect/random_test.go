package collect_test

//lint:file-ignore SA1019 clients of API 2.0 use the old fields

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/worker/collect"
)

// A model of a tree: what lies at each path, as one line of text.
type picture map[string]string

func (p picture) lines() (lines []string) {
	for name, what := range p {
		lines = append(lines, name+" "+what)
	}
	slices.Sort(lines)
	return lines
}

// draw makes a random tree below dir and returns what it looks like.
func draw(t *rapid.T, dir string) picture {
	p := picture{".": "directory"}
	dirs := []string{"."}
	for i := range rapid.IntRange(0, 40).Draw(t, "entries") {
		parent := rapid.SampledFrom(dirs).Draw(t, "parent")
		name := rapid.SampledFrom([]string{"a", "b", "c", "d.o", "é", " ", "-", "A", "a.b"}).Draw(t, "name")
		at := path.Join(parent, name)
		if p[at] != "" {
			continue
		}
		var err error
		full := filepath.Join(dir, at)
		switch kind := rapid.SampledFrom([]string{"file", "executable", "directory", "link"}).Draw(t, "kind"); kind {
		case "directory":
			p[at], dirs = "directory", append(dirs, at)
			err = os.Mkdir(full, 0o755)
		case "link":
			target := rapid.SampledFrom([]string{"a", "b/c", ".", "./x", "none"}).Draw(t, "target")
			p[at] = "-> " + target
			err = os.Symlink(target, full)
		default:
			size := rapid.SampledFrom([]int{0, 1, 10, 5000, 256<<10 + 1}).Draw(t, "size")
			data := storetest.Bytes(uint64(i%3), size)
			mode := os.FileMode(0o644)
			if kind == "executable" {
				mode = 0o755
			}
			p[at] = fmt.Sprintf("%v %s", kind == "executable", of(string(data)).Hash)
			err = os.WriteFile(full, data, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// look returns what a directory looks like of which find finds those below.
func (p picture) look(at string, d *repb.Directory, find func(*repb.Digest) *repb.Directory) {
	p[at] = "directory"
	for _, f := range d.Files {
		p[path.Join(at, f.Name)] = fmt.Sprintf("%v %s", f.IsExecutable, f.Digest.Hash)
	}
	for _, l := range d.Symlinks {
		p[path.Join(at, l.Name)] = "-> " + l.Target
	}
	for _, child := range d.Directories {
		p.look(path.Join(at, child.Name), find(child.Digest), find)
	}
}

// Any tree comes back as it was, as a Tree and as directories, with all of its blobs, and two collections
// of it are the same.
func TestRandomTrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		want := draw(rt, r.dir).lines()
		command := &repb.Command{OutputDirectories: []string{""}, OutputDirectoryFormat: repb.Command_TREE_AND_DIRECTORY}
		result, err := r.collect(command, collect.Options{Parallel: rapid.IntRange(1, 5).Draw(rt, "parallel")})
		if err != nil {
			rt.Fatal(err)
		}
		again, err := r.collect(command, collect.Options{})
		if err != nil || again.String() != result.String() {
			rt.Fatalf("again: %v, %v, want %v", again, err, result)
		}
		r.complete(result)
		out := result.OutputDirectories[0]
		tree := new(repb.Tree)
		r.message(out.TreeDigest, tree)
		checkSorted(t, tree)
		inside := map[string]*repb.Directory{}
		for _, child := range tree.Children {
			inside[digestOf(t, child).Hash] = child
		}
		fromTree, fromDirectories := picture{}, picture{}
		fromTree.look(".", tree.Root, func(p *repb.Digest) *repb.Directory { return inside[p.Hash] })
		stored := func(p *repb.Digest) *repb.Directory {
			d := new(repb.Directory)
			r.message(p, d)
			return d
		}
		fromDirectories.look(".", stored(out.RootDirectoryDigest), stored)
		for _, got := range [][]string{fromTree.lines(), fromDirectories.lines()} {
			if !slices.Equal(got, want) {
				rt.Fatalf("got  %q\nwant %q", got, want)
			}
		}
	})
}
