package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/segment"
	"github.com/sarsen-build/sarsen/tier"
)

// A number is one of those that S has.
type number[S any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(S) float64
}

func gauge[S any](name, help string, get func(S) float64) number[S] {
	return number[S]{prometheus.NewDesc("sarsen_"+name, help, nil, nil), prometheus.GaugeValue, get}
}

func counter[S any](name, help string, get func(S) float64) number[S] {
	return number[S]{prometheus.NewDesc("sarsen_"+name+"_total", help, nil, nil), prometheus.CounterValue, get}
}

var storeNumbers = []number[segment.Stats]{
	gauge("store_used_bytes", "Bytes of disk that the store takes, those of removed segments that are still read included.", func(s segment.Stats) float64 { return float64(s.UsedBytes) }),
	gauge("store_max_bytes", "The limit that is set, in bytes of disk.", func(s segment.Stats) float64 { return float64(s.MaxBytes) }),
	gauge("store_limit_bytes", "The limit that holds, in bytes of disk: less than the one that is set where the disk is nearly full.", func(s segment.Stats) float64 { return float64(s.LimitBytes) }),
	gauge("store_leased_bytes", "Bytes of blobs and results that may not be evicted before their lease ends.", func(s segment.Stats) float64 { return float64(s.LeasedBytes) }),
	gauge("store_kept_bytes", "Bytes that roots keep until they are released: backups.", func(s segment.Stats) float64 { return float64(s.KeptBytes) }),
	gauge("store_roots", "Names under which something is kept.", func(s segment.Stats) float64 { return float64(s.Roots) }),
	gauge("store_blobs", "Blobs that are present.", func(s segment.Stats) float64 { return float64(s.Blobs) }),
	gauge("store_results", "Action results that are present.", func(s segment.Stats) float64 { return float64(s.Records) }),
	gauge("store_pins", "Blobs and results that are being read or written, each reader counted.", func(s segment.Stats) float64 { return float64(s.Pins) }),
	gauge("store_segments", "Segments that the store consists of.", func(s segment.Stats) float64 { return float64(s.Segments) }),
	counter("store_evicted_segments", "Segments that were removed to make room.", func(s segment.Stats) float64 { return float64(s.EvictedSegments) }),
	counter("store_refused_writes", "Writes that were refused for want of room, with RESOURCE_EXHAUSTED or HTTP 507.", func(s segment.Stats) float64 { return float64(s.RefusedWrites) }),
	counter("store_damaged_records", "Blobs and results that did not verify and were quarantined.", func(s segment.Stats) float64 { return float64(s.DamagedRecords) }),
}

var bucketNumbers = []number[s3.Stats]{
	gauge("bucket_blobs", "Blobs that this server knows to be in the bucket.", func(s s3.Stats) float64 { return float64(s.Blobs) }),
	gauge("bucket_results", "Action results that this server knows to be in the bucket.", func(s s3.Stats) float64 { return float64(s.Records) }),
	gauge("bucket_leased_objects", "Blobs and results in the bucket that this server promised for a lease.", func(s s3.Stats) float64 { return float64(s.Leased) }),
	counter("bucket_uploads", "Objects that were written to the bucket.", func(s s3.Stats) float64 { return float64(s.Uploads) }),
	counter("bucket_downloads", "Reads of objects, or of parts of one.", func(s s3.Stats) float64 { return float64(s.Downloads) }),
	counter("bucket_uploaded_bytes", "Bytes that were written to the bucket, compressed as they lie there.", func(s s3.Stats) float64 { return float64(s.BytesUp) }),
	counter("bucket_downloaded_bytes", "Bytes that were read from the bucket, compressed as they lie there.", func(s s3.Stats) float64 { return float64(s.BytesDown) }),
	counter("bucket_damaged_objects", "Objects that were gone or did not verify, and are called missing.", func(s s3.Stats) float64 { return float64(s.Corrupt) }),
	counter("bucket_deleted_objects", "Objects that this server's collections removed.", func(s s3.Stats) float64 { return float64(s.Deleted) }),
	counter("bucket_sessions", "Sessions of this process: more than one if the bucket was out of reach for longer than bucket.heartbeat.", func(s s3.Stats) float64 { return float64(s.Sessions) }),
}

var tierNumbers = []number[tier.Stats]{
	counter("climb_fetched", "Blobs and results that were read from the bucket to the disk.", func(s tier.Stats) float64 { return float64(s.Fetched) }),
	counter("climb_unfilled", "Of these, those that the disk did not take, mostly for want of room.", func(s tier.Stats) float64 { return float64(s.Unfilled) }),
	counter("climb_written", "Blobs and results that the disk had and the bucket has since.", func(s tier.Stats) float64 { return float64(s.Climbed) }),
	counter("climb_failures", "Tries to write a blob or result to the bucket that came to nothing.", func(s tier.Stats) float64 { return float64(s.Failed) }),
	gauge("climb_waiting", "Blobs and results that wait on the disk for their way to the bucket.", func(s tier.Stats) float64 { return float64(s.Waiting) }),
	gauge("climb_waiting_bytes", "Bytes of these.", func(s tier.Stats) float64 { return float64(s.WaitBytes) }),
}

var executionNumbers = []number[execution.Stats]{
	gauge("execution_checking_actions", "Actions whose result or inputs are being looked for.", func(s execution.Stats) float64 { return float64(s.Checking) }),
	gauge("execution_queued_actions", "Actions that wait for a worker.", func(s execution.Stats) float64 { return float64(s.Queued) }),
	gauge("execution_running_actions", "Actions that a worker has.", func(s execution.Stats) float64 { return float64(s.Running) }),
	gauge("execution_completing_actions", "Actions that have run and whose result is being stored.", func(s execution.Stats) float64 { return float64(s.Completing) }),
	gauge("execution_operations", "Operations that can be asked for, those that are done included.", func(s execution.Stats) float64 { return float64(s.Operations) }),
	gauge("execution_workers", "Workers that are connected.", func(s execution.Stats) float64 { return float64(s.Workers) }),
	gauge("execution_slots", "Actions that the connected workers can run at once.", func(s execution.Stats) float64 { return float64(s.Slots) }),
}

// numbers is a prometheus.Collector of numbers that are all of one instant.
type numbers[S any] struct {
	list []number[S]
	now  func() S
}

// Describe implements prometheus.Collector.
func (n numbers[S]) Describe(to chan<- *prometheus.Desc) {
	for _, m := range n.list {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (n numbers[S]) Collect(to chan<- prometheus.Metric) {
	stats := n.now()
	for _, m := range n.list {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.get(stats))
	}
}
