package main

import (
	"strings"
	"testing"

	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

// TestPrintWorkers: commands come from strangers, and are a line each, without what a terminal obeys.
func TestPrintWorkers(t *testing.T) {
	var out strings.Builder
	err := printWorkers(&out, []*pb.Worker{{Name: "one\x1b]0;x\a", Slots: 2, Connected: true, Tasks: []*pb.Task{
		{Stage: "executing", Arguments: []string{"sh", "-c", "echo a\n\tb\x1b[2Jc\r\xff"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 || strings.ContainsAny(out.String(), "\x1b\a\r\t") || !strings.Contains(lines[2], `"sh -c echo a\n\tb\x1b[2Jc`) {
		t.Errorf("got %q, want a heading, a worker and a command, without control characters", out.String())
	}
}
