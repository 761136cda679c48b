package server

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

func TestCapabilities(t *testing.T) {
	for _, instance := range []string{"", "a", "any/thing", "blobs"} {
		for _, limit := range []int64{0, 1 << 30} {
			r := newRig(t, func(o *Options) { o.MaxBlobSize = limit })
			got, err := r.caps.GetCapabilities(r.ctx, &repb.GetCapabilitiesRequest{InstanceName: instance})
			if err != nil {
				t.Fatal(err)
			}
			c := got.GetCacheCapabilities()
			if got, want := got.GetLowApiVersion().String(), "major:2"; got != want {
				t.Errorf("low version: got %q, want %q", got, want)
			}
			if v := got.GetHighApiVersion(); v.GetMajor() != 2 || v.GetMinor() != 13 {
				t.Errorf("high version: got %v, want 2.13", v)
			}
			if got.GetExecutionCapabilities() != nil {
				t.Errorf("execution capabilities: got %v, want none: this is a cache", got.GetExecutionCapabilities())
			}
			if got, want := c.GetDigestFunctions(), []repb.DigestFunction_Value{repb.DigestFunction_SHA256, repb.DigestFunction_BLAKE3}; !slices.Equal(got, want) {
				t.Errorf("digest functions: got %v, want %v", got, want)
			}
			if !c.GetActionCacheUpdateCapabilities().GetUpdateEnabled() {
				t.Error("update_enabled: got false, want true")
			}
			if got, want := c.GetMaxBatchTotalSizeBytes(), int64(4<<20-64<<10); got != want {
				t.Errorf("max_batch_total_size_bytes: got %d, want %d", got, want)
			}
			if got, want := c.GetSymlinkAbsolutePathStrategy(), repb.SymlinkAbsolutePathStrategy_ALLOWED; got != want {
				t.Errorf("symlinks: got %v, want %v", got, want)
			}
			zstd := []repb.Compressor_Value{repb.Compressor_ZSTD}
			if !slices.Equal(c.GetSupportedCompressors(), zstd) || !slices.Equal(c.GetSupportedBatchUpdateCompressors(), zstd) {
				t.Errorf("compressors: got %v and %v, want zstd twice", c.GetSupportedCompressors(), c.GetSupportedBatchUpdateCompressors())
			}
			if got := c.GetMaxCasBlobSizeBytes(); got != limit {
				t.Errorf("max_cas_blob_size_bytes: got %d, want %d", got, limit)
			}
			if c.GetSplitBlobSupport() || c.GetSpliceBlobSupport() {
				t.Error("splitting and splicing: got true, want false")
			}
		}
	}
}

// TestUnimplemented checks that what the capabilities deny is denied when called.
func TestUnimplemented(t *testing.T) {
	r := newRig(t)
	_, err := r.cas.SplitBlob(r.ctx, &repb.SplitBlobRequest{})
	wantStatus(t, err, codes.Unimplemented)
	_, err = r.cas.SpliceBlob(r.ctx, &repb.SpliceBlobRequest{})
	wantStatus(t, err, codes.Unimplemented)
	mapping, err := r.cas.GetChunkMapping(r.ctx, &repb.GetChunkMappingRequest{})
	if err == nil {
		_, err = mapping.Recv()
	}
	wantStatus(t, err, codes.Unimplemented)
	register, err := r.cas.RegisterChunkMapping(r.ctx)
	if err == nil {
		_, err = register.CloseAndRecv()
	}
	wantStatus(t, err, codes.Unimplemented)
}

func TestHealth(t *testing.T) {
	r := newRig(t)
	client := healthpb.NewHealthClient(r.conn)
	for _, service := range []string{"", "build.bazel.remote.execution.v2.ContentAddressableStorage", "google.bytestream.ByteStream"} {
		got, err := client.Check(r.ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: got %v, %v, want SERVING", service, got, err)
		}
	}
	watch, err := client.Watch(r.ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("watch: got %v, %v, want SERVING", got, err)
	}
	// The watch would go on as long as its client, so it must not hold up Stop.
	r.server.Stop(r.ctx)
	if r.ctx.Err() != nil {
		t.Error("Stop waited for the watch")
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch after Stop: got %v, %v, want NOT_SERVING", got, err)
	}
}

func TestReflection(t *testing.T) {
	r := newRig(t)
	stream, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range got.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{"build.bazel.remote.execution.v2.ActionCache", "build.bazel.remote.execution.v2.Capabilities", "google.bytestream.ByteStream"} {
		if !slices.Contains(names, want) {
			t.Errorf("services: got %v, want %s among them", names, want)
		}
	}
	stream.CloseSend()
}

// TestStopFinishesCalls checks that an upload in flight ends well though Stop has begun, and that one
// which doesn't end is cut when the time is over.
func TestStopFinishesCalls(t *testing.T) {
	r := newRig(t)
	data := pattern(100, 1)
	finishing, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	name := resource{upload: "u", digest: digest.SHA256.Of(data)}.String()
	if err := finishing.Send(&bytestream.WriteRequest{ResourceName: name, Data: data[:50]}); err != nil {
		t.Fatal(err)
	}
	hanging, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	other := resource{upload: "v", digest: digest.SHA256.Of(data[1:])}.String()
	if err := hanging.Send(&bytestream.WriteRequest{ResourceName: other, Data: data[1:50]}); err != nil {
		t.Fatal(err)
	}
	r.waitFor(name, 50)
	r.waitFor(other, 49)

	stopped := make(chan struct{})
	stop, cancel := context.WithCancel(r.ctx)
	go func() {
		defer close(stopped)
		r.server.Stop(stop)
	}()
	<-r.server.stopping.Done()
	if err := finishing.Send(&bytestream.WriteRequest{WriteOffset: 50, Data: data[50:], FinishWrite: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := finishing.CloseAndRecv(); err != nil || got.GetCommittedSize() != 100 {
		t.Errorf("upload in flight: got %v, %v, want 100 bytes", got, err)
	}
	cancel()
	<-stopped
	if _, err := hanging.CloseAndRecv(); err == nil {
		t.Error("upload that hangs: got no error, want one")
	}
	if count, bytes := r.server.uploads.kept(); count != 0 || bytes != 0 {
		t.Errorf("after Stop: got %d kept uploads of %d bytes, want none", count, bytes)
	}
	if _, err := net.Dial("tcp", r.addr); err == nil {
		t.Error("after Stop: got a connection, want none")
	}
}

// TestServeAfterStop checks that the order of start and stop does not matter.
func TestServeAfterStop(t *testing.T) {
	store := model.New(time.Hour)
	s := New(Options{Store: store, Actions: action.New(store, store)})
	s.Stop(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Errorf("Serve after Stop: got %v, want nil", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listener: got %v, want it closed", err)
	}
}

// TestReceiveLimit checks that messages well over gRPC's default of 4 MiB are taken.
func TestReceiveLimit(t *testing.T) {
	r := newRig(t)
	data := pattern(15<<20, 1)
	d := digest.SHA256.Of(data)
	stream, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&bytestream.WriteRequest{ResourceName: resource{upload: "u", digest: d}.String(), Data: data, FinishWrite: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := stream.CloseAndRecv(); err != nil || got.GetCommittedSize() != d.Size {
		t.Fatalf("15 MiB message: got %v, %v, want all committed", got, err)
	}
	_, err = r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{ActionResult: &repb.ActionResult{StdoutRaw: make([]byte, 17<<20)}})
	wantStatus(t, err, codes.ResourceExhausted)
}

// TestCodecAgrees checks that the hand-written messages are on the wire what the generated ones are.
func TestCodecAgrees(t *testing.T) {
	r := newRig(t)
	var set digest.Set
	req := new(repb.FindMissingBlobsRequest)
	for i := range 300 {
		d := digest.SHA256.Of(pattern(i, 7))
		set.Add(d)
		req.BlobDigests = append(req.BlobDigests, onWire(d))
	}
	got, err := r.cas.FindMissingBlobs(r.ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	want := &repb.FindMissingBlobsResponse{MissingBlobDigests: req.BlobDigests[1:]} // the first is empty
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("FindMissingBlobs (-want +got):\n%s", diff)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, func(o *Options) { o.Metrics = registry })
	names := func() map[string]float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return got
	}
	declared := []string{"sarsen_grpc_requests_total", "sarsen_grpc_blob_bytes_total", "sarsen_grpc_http1_requests_total", "sarsen_grpc_idle_uploads", "sarsen_grpc_idle_upload_bytes"}
	before := names()
	for _, name := range declared {
		if _, ok := before[name]; !ok {
			t.Errorf("%s: not emitted before the first call", name)
		}
	}
	if len(before) != len(declared) {
		t.Errorf("metrics: got %v, want %v", before, declared)
	}

	data := pattern(1000, 1)
	r.upload("u", data, 100)
	r.broken("v", pattern(500, 2), 100)
	if _, err := r.download(resource{digest: digest.SHA256.Of(data)}.String(), 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.download(resource{digest: digest.SHA256.Of(data[1:])}.String(), 0, 0); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	got := names()
	for name, want := range map[string]float64{
		"sarsen_grpc_blob_bytes_total":  1000 + 100 + 1000,
		"sarsen_grpc_idle_uploads":      1,
		"sarsen_grpc_idle_upload_bytes": 500,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	if n := got["sarsen_grpc_requests_total"]; n < 4 {
		t.Errorf("requests: got %v, want at least the 4 that were made", n)
	}
}

// TestTraffic checks that what goes compressed is counted apart, in every call that may carry it.
func TestTraffic(t *testing.T) {
	text := bytes.Repeat([]byte("compresses well "), 100)
	d := digest.SHA256.Of(text)
	plain, packed := resource{upload: "u", digest: d}, resource{upload: "u", digest: d, compressed: true}
	frame := zstd.Encode(text)
	type counts struct{ identity, zstd bool }
	for _, tt := range []struct {
		name           string
		call           func(r *rig) error
		received, sent counts
	}{
		{"Write", func(r *rig) error { _, err := r.write(plain.String(), text, 100); return err }, counts{identity: true}, counts{}},
		{"Write, compressed", func(r *rig) error { _, err := r.write(packed.String(), frame, 100); return err }, counts{zstd: true}, counts{}},
		{"Read", func(r *rig) error {
			r.put(digest.SHA256, text)
			_, err := r.download(resource{digest: d}.String(), 0, 0)
			return err
		}, counts{}, counts{identity: true}},
		{"Read, compressed", func(r *rig) error {
			r.put(digest.SHA256, text)
			_, err := r.download(resource{digest: d, compressed: true}.String(), 0, 0)
			return err
		}, counts{}, counts{zstd: true}},
		{"BatchUpdateBlobs, compressed", func(r *rig) error {
			_, err := r.cas.BatchUpdateBlobs(r.ctx, &repb.BatchUpdateBlobsRequest{Requests: []*repb.BatchUpdateBlobsRequest_Request{
				{Digest: wireOf(text), Data: frame, Compressor: repb.Compressor_ZSTD},
			}})
			return err
		}, counts{zstd: true}, counts{}},
		{"BatchReadBlobs, compressed", func(r *rig) error {
			_, err := r.cas.BatchReadBlobs(r.ctx, &repb.BatchReadBlobsRequest{
				Digests: []*repb.Digest{r.put(digest.SHA256, text)}, AcceptableCompressors: []repb.Compressor_Value{repb.Compressor_ZSTD},
			})
			return err
		}, counts{}, counts{zstd: true}},
	} {
		r := newRig(t)
		if err := tt.call(r); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		counted := func(x traffic) counts {
			return counts{testutil.ToFloat64(x.identity) > 0, testutil.ToFloat64(x.zstd) > 0}
		}
		if got := counted(r.server.metrics.received); got != tt.received {
			t.Errorf("%s: received %+v, want %+v", tt.name, got, tt.received)
		}
		if got := counted(r.server.metrics.sent); got != tt.sent {
			t.Errorf("%s: sent %+v, want %+v", tt.name, got, tt.sent)
		}
	}
}

func TestShortMethod(t *testing.T) {
	if got, want := shortMethod(repb.Capabilities_GetCapabilities_FullMethodName), "Capabilities/GetCapabilities"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestBufferPool checks the classes at their bounds.
func TestBufferPool(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<22 + 1} {
		b := buffers.Get(n)
		if len(*b) != n {
			t.Errorf("Get(%d): got %d bytes", n, len(*b))
		}
		*b = (*b)[:0]
		buffers.Put(b)
		if again := buffers.Get(n); len(*again) != n {
			t.Errorf("Get(%d) again: got %d bytes", n, len(*again))
		}
	}
	odd := make([]byte, 5000)
	buffers.Put(&odd)
	if b := buffers.Get(8192); len(*b) != 8192 {
		t.Errorf("after a foreign buffer: got %d bytes, want 8192", len(*b))
	}
}

// A gatedStore creates nothing before its gate opens.
type gatedStore struct {
	*model.Store
	gate chan struct{}
}

func (s gatedStore) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	<-s.gate
	return s.Store.Create(ctx, d)
}

// TestWindow checks that a client may send 15 MiB before the server has taken any of it: on a long
// line that is what is on its way.
func TestWindow(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, func(o *Options) { o.Store = gatedStore{o.Store.(*model.Store), gate} })
	data := pattern(15<<20, 1)
	stream, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for offset := 0; offset < len(data); offset += 1 << 20 {
		m := &bytestream.WriteRequest{WriteOffset: int64(offset), Data: data[offset : offset+1<<20], FinishWrite: offset+1<<20 == len(data)}
		if offset == 0 {
			m.ResourceName = resource{upload: "u", digest: digest.SHA256.Of(data)}.String()
		}
		if err := stream.Send(m); err != nil {
			t.Fatalf("at %d: %v", offset, err)
		}
	}
	close(gate)
	if got, err := stream.CloseAndRecv(); err != nil || got.GetCommittedSize() != int64(len(data)) {
		t.Errorf("got %v, %v, want %d committed", got, err, len(data))
	}
}
