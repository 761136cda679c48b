package bench_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/bench"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/httpcache"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/server"
)

// start serves store by gRPC and HTTP and returns both addresses.
func start(t *testing.T, store blob.Store) (grpcTarget, httpTarget string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	actions := action.New(store, model.New(time.Hour))
	scheduler := execution.New(execution.Options{Store: store, Actions: actions})
	t.Cleanup(scheduler.Close)
	idle(t, scheduler)
	s := server.New(server.Options{Store: store, Actions: actions, Scheduler: scheduler})
	go s.Serve(l)
	t.Cleanup(func() { s.Stop(t.Context()) })
	h := httptest.NewServer(httpcache.New(httpcache.Options{Store: store, Actions: actions, SpoolDir: t.TempDir()}))
	t.Cleanup(h.Close)
	return "grpc://" + l.Addr().String(), h.URL
}

// idle connects a worker that says of each action that it ended well, and does nothing. It says that it is alive, however
// long the workloads before take.
func idle(t *testing.T, s *execution.Scheduler) {
	t.Helper()
	session, err := s.Connect(execution.Registration{Name: "idle", Session: "1", Slots: 8})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for t.Context().Err() == nil {
			session.Heartbeat(execution.Load{})
			time.Sleep(time.Second)
		}
	}()
	go func() {
		for {
			i, err := session.Next(context.Background()) // until the scheduler is closed
			if err != nil {
				return
			}
			if i.Kind == execution.Assign {
				session.Complete(i.ID, &repb.ExecuteResponse{Result: new(repb.ActionResult)})
			}
		}
	}()
}

// light returns the names of the workloads that suit a test: all but those of 64 MiB blobs.
func light() []string {
	var list []string
	for _, w := range bench.Workloads {
		if !strings.Contains(w.Name, "64m") {
			list = append(list, w.Name)
		}
	}
	return list
}

func TestRun(t *testing.T) {
	target, web := start(t, model.New(time.Hour))
	var last atomic.Pointer[bench.Progress]
	report, err := bench.Run(t.Context(), bench.Options{
		Server: target, HTTP: web, Instance: "some/instance", Only: light(), Short: true, PID: os.Getpid(),
		Progress: func(p bench.Progress) { last.Store(&p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(report.Results), len(light()); got != want {
		t.Fatalf("%d results, want %d", got, want)
	}
	for i, r := range report.Results {
		if r.Name != light()[i] || r.Status != bench.OK || r.Errors != 0 || r.Requests == 0 || r.Items < int64(r.Requests) {
			t.Errorf("%+v, want %s to be ok", r, light()[i])
		}
		if r.P50 <= 0 || r.P50 > r.P95 || r.P95 > r.P99 || r.P99 > r.Max || r.RequestsPerSecond <= 0 {
			t.Errorf("%s: latencies %v %v %v %v, %v requests a second", r.Name, r.P50, r.P95, r.P99, r.Max, r.RequestsPerSecond)
		}
		if strings.HasPrefix(r.Name, "http-") && (r.Connections != 8 || r.Concurrency != 8) {
			t.Errorf("%s: %d requests at once on %d connections, want one connection each of 8", r.Name, r.Concurrency, r.Connections)
		}
		if r.Server == nil || r.Server.PeakMemory == 0 {
			t.Errorf("%s: the process was not read: %+v", r.Name, r.Server)
		}
	}
	if p := last.Load(); p == nil || p.Number != len(light()) || p.Of != len(light()) {
		t.Errorf("the last progress is %+v", p)
	}
	if report.Seed == 0 || report.APIVersions == "" {
		t.Errorf("seed %d, versions %q", report.Seed, report.APIVersions)
	}
}

// Each workload must also run by itself, with nothing that another has left.
func TestEachAlone(t *testing.T) {
	target, web := start(t, model.New(time.Hour))
	for _, name := range light() {
		report, err := bench.Run(t.Context(), bench.Options{Server: target, HTTP: web, Only: []string{name}, Short: true})
		if err != nil || len(report.Results) != 1 || report.Results[0].Status != bench.OK {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}

// A liar says that it has everything, and gives out bytes with one bit wrong.
type liar struct{ *model.Store }

func (liar) Missing(context.Context, digest.Set) (digest.Set, error) { return digest.Set{}, nil }

func (l liar) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := l.Store.Open(ctx, d)
	return flipped{r}, err
}

func (l liar) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := l.Store.GetAll(ctx, ds)
	for i := range data {
		if len(data[i]) > 0 {
			data[i] = append([]byte{data[i][0] ^ 1}, data[i][1:]...)
		}
	}
	return data, errs
}

type flipped struct{ blob.Reader }

func (f flipped) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.Reader.ReadAt(p, offset)
	if offset == 0 && n > 0 {
		p[0] ^= 1
	}
	return n, err
}

func TestWrongAnswersAreErrors(t *testing.T) {
	target, web := start(t, liar{model.New(time.Hour)})
	// The first of each pair lays down what the second reads, since nothing is missing for it.
	for _, pair := range [][]string{
		{"batch-update", "batch-read"},
		{"bytestream-write-4k", "bytestream-read-4k"},
		{"http-put-4k", "http-get-4k"},
		{"find-missing-missing"},
		{"find-missing-half"},
	} {
		report, err := bench.Run(t.Context(), bench.Options{Server: target, HTTP: web, Only: pair, Short: true})
		if err != nil {
			t.Fatal(err)
		}
		if last := report.Results[len(report.Results)-1]; last.Status != bench.Failed || last.Reason == "" {
			t.Errorf("%s: %+v, want %s", last.Name, last, bench.Failed)
		}
		if got := report.Faults(); len(got) == 0 {
			t.Errorf("%v: no faults", pair)
		}
	}
}

func TestUnsupported(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer() // with no services
	go s.Serve(l)
	t.Cleanup(s.Stop)
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "read only", http.StatusMethodNotAllowed)
	}))
	t.Cleanup(refuses.Close)
	report, err := bench.Run(t.Context(), bench.Options{Server: "grpc://" + l.Addr().String(), HTTP: refuses.URL, Only: light(), Short: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if r.Status != bench.Unsupported || r.Reason == "" {
			t.Errorf("%s: %s, %q, want %s", r.Name, r.Status, r.Reason, bench.Unsupported)
		}
	}
	if got := report.Faults(); len(got) != 0 {
		t.Errorf("faults %v", got)
	}
}

func TestRunRefuses(t *testing.T) {
	for want, o := range map[string]bench.Options{
		"does not answer":    {Server: "grpc://127.0.0.1:1"},
		"unknown workload":   {Server: "grpc://127.0.0.1:1", Only: []string{"batch-update", "nonsense"}},
		"give --http":        {Server: "grpc://127.0.0.1:1", Only: []string{"http-get-4k"}},
		"http://HOST:PORT":   {Server: "grpc://127.0.0.1:1", HTTP: "127.0.0.1:80"},
		"process 2147483647": {Server: "grpc://127.0.0.1:1", PID: 1<<31 - 1},
	} {
		if _, err := bench.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q in it", o, err, want)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	target, _ := start(t, model.New(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	report, err := bench.Run(ctx, bench.Options{
		Server: target, Only: []string{"action-miss", "action-hit"}, Short: true,
		Progress: func(p bench.Progress) {
			if p.Number == 2 {
				cancel()
			}
		},
	})
	if err != context.Canceled || report == nil || len(report.Results) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestReport(t *testing.T) {
	report := &bench.Report{Server: "grpc://a:1", PID: 7, Results: []bench.Result{
		{Name: "batch-read", Status: bench.OK, Requests: 40, Items: 4000, Bytes: 16_384_000, Seconds: 2, RequestsPerSecond: 20,
			ItemsPerSecond: 2000, MegabytesPerSecond: 8.192, P50: 1.5, P95: 2.25, P99: 3, Server: &bench.Usage{CPU: 0.04, CPUPerItem: 1e-5, PeakMemory: 5 << 20}},
		{Name: "gettree-c1", Status: bench.Unsupported, Reason: "Unimplemented: no trees"},
		{Name: "batch-update", Status: bench.Failed, Reason: "Internal: broken", Requests: 1, Errors: 100},
	}}
	var table strings.Builder
	if err := report.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	want := `workload      requests  errors  req/s  items/s  MB/s  p50 ms  p95 ms  p99 ms  CPU µs/item  peak MiB
batch-read          40       0   20.0    2,000   8.2    1.50    2.25    3.00         10.0         5
gettree-c1    unsupported
batch-update         1     100    0.0      0.0   0.0    0.00    0.00    0.00            -         -
gettree-c1: unsupported: Unimplemented: no trees
batch-update: failed: Internal: broken
`
	if got := table.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	data, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	// Programs that compare runs read these names.
	for _, field := range []string{
		`"server":"grpc://a:1"`, `"workloads":[`, `"name":"batch-read"`, `"status":"ok"`, `"requests_per_second":20`,
		`"items_per_second":2000`, `"megabytes_per_second":8.192`, `"latency_p50_milliseconds":1.5`, `"latency_p95_milliseconds":2.25`,
		`"latency_p99_milliseconds":3`, `"errors":100`, `"cpu_seconds_per_item":0.00001`, `"peak_memory_bytes":5242880`,
	} {
		if !strings.Contains(string(data), field) {
			t.Errorf("no %s in %s", field, data)
		}
	}
}
