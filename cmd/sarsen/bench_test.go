package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sarsen-build/sarsen/bench"
)

func TestBench(t *testing.T) {
	i := newInspected(t)
	got, err := i.run(newBenchCommand(), "--short", "--json", "--only", "action-miss,find-missing-missing")
	if err != nil {
		t.Fatal(err)
	}
	var report bench.Report
	if err := json.Unmarshal([]byte(got), &report); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if len(report.Results) != 2 || report.Results[0].Name != "find-missing-missing" || report.Results[1].Status != bench.OK {
		t.Errorf("%+v", report)
	}
	if got, err := i.run(newBenchCommand(), "--short", "--only", "action-miss"); err != nil || !strings.HasPrefix(got, "workload ") {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := i.run(newBenchCommand(), "--list"); err != nil || strings.Count(got, "\n") != len(bench.Workloads) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := i.run(newBenchCommand(), "--only", "nonsense"); err == nil || !strings.Contains(err.Error(), "unknown workload") {
		t.Errorf("an unknown workload: %v", err)
	}
}
