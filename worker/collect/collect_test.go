package collect_test

//lint:file-ignore SA1019 clients of API 2.0 use the old fields

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/worker/collect"
)

// leaf is the directory d of most tests, as a message.
var (
	inner = &repb.Directory{Files: []*repb.FileNode{{Name: "baz", Digest: of("deep"), IsExecutable: true}}}
	leaf  = &repb.Directory{
		Files:    []*repb.FileNode{{Name: "bar", Digest: of("bar")}, {Name: "empty", Digest: of("")}},
		Symlinks: []*repb.SymlinkNode{{Name: "up", Target: "../f"}},
	}
)

// treeOf returns a Tree and its digest.
func treeOf(t testing.TB, root *repb.Directory, children ...*repb.Directory) *repb.Digest {
	return digestOf(t, &repb.Tree{Root: root, Children: children})
}

func TestEveryKindOfOutput(t *testing.T) {
	entries := []string{
		"f content", "x* program", "empty ", "nothing/", "toFile -> f", "toDir -> d", "dangling -> nowhere",
		"d/bar bar", "d/empty ", "d/up -> ../f", "deep/foo/baz* deep", "w/out inside",
	}
	withFoo := &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "foo", Digest: digestOf(t, inner)}}}
	toFile := []*repb.OutputSymlink{{Path: "toFile", Target: "f"}}
	toDir := []*repb.OutputSymlink{{Path: "toDir", Target: "d"}}
	dangling := []*repb.OutputSymlink{{Path: "dangling", Target: "nowhere"}}
	for _, c := range []struct {
		name    string
		command *repb.Command
		want    *repb.ActionResult
	}{
		{"file", &repb.Command{OutputPaths: []string{"f"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "f", Digest: of("content")}}}},
		{"executable", &repb.Command{OutputPaths: []string{"x"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "x", Digest: of("program"), IsExecutable: true}}}},
		{"empty file", &repb.Command{OutputPaths: []string{"empty"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "empty", Digest: of("")}}}},
		{"directory", &repb.Command{OutputPaths: []string{"d"}}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "d", TreeDigest: treeOf(t, leaf), IsTopologicallySorted: true}}}},
		{"directories in directories", &repb.Command{OutputPaths: []string{"deep"}}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "deep", TreeDigest: treeOf(t, withFoo, inner), IsTopologicallySorted: true}}}},
		{"empty directory", &repb.Command{OutputPaths: []string{"nothing"}}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "nothing", TreeDigest: treeOf(t, &repb.Directory{}), IsTopologicallySorted: true}}}},
		{"missing", &repb.Command{OutputPaths: []string{"d/none", "f/none", "none", "none/none"}}, &repb.ActionResult{}},
		{"missing, old", &repb.Command{OutputFiles: []string{"none"}, OutputDirectories: []string{"none/dir"}}, &repb.ActionResult{}},
		{"link to a file", &repb.Command{OutputPaths: []string{"toFile"}}, &repb.ActionResult{OutputSymlinks: toFile, OutputFileSymlinks: toFile}},
		{"link to a directory", &repb.Command{OutputPaths: []string{"toDir"}}, &repb.ActionResult{OutputSymlinks: toDir, OutputDirectorySymlinks: toDir}},
		{"link to nothing", &repb.Command{OutputPaths: []string{"dangling"}}, &repb.ActionResult{OutputSymlinks: dangling}},
		{"through a link", &repb.Command{OutputPaths: []string{"toDir/bar"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "toDir/bar", Digest: of("bar")}}}},
		{"old file", &repb.Command{OutputFiles: []string{"f"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "f", Digest: of("content")}}}},
		{"old directory", &repb.Command{OutputDirectories: []string{"d"}}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "d", TreeDigest: treeOf(t, leaf), IsTopologicallySorted: true}}}},
		{"old link to a file", &repb.Command{OutputFiles: []string{"toFile"}}, &repb.ActionResult{OutputFileSymlinks: toFile}},
		{"old link to a directory", &repb.Command{OutputDirectories: []string{"toDir"}}, &repb.ActionResult{OutputDirectorySymlinks: toDir}},
		{"old link to nothing", &repb.Command{OutputFiles: []string{"dangling"}}, &repb.ActionResult{OutputFileSymlinks: dangling}},
		{"output_paths hides the old fields", &repb.Command{OutputPaths: []string{"f"}, OutputFiles: []string{"x"}, OutputDirectories: []string{"../d"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "f", Digest: of("content")}}}},
		{"working directory", &repb.Command{WorkingDirectory: "w", OutputPaths: []string{"out"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "out", Digest: of("inside")}}}},
		{"the working directory itself", &repb.Command{WorkingDirectory: "deep/foo", OutputDirectories: []string{""}}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{TreeDigest: treeOf(t, inner), IsTopologicallySorted: true}}}},
		{"the root as working directory", &repb.Command{WorkingDirectory: ".", OutputPaths: []string{"f"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "f", Digest: of("content")}}}},
		{"above the working directory", &repb.Command{WorkingDirectory: "deep/foo", OutputPaths: []string{"../../f", "../foo", ".", "../none"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "../../f", Digest: of("content")}},
			OutputDirectories: []*repb.OutputDirectory{
				{Path: "../foo", TreeDigest: treeOf(t, inner), IsTopologicallySorted: true}, {Path: ".", TreeDigest: treeOf(t, inner), IsTopologicallySorted: true}}}},
		{"written in two ways", &repb.Command{OutputPaths: []string{"f", "d/../f", "./f"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "f", Digest: of("content")}, {Path: "d/../f", Digest: of("content")}, {Path: "./f", Digest: of("content")}}}},
		{"directory only", &repb.Command{OutputPaths: []string{"deep"}, OutputDirectoryFormat: repb.Command_DIRECTORY_ONLY}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "deep", RootDirectoryDigest: digestOf(t, withFoo)}}}},
		{"tree and directory", &repb.Command{OutputPaths: []string{"deep"}, OutputDirectoryFormat: repb.Command_TREE_AND_DIRECTORY}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "deep", TreeDigest: treeOf(t, withFoo, inner), IsTopologicallySorted: true, RootDirectoryDigest: digestOf(t, withFoo)}}}},
		{"empty directory, directory only", &repb.Command{OutputPaths: []string{"nothing"}, OutputDirectoryFormat: repb.Command_DIRECTORY_ONLY}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "nothing", RootDirectoryDigest: of("")}}}},
		{"unknown format", &repb.Command{OutputPaths: []string{"d"}, OutputDirectoryFormat: 99}, &repb.ActionResult{
			OutputDirectories: []*repb.OutputDirectory{{Path: "d", TreeDigest: treeOf(t, leaf), IsTopologicallySorted: true}}}},
		{"twice", &repb.Command{OutputPaths: []string{"f", "f"}}, &repb.ActionResult{
			OutputFiles: []*repb.OutputFile{{Path: "f", Digest: of("content")}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, entries...)
			got, err := r.collect(c.command, collect.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want(t, got, c.want)
			r.complete(got)
		})
	}
}

// complete checks that all that a result names is stored, and returns how many blobs that are.
func (r *rig) complete(result *repb.ActionResult) int {
	r.t.Helper()
	seen := map[string]bool{}
	read := func(p *repb.Digest) {
		r.read(p)
		seen[p.Hash] = true
	}
	files := func(d *repb.Directory) {
		for _, f := range d.GetFiles() {
			read(f.Digest)
		}
	}
	var below func(p *repb.Digest)
	below = func(p *repb.Digest) {
		d := new(repb.Directory)
		r.message(p, d)
		seen[p.Hash] = true
		files(d)
		for _, child := range d.Directories {
			below(child.Digest)
		}
	}
	for _, f := range result.OutputFiles {
		read(f.Digest)
	}
	for _, d := range result.OutputDirectories {
		if d.TreeDigest != nil {
			tree := new(repb.Tree)
			r.message(d.TreeDigest, tree)
			seen[d.TreeDigest.Hash] = true
			files(tree.Root)
			for _, child := range tree.Children {
				files(child)
			}
		}
		if d.RootDirectoryDigest != nil {
			below(d.RootDirectoryDigest)
		}
	}
	return len(seen)
}

// Each distinct directory is in a tree once, and after all of its parents.
func TestTreeIsSortedAndShared(t *testing.T) {
	r := newRig(t, "d/a/x/f same", "d/b/x/f same", "d/x/f same", "d/c/deeper/x/f same")
	got, err := r.collect(&repb.Command{OutputPaths: []string{"d"}}, collect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree := new(repb.Tree)
	r.message(got.OutputDirectories[0].TreeDigest, tree)
	checkSorted(t, tree)
	// a and b are one, x is one, c, deeper: which is what x's parent a is too.
	if len(tree.Children) != 3 {
		t.Errorf("%d children, want 3", len(tree.Children))
	}
}

// checkSorted checks what is_topologically_sorted promises.
func checkSorted(t testing.TB, tree *repb.Tree) {
	t.Helper()
	place := map[string]int{}
	all := append([]*repb.Directory{tree.Root}, tree.Children...)
	for i, d := range all {
		hash := digestOf(t, d).Hash
		if _, ok := place[hash]; ok && i > 0 {
			t.Errorf("directory %d is there twice", i)
		}
		place[hash] = i
	}
	named := map[string]bool{}
	for i, d := range all {
		for _, child := range d.Directories {
			named[child.Digest.Hash] = true
			if at, ok := place[child.Digest.Hash]; !ok || at <= i {
				t.Errorf("directory %d has child %q at %d, %v", i, child.Name, at, ok)
			}
		}
	}
	if len(named) != len(tree.Children) {
		t.Errorf("%d directories are named, %d are there", len(named), len(tree.Children))
	}
}

func TestNodeProperties(t *testing.T) {
	r := newRig(t, "d/x* program", "d/link -> x")
	when := time.Unix(1_700_000_000, 123_456_789)
	for _, name := range []string{"d/x", "d"} {
		if err := os.Chtimes(filepath.Join(r.dir, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	// The bits above 0777 are nobody's business.
	if err := os.Chmod(filepath.Join(r.dir, "d/x"), 0o751|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	got, err := r.collect(&repb.Command{OutputPaths: []string{"d", "d/x"}, OutputNodeProperties: []string{"mtime", "unix_mode"}}, collect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &repb.NodeProperties{Mtime: timestamppb.New(when), UnixMode: wrapperspb.UInt32(0o751)}
	want(t, got.OutputFiles[0], &repb.OutputFile{Path: "d/x", Digest: of("program"), IsExecutable: true, NodeProperties: p})
	tree := new(repb.Tree)
	r.message(got.OutputDirectories[0].TreeDigest, tree)
	want(t, tree.Root.Files[0].NodeProperties, p)
	want(t, tree.Root.NodeProperties, &repb.NodeProperties{Mtime: timestamppb.New(when), UnixMode: wrapperspb.UInt32(0o755)})
	if link := tree.Root.Symlinks[0].NodeProperties; link.Mtime == nil || link.UnixMode != nil {
		t.Errorf("a link has %v, want a time and no mode", link)
	}
	_, err = r.collect(&repb.Command{OutputPaths: []string{"d"}, OutputNodeProperties: []string{"colour"}}, collect.Options{})
	wantError(t, err, blob.ErrInvalid, "output_node_properties[0]", "colour")
}

// wantError checks what err wraps and says.
func wantError(t testing.TB, err, is error, parts ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("got %v, want %v", err, is)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func TestLinks(t *testing.T) {
	seen := collect.Options{Seen: []string{"/elsewhere", "/build/root/"}}
	allowed := collect.Options{Absolute: repb.SymlinkAbsolutePathStrategy_ALLOWED}
	for _, c := range []struct {
		at, target string
		o          collect.Options
		want       string // "" if it is refused
	}{
		{"l", "f", seen, "f"},
		{"l", "none/../f", seen, "none/../f"},
		{"d/e/l", "../../f", seen, "../../f"},
		{"d/e/l", "../../../f", seen, ""},
		{"l", "..", seen, ""},
		{"l", "../root/f", allowed, "../root/f"},
		{"l", "/build/root/f", seen, "f"},
		{"d/e/l", "/build/root/f", seen, "../../f"},
		{"d/e/l", "/build/root/d/x", seen, "../x"},
		{"d/e/l", "/build/root", seen, "../.."},
		{"l", "/build/root/", seen, "."},
		{"d/e/l", "/build/root/d/e", seen, "."},
		{"d/l", "/elsewhere/x/y", seen, "../x/y"},
		{"l", "/build/root/../other", seen, ""},
		{"l", "/build/rooted", seen, ""},
		{"l", "/etc/passwd", seen, ""},
		{"l", "/etc/passwd", collect.Options{}, ""},
		{"l", "/etc/passwd", allowed, "/etc/passwd"},
		{"d/l", "/build/root/f", collect.Options{Absolute: allowed.Absolute, Seen: seen.Seen}, "../f"},
		{"l", "/build/rooted", collect.Options{Absolute: allowed.Absolute, Seen: seen.Seen}, "/build/rooted"},
	} {
		r := newRig(t, c.at+" -> "+c.target)
		top := strings.Split(c.at, "/")[0]
		got, err := r.collect(&repb.Command{OutputPaths: slices.Compact([]string{c.at, top})}, c.o)
		if c.want == "" {
			wantError(t, err, collect.ErrRefused, fmt.Sprintf("%q", c.at), fmt.Sprintf("%q", c.target))
			continue
		}
		if err != nil || got.OutputSymlinks[0].Target != c.want {
			t.Errorf("%s -> %s: got %v, %v, want %q", c.at, c.target, got, err, c.want)
		}
	}
	// What an absolute link leads to is not looked for below the root.
	r := newRig(t, "l -> /usr/none", "usr/none/f f")
	got, err := r.collect(&repb.Command{OutputFiles: []string{"l"}}, allowed)
	if err != nil || len(got.OutputFileSymlinks) != 1 {
		t.Errorf("an absolute link in output_files: got %v, %v, want the link", got, err)
	}
	r = newRig(t, "d/l -> none")
	_, err = r.collect(&repb.Command{OutputPaths: []string{"d"}}, collect.Options{RefuseDangling: true})
	wantError(t, err, collect.ErrRefused, `"d/l"`, `"none"`)
}

func TestRefused(t *testing.T) {
	r := newRig(t, "f content", "d/x x", "toFile -> f", "toDir -> d", "tree/f f", "out -> /etc", "loop -> loop")
	if err := unix.Mkfifo(filepath.Join(r.dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(r.dir, "tree/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(r.dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.make("names/\xff\xfe content", "targets/l -> \xff")
	for _, c := range []struct {
		command *repb.Command
		is      error
		says    []string
	}{
		{&repb.Command{OutputPaths: []string{"fifo"}}, collect.ErrRefused, []string{`"fifo"`, "FIFO"}},
		{&repb.Command{OutputPaths: []string{"socket"}}, collect.ErrRefused, []string{`"socket"`, "a socket"}},
		{&repb.Command{OutputPaths: []string{"tree"}}, collect.ErrRefused, []string{`"tree/pipe"`, "FIFO"}},
		{&repb.Command{OutputPaths: []string{"names"}}, collect.ErrRefused, []string{"names", "UTF-8"}},
		{&repb.Command{OutputPaths: []string{"targets"}}, collect.ErrRefused, []string{"targets/l", "UTF-8"}},
		{&repb.Command{OutputFiles: []string{"d"}}, collect.ErrRefused, []string{`"d"`, "output_files[0]"}},
		{&repb.Command{OutputFiles: []string{"toDir"}}, collect.ErrRefused, []string{`"toDir"`, "output_files[0]"}},
		{&repb.Command{OutputDirectories: []string{"f"}}, collect.ErrRefused, []string{`"f"`, "output_directories[0]"}},
		{&repb.Command{OutputDirectories: []string{"toFile"}}, collect.ErrRefused, []string{`"toFile"`, "output_directories[0]"}},
		{&repb.Command{OutputPaths: []string{"out/passwd"}}, collect.ErrRefused, []string{`"out/passwd"`, "escapes"}},
		{&repb.Command{OutputPaths: []string{"loop/x"}}, collect.ErrRefused, []string{`"loop/x"`}},
		{&repb.Command{OutputPaths: []string{"/f"}}, blob.ErrInvalid, []string{"output_paths[0]", "absolute"}},
		{&repb.Command{OutputPaths: []string{"f", ".."}}, blob.ErrInvalid, []string{"output_paths[1]", `".."`, "leads out"}},
		{&repb.Command{OutputPaths: []string{"d/../../f"}}, blob.ErrInvalid, []string{"output_paths[0]", "leads out"}},
		{&repb.Command{WorkingDirectory: "d", OutputPaths: []string{"../../d/bar"}}, blob.ErrInvalid, []string{"output_paths[0]", "leads out"}},
		{&repb.Command{WorkingDirectory: "d", OutputFiles: []string{"."}}, collect.ErrRefused, []string{`"d"`, "output_files[0]"}},
		{&repb.Command{WorkingDirectory: "./x"}, blob.ErrInvalid, []string{"working_directory", `"."`}},
		{&repb.Command{OutputPaths: []string{"d//x"}}, blob.ErrInvalid, []string{"output_paths[0]", "empty component"}},
		{&repb.Command{OutputDirectories: []string{"d/"}}, blob.ErrInvalid, []string{"output_directories[0]", "empty component"}},
		{&repb.Command{OutputFiles: []string{""}}, blob.ErrInvalid, []string{"output_files[0]", "empty"}},
		{&repb.Command{OutputFiles: []string{"f\x00"}}, blob.ErrInvalid, []string{"output_files[0]", "NUL"}},
		{&repb.Command{OutputFiles: []string{strings.Repeat("x", 256)}}, blob.ErrInvalid, []string{"output_files[0]", "255"}},
		{&repb.Command{OutputFiles: []string{"f"}, OutputDirectories: []string{"f"}}, blob.ErrInvalid, []string{"output_directories[0]", "output_files"}},
		{&repb.Command{WorkingDirectory: "../x"}, blob.ErrInvalid, []string{"working_directory", `".."`}},
		{&repb.Command{WorkingDirectory: "/"}, blob.ErrInvalid, []string{"working_directory", "absolute"}},
	} {
		got, err := r.collect(c.command, collect.Options{})
		if got != nil {
			t.Errorf("%v gave %v", c.command, got)
		}
		wantError(t, err, c.is, c.says...)
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, "d/1 1", "d/2 2", "d/e/f/g/h deep")
	command := &repb.Command{OutputPaths: []string{"d"}}
	for _, c := range []struct {
		o  collect.Options
		is error
	}{
		{collect.Options{MaxBytes: 6, MaxFiles: 7, MaxDepth: 4}, nil},
		{collect.Options{MaxBytes: 5}, collect.ErrLimit},
		{collect.Options{MaxFiles: 6}, collect.ErrLimit},
		{collect.Options{MaxDepth: 3}, collect.ErrRefused},
	} {
		if _, err := r.collect(command, c.o); !errors.Is(err, c.is) {
			t.Errorf("%+v: got %v, want %v", c.o, err, c.is)
		}
	}
	// A file of holes is as large as it says, and is not read to find that out.
	if err := os.Truncate(filepath.Join(r.dir, "d/1"), 1<<40); err != nil {
		t.Fatal(err)
	}
	_, err := r.collect(command, collect.Options{})
	wantError(t, err, collect.ErrLimit, `"d/1"`)
}

// Files of every size that takes another way, more bytes than may be in memory, and a blob named twice.
func TestLargeOutputs(t *testing.T) {
	r := newRig(t, "d/")
	for i, size := range []int{1, 256 << 10, 256<<10 + 1, 3 << 20, 3 << 20, 9 << 20} {
		data := storetest.Bytes(uint64(size), size)
		if err := os.WriteFile(filepath.Join(r.dir, "d", fmt.Sprint(i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3000 {
		r.make(fmt.Sprintf("d/many/%d %d", i, i))
	}
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(r.dir, "d", fmt.Sprint("m", i)), storetest.Bytes(uint64(100+i), 200_000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.collect(&repb.Command{OutputPaths: []string{"d"}}, collect.Options{Memory: 1})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.complete(got); n != 5+3000+40+1 {
		t.Errorf("%d blobs, want %d", n, 5+3000+40+1)
	}
}

func TestLog(t *testing.T) {
	r := newRig(t)
	for _, size := range []int{0, 1, 16 << 10, 16<<10 + 1, 1 << 20} {
		data := storetest.Bytes(uint64(size), size)
		name := filepath.Join(r.dir, "log")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		d, inline, err := collect.Log(t.Context(), f, 16<<10, digest.SHA256, r.store)
		if err != nil || !bytes.Equal(r.read(d), data) {
			t.Errorf("%d bytes: %v, %v", size, d, err)
		}
		if size > 16<<10 && inline != nil || size <= 16<<10 && !bytes.Equal(inline, data) {
			t.Errorf("%d bytes: %d of them inline", size, len(inline))
		}
	}
}
