package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// metrics is what is counted. Each series that a dashboard would look for is there from the start.
type metrics struct {
	requests  *prometheus.CounterVec
	ok        map[string]prometheus.Counter // requests with code OK, by full method
	sent      traffic
	received  traffic
	wrongPort prometheus.Counter
}

// traffic is the bytes in one direction.
type traffic struct{ identity, zstd prometheus.Counter }

func newTraffic(bytes *prometheus.CounterVec, direction string) traffic {
	return traffic{bytes.WithLabelValues(direction, "identity"), bytes.WithLabelValues(direction, "zstd")}
}

// add counts n bytes, which are a zstd frame's or a blob's own.
func (t *traffic) add(n int, compressed bool) {
	if compressed {
		t.zstd.Add(float64(n))
	} else {
		t.identity.Add(float64(n))
	}
}

func newMetrics(r prometheus.Registerer, services map[string]grpc.ServiceInfo, us *uploads) *metrics {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sarsen_grpc_blob_bytes_total",
		Help: "Bytes of blobs and directories in messages, as they are on the wire before any gRPC compression.",
	}, []string{"direction", "compressor"})
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sarsen_grpc_requests_total",
			Help: "Calls that were answered, by method and gRPC code.",
		}, []string{"method", "code"}),
		ok:       map[string]prometheus.Counter{},
		sent:     newTraffic(bytes, "sent"),
		received: newTraffic(bytes, "received"),
		wrongPort: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sarsen_grpc_http1_requests_total",
			Help: "HTTP/1 requests to the gRPC port, each answered with the address of the HTTP port.",
		}),
	}
	for service, info := range services {
		for _, method := range info.Methods {
			full := "/" + service + "/" + method.Name
			m.ok[full] = m.requests.WithLabelValues(shortMethod(full), codes.OK.String())
		}
	}
	if r != nil {
		r.MustRegister(m.requests, bytes, m.wrongPort,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "sarsen_grpc_idle_uploads",
				Help: "Uploads that broke off and are kept for their clients to go on with.",
			}, func() float64 { count, _ := us.kept(); return float64(count) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "sarsen_grpc_idle_upload_bytes",
				Help: "Declared sizes of the uploads that broke off and are kept.",
			}, func() float64 { _, bytes := us.kept(); return float64(bytes) }),
		)
	}
	return m
}

// shortMethod returns SERVICE/METHOD without the service's package.
func shortMethod(full string) string {
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "/" + method
}

// observe accounts for a call that ended with err. What is the server's fault is logged; all else
// only when debugging.
func (s *Server) observe(ctx context.Context, method string, start time.Time, err error) {
	code := status.Code(err)
	if ok := s.metrics.ok[method]; ok != nil && code == codes.OK {
		ok.Inc()
	} else {
		s.metrics.requests.WithLabelValues(shortMethod(method), code.String()).Inc()
	}
	level := slog.LevelDebug
	if code == codes.Internal || code == codes.DataLoss || code == codes.Unknown {
		level = slog.LevelError
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", shortMethod(method)), slog.String("code", code.String()), slog.Duration("took", time.Since(start))}
	if err != nil {
		attrs = append(attrs, slog.String("error", message(err)))
	}
	s.log.LogAttrs(ctx, level, "grpc call", attrs...)
}
