package collect_test

//lint:file-ignore SA1019 clients of API 2.0 use the old fields

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/worker/collect"
)

// names returns all that lies in the rig's directory, sorted.
func (r *rig) names() (names []string) {
	r.t.Helper()
	err := filepath.WalkDir(r.dir, func(name string, e fs.DirEntry, err error) error {
		if name != r.dir {
			at, _ := filepath.Rel(r.dir, name)
			if e.IsDir() {
				at += "/"
			}
			names = append(names, at)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return names
}

func TestPrepare(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []string
		command *repb.Command
		want    []string
	}{
		{"parents", nil, &repb.Command{OutputPaths: []string{"a/b/c", "a/d", "e"}}, []string{"a/", "a/b/"}},
		{"old files", nil, &repb.Command{OutputFiles: []string{"a/b/c", "e"}}, []string{"a/", "a/b/"}},
		{"old directories", nil, &repb.Command{OutputDirectories: []string{"a/b", "e"}}, []string{"a/", "a/b/", "e/"}},
		{"working directory", []string{"w/"}, &repb.Command{WorkingDirectory: "w", OutputPaths: []string{"a/b"}}, []string{"w/", "w/a/"}},
		{"the working directory itself", []string{"w/"}, &repb.Command{WorkingDirectory: "w", OutputDirectories: []string{""}}, []string{"w/"}},
		{"above the working directory", []string{"w/x/"}, &repb.Command{WorkingDirectory: "w/x", OutputPaths: []string{".", "../../a/b", "../c/./d"}},
			[]string{"a/", "w/", "w/c/", "w/x/"}},
		{"among inputs", []string{"a/in x"}, &repb.Command{OutputPaths: []string{"a/b/c"}}, []string{"a/", "a/b/", "a/in"}},
		{"through a link", []string{"real/", "link -> real"}, &repb.Command{OutputPaths: []string{"link/b/c"}}, []string{"link", "real/", "real/b/"}},
	} {
		r := newRig(t, c.entries...)
		if err := collect.Prepare(r.root, c.command); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := r.names(); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPrepareMakesWritable(t *testing.T) {
	r := newRig(t, "a/b/in x", "other/in x")
	for _, name := range []string{"a/b/in", "a/b", "a", "other"} {
		if err := os.Chmod(filepath.Join(r.dir, name), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	if err := collect.Prepare(r.root, &repb.Command{OutputPaths: []string{"a/b/out", "a/c/out"}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"a": 0o755, "a/b": 0o755, "a/b/in": 0o555, "other": 0o555} {
		info, err := os.Stat(filepath.Join(r.dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if got, want := r.names(), []string{"a/", "a/b/", "a/b/in", "a/c/", "other/", "other/in"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPrepareRefuses(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		entries []string
		command *repb.Command
		says    []string
	}{
		{nil, &repb.Command{WorkingDirectory: "w"}, []string{"working_directory", `"w"`}},
		{[]string{"w file"}, &repb.Command{WorkingDirectory: "w"}, []string{"working_directory", `"w"`}},
		{[]string{"w -> " + outside}, &repb.Command{WorkingDirectory: "w"}, []string{"working_directory", `"w"`}},
		{[]string{"a file"}, &repb.Command{OutputPaths: []string{"a/b"}}, []string{"output_paths[0]", `"a" is no directory`}},
		{[]string{"a -> nowhere"}, &repb.Command{OutputPaths: []string{"a/b"}}, []string{"output_paths[0]", `"a" is a link to nothing`}},
		{[]string{"a -> " + outside}, &repb.Command{OutputPaths: []string{"a/b"}}, []string{"output_paths[0]", "escapes"}},
		{[]string{"a -> .."}, &repb.Command{OutputPaths: []string{"a/b"}}, []string{"output_paths[0]", "escapes"}},
		{[]string{"a -> " + outside}, &repb.Command{OutputPaths: []string{"a/b/c"}}, []string{"output_paths[0]", "escapes"}},
		{[]string{"a -> " + outside}, &repb.Command{OutputDirectories: []string{"a"}}, []string{"output_directories[0]", "escapes"}},
		{nil, &repb.Command{OutputPaths: []string{"../a/b"}}, []string{"output_paths[0]", "leads out"}},
		{nil, &repb.Command{OutputFiles: []string{"/a/b"}}, []string{"output_files[0]", "absolute"}},
	} {
		r := newRig(t, c.entries...)
		wantError(t, collect.Prepare(r.root, c.command), blob.ErrInvalid, c.says...)
	}
	if got, err := os.ReadDir(outside); err != nil || len(got) > 0 {
		t.Errorf("outside of the root: %v, %v", got, err)
	}
}

// What was prepared and not used is found as the protocol has it: files are missing, directories empty.
func TestPrepareAndCollectNothing(t *testing.T) {
	r := newRig(t)
	command := &repb.Command{OutputFiles: []string{"a/f"}, OutputDirectories: []string{"b/d"}}
	if err := errors.Join(collect.Prepare(r.root, command), collect.Prepare(r.root, command)); err != nil {
		t.Fatal(err)
	}
	got, err := r.collect(command, collect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, got, &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{
		{Path: "b/d", TreeDigest: treeOf(t, &repb.Directory{}), IsTopologicallySorted: true}}})
}
