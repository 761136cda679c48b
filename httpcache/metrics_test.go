package httpcache

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sarsen-build/sarsen/digest"
)

// Every metric that is declared is printed from the start, before anything was counted.
func TestEveryMetricIsEmitted(t *testing.T) {
	f := newFixture(t, nil)
	declared := make(chan *prometheus.Desc, 100)
	for _, c := range []prometheus.Collector{f.handler.metrics.requests, f.handler.metrics.received, f.handler.metrics.sent} {
		c.Describe(declared)
	}
	close(declared)
	page := f.get("/metrics").must(t, 200).body
	n := 0
	for desc := range declared {
		_, rest, _ := strings.Cut(desc.String(), `fqName: "`)
		name, _, _ := strings.Cut(rest, `"`)
		if !strings.Contains(page, "\n"+name+"{") {
			t.Errorf("%s is declared and not on the page", name)
		}
		n++
	}
	if n != 3 {
		t.Errorf("got %d declared metrics, want 3", n)
	}
	if problems, err := testutil.GatherAndLint(f.handler.Options.Metrics); err != nil || len(problems) > 0 {
		t.Errorf("got %v, %v", problems, err)
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t, nil)
	data := bytes.Repeat([]byte("counted"), 1000)
	d := digest.SHA256.Of(data)
	f.put(casPath(d), data).must(t, 200)
	f.get(casPath(d)).must(t, 200)
	f.get(casPath(d)).must(t, 200)
	f.do("HEAD", casPath(d), nil).must(t, 200)
	f.get(casPath(d), "Range", "bytes=0-9").must(t, 206)
	f.get("/cas/zz").must(t, 400)
	f.get("/ac/"+d.Hex()).must(t, 404)
	f.do("BREW", "/cas/"+d.Hex(), nil).must(t, 405)
	f.do("DELETE", "/nowhere", nil).must(t, 404)
	page := f.get("/metrics").must(t, 200).body
	for _, want := range []string{
		`sarsen_http_requests_total{code="200",method="PUT",route="cas"} 1`,
		`sarsen_http_requests_total{code="200",method="GET",route="cas"} 2`,
		`sarsen_http_requests_total{code="200",method="HEAD",route="cas"} 1`,
		`sarsen_http_requests_total{code="206",method="GET",route="cas"} 1`,
		`sarsen_http_requests_total{code="400",method="GET",route="cas"} 1`,
		`sarsen_http_requests_total{code="405",method="other",route="cas"} 1`,
		`sarsen_http_requests_total{code="404",method="GET",route="ac"} 1`,
		`sarsen_http_requests_total{code="404",method="other",route="other"} 1`,
		`sarsen_http_received_bytes_total{route="cas"} 7000`,
		`sarsen_http_received_bytes_total{route="ac"} 0`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("got a page without %s", want)
		}
	}
	// 2 whole blobs, 10 bytes and two lines that explain an error.
	if got := testutil.ToFloat64(f.handler.metrics.sent.WithLabelValues("cas")); got < 14_010 || got > 15_000 {
		t.Errorf("bytes sent: got %v, want some more than 14010", got)
	}
	// What goes over the wire counts, compressed as it is.
	before := testutil.ToFloat64(f.handler.metrics.sent.WithLabelValues("cas"))
	n := len(f.get(casPath(d), "Accept-Encoding", "zstd").must(t, 200).body)
	if got := testutil.ToFloat64(f.handler.metrics.sent.WithLabelValues("cas")) - before; got != float64(n) {
		t.Errorf("bytes sent, compressed: got %v, want %d", got, n)
	}
}

// Two handlers over one registry count into the same metrics.
func TestMetricsAreShared(t *testing.T) {
	r := prometheus.NewRegistry()
	for i := range 2 {
		f := newFixture(t, func(o *Options) { o.Metrics = r })
		f.get("/healthz").must(t, 200)
		want := fmt.Sprintf(`sarsen_http_requests_total{code="200",method="GET",route="healthz"} %d`, i+1)
		if page := f.get("/metrics").must(t, 200).body; !strings.Contains(page, want) {
			t.Errorf("got a page without %s", want)
		}
	}
}
