package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sarsen-build/sarsen/segment"
)

// A storeMetric is one number of the store's.
type storeMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(segment.Stats) float64
}

func storeGauge(name, help string, get func(segment.Stats) float64) storeMetric {
	return storeMetric{prometheus.NewDesc("sarsen_store_"+name, help, nil, nil), prometheus.GaugeValue, get}
}

func storeCounter(name, help string, get func(segment.Stats) float64) storeMetric {
	return storeMetric{prometheus.NewDesc("sarsen_store_"+name+"_total", help, nil, nil), prometheus.CounterValue, get}
}

var storeNumbers = []storeMetric{
	storeGauge("used_bytes", "Bytes of disk that the store takes, those of removed segments that are still read included.", func(s segment.Stats) float64 { return float64(s.UsedBytes) }),
	storeGauge("max_bytes", "The limit that is set, in bytes of disk.", func(s segment.Stats) float64 { return float64(s.MaxBytes) }),
	storeGauge("limit_bytes", "The limit that holds, in bytes of disk: less than the one that is set where the disk is nearly full.", func(s segment.Stats) float64 { return float64(s.LimitBytes) }),
	storeGauge("leased_bytes", "Bytes of blobs and results that may not be evicted before their lease ends.", func(s segment.Stats) float64 { return float64(s.LeasedBytes) }),
	storeGauge("blobs", "Blobs that are present.", func(s segment.Stats) float64 { return float64(s.Blobs) }),
	storeGauge("results", "Action results that are present.", func(s segment.Stats) float64 { return float64(s.Records) }),
	storeGauge("pins", "Blobs and results that are being read or written, each reader counted.", func(s segment.Stats) float64 { return float64(s.Pins) }),
	storeGauge("segments", "Segments that the store consists of.", func(s segment.Stats) float64 { return float64(s.Segments) }),
	storeCounter("evicted_segments", "Segments that were removed to make room.", func(s segment.Stats) float64 { return float64(s.EvictedSegments) }),
	storeCounter("refused_writes", "Writes that were refused for want of room, with RESOURCE_EXHAUSTED or HTTP 507.", func(s segment.Stats) float64 { return float64(s.RefusedWrites) }),
	storeCounter("damaged_records", "Blobs and results that did not verify and were quarantined.", func(s segment.Stats) float64 { return float64(s.DamagedRecords) }),
}

// storeMetrics is a prometheus.Collector of a store's numbers, all of one instant.
type storeMetrics func() segment.Stats

// Describe implements prometheus.Collector.
func (f storeMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, m := range storeNumbers {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (f storeMetrics) Collect(to chan<- prometheus.Metric) {
	stats := f()
	for _, m := range storeNumbers {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.get(stats))
	}
}
