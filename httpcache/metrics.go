package httpcache

import (
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests. The labels take few values, whatever clients send.
type metrics struct {
	requests *prometheus.CounterVec
	received *prometheus.CounterVec
	sent     *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sarsen_http_requests_total",
			Help: "HTTP requests that were answered.",
		}, []string{"route", "method", "code"})),
		received: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sarsen_http_received_bytes_total",
			Help: "Bytes of HTTP request bodies, as they came over the wire.",
		}, []string{"route"})),
		sent: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sarsen_http_sent_bytes_total",
			Help: "Bytes of HTTP response bodies, as they went over the wire.",
		}, []string{"route"})),
	}
	// What was never counted would not be printed, and a rate over it would miss its first step.
	routes := []route{routeCAS, routeAC, routeHealthz, routeMetrics, routeStatus, routeFsck, routeOther, routeRestic, routeCasync}
	for _, r := range slices.AppendSeq(routes, maps.Keys(dialects)) {
		m.requests.WithLabelValues(string(r), "GET", "200")
		m.received.WithLabelValues(string(r))
		m.sent.WithLabelValues(string(r))
	}
	return m
}

// register registers c, or returns what an earlier handler registered under the same names.
func register(r prometheus.Registerer, c *prometheus.CounterVec) *prometheus.CounterVec {
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		return already.ExistingCollector.(*prometheus.CounterVec)
	} else if err != nil {
		panic(err) // only two metrics of one name and different meaning do this
	}
	return c
}

// count records one request: what it was, how it ended and how many bytes of bodies it moved.
func (m *metrics) count(r route, method string, code int, received, sent int64) {
	switch method {
	case "GET", "HEAD", "PUT", "POST":
	default:
		method = "other"
	}
	m.requests.WithLabelValues(string(r), method, strconv.Itoa(code)).Inc()
	m.received.WithLabelValues(string(r)).Add(float64(received))
	m.sent.WithLabelValues(string(r)).Add(float64(sent))
}
