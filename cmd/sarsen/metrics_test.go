package main

import (
	"reflect"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/segment"
)

// TestNumbers checks that each number is taken from its own field, and that names and help texts are as
// Prometheus wants them.
func TestNumbers(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(numbers[segment.Stats]{storeNumbers, func() segment.Stats {
		return segment.Stats{
			UsedBytes: 1, MaxBytes: 2, LimitBytes: 3, LeasedBytes: 4, Blobs: 5, Records: 6, Pins: 7, Segments: 8,
			EvictedSegments: 9, RefusedWrites: 10, DamagedRecords: 11, KeptBytes: 12, Roots: 13,
		}
	}}, numbers[execution.Stats]{executionNumbers, func() execution.Stats {
		return execution.Stats{Checking: 1, Queued: 2, Running: 3, Completing: 4, Operations: 5, Workers: 6, Slots: 7}
	}})
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("got %v, %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	want := map[string]float64{
		"sarsen_store_used_bytes": 1, "sarsen_store_max_bytes": 2, "sarsen_store_limit_bytes": 3, "sarsen_store_leased_bytes": 4,
		"sarsen_store_blobs": 5, "sarsen_store_results": 6, "sarsen_store_pins": 7, "sarsen_store_segments": 8,
		"sarsen_store_evicted_segments_total": 9, "sarsen_store_refused_writes_total": 10, "sarsen_store_damaged_records_total": 11,
		"sarsen_store_kept_bytes": 12, "sarsen_store_roots": 13,
		"sarsen_execution_checking_actions": 1, "sarsen_execution_queued_actions": 2, "sarsen_execution_running_actions": 3,
		"sarsen_execution_completing_actions": 4, "sarsen_execution_operations": 5, "sarsen_execution_workers": 6, "sarsen_execution_slots": 7,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
