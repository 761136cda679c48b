package stage

import (
	"slices"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
)

// TestList: all files of a tree are listed, with the client's marks.
func TestList(t *testing.T) {
	dir, src := t.TempDir(), newSource()
	a, b := src.put(t, digest.SHA256, []byte("a")), src.put(t, digest.SHA256, []byte("b"))
	marked := &repb.NodeProperties{Properties: []*repb.NodeProperty{{Name: "bazel_tool_input"}}}
	sub := src.directory(t, digest.SHA256, &repb.Directory{Files: []*repb.FileNode{
		{Name: "data", Digest: wire(b)}, {Name: "tool", Digest: wire(a), IsExecutable: true, NodeProperties: marked},
	}})
	root := src.directory(t, digest.SHA256, &repb.Directory{
		Files:       []*repb.FileNode{{Name: "x", Digest: wire(a)}},
		Directories: []*repb.DirectoryNode{{Name: "one", Digest: wire(sub)}, {Name: "two", Digest: wire(sub)}},
	})
	want := []Input{
		{"x", a, false, false},
		{"one/data", b, false, false}, {"one/tool", a, true, true},
		{"two/data", b, false, false}, {"two/tool", a, true, true},
	}
	s := openStager(t, dir, src, Options{}, 1<<20)
	if got, err := s.List(ctx, root); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
