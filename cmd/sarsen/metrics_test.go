package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sarsen-build/sarsen/segment"
)

// TestStoreMetrics checks that each number is taken from its own field, and that names and help texts are
// as Prometheus wants them.
func TestStoreMetrics(t *testing.T) {
	c := storeMetrics(func() segment.Stats {
		return segment.Stats{
			UsedBytes: 1, MaxBytes: 2, LimitBytes: 3, LeasedBytes: 4, Blobs: 5, Records: 6, Pins: 7, Segments: 8,
			EvictedSegments: 9, RefusedWrites: 10, DamagedRecords: 11,
		}
	})
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
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
		got[strings.TrimPrefix(f.GetName(), "sarsen_store_")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	want := map[string]float64{
		"used_bytes": 1, "max_bytes": 2, "limit_bytes": 3, "leased_bytes": 4, "blobs": 5, "results": 6, "pins": 7, "segments": 8,
		"evicted_segments_total": 9, "refused_writes_total": 10, "damaged_records_total": 11,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
