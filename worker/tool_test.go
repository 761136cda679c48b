package worker_test

import (
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
)

// TestPersistentWorkerAsked: an action that asks for a persistent worker runs on one that can have none, without a
// property of the worker's that says so.
func TestPersistentWorkerAsked(t *testing.T) {
	r := newRig(t, true)
	r.work("one")
	got := r.end(r.begin(r.message(&repb.Action{
		CommandDigest: r.message(&repb.Command{
			Arguments:   []string{"/bin/sh", "-c", "cat \"${0#@}\" >out", "@in"},
			OutputPaths: []string{"out"},
		}),
		InputRootDigest: r.message(&repb.Directory{Files: []*repb.FileNode{{Name: "in", Digest: r.put([]byte("input"))}}}),
		Platform: &repb.Platform{Properties: []*repb.Platform_Property{
			{Name: "persistentWorkerKey", Value: "k"}, {Name: "persistentWorkerProtocol", Value: "json"},
		}},
	})))
	if got.GetStatus().GetCode() != 0 || len(got.GetResult().GetOutputFiles()) != 1 || r.read(got.Result.OutputFiles[0].Digest) != "input" {
		t.Errorf("got %v, want an output with the input", got)
	}
}
