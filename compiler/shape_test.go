package compiler

import (
	"errors"
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/compiler/args"
)

// TestWhole: an entry without what the command writes is no hit, and neither is one with more.
func TestWhole(t *testing.T) {
	object, deps := output{kind: args.Object}, output{kind: args.Dependencies}
	j := &job{command: &args.Command{Outputs: []args.Output{
		{Kind: args.Object, Path: "x.o"}, {Kind: args.Dependencies, Path: "x.d"}, {Kind: args.SplitDwarf, Path: "x.dwo", Maybe: true},
	}}}
	for _, c := range []struct {
		name    string
		outputs []output
		want    bool
	}{
		{"all", []output{object, deps}, true},
		{"with one that may be", []output{object, deps, {kind: args.SplitDwarf}}, true},
		{"nothing", nil, false},
		{"no object", []output{deps}, false},
		{"two objects", []output{object, deps, object}, false},
		{"a manifest", []output{{kind: manifestFile}}, false},
		{"another place", []output{object, deps, {kind: "../../x.o"}}, false},
	} {
		if got := j.whole(&entry{outputs: c.outputs}); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestShapeOfResults: what a server says is bounded before anything is fetched.
func TestShapeOfResults(t *testing.T) {
	file := func(size int64) *repb.OutputFile {
		return &repb.OutputFile{Path: "object", Digest: &repb.Digest{Hash: strings.Repeat("a", 64), SizeBytes: size}}
	}
	many := &repb.ActionResult{}
	for range maxOutputs + 1 {
		many.OutputFiles = append(many.OutputFiles, file(1))
	}
	for name, r := range map[string]*repb.ActionResult{
		"failed": {ExitCode: 1}, "large": {OutputFiles: []*repb.OutputFile{file(maxOutput + 1)}}, "many": many,
		"large message": {StderrDigest: file(1 << 40).Digest},
	} {
		if err := (&entries{}).fetch(t.Context(), r, maxOutput); !errors.Is(err, errShape) {
			t.Errorf("%s: got %v, want %v", name, err, errShape)
		}
	}
}
