// Package server is the Remote Execution API v2 and the Remote Asset API on the wire: gRPC calls become
// calls of a blob.Store, an action.Cache and an asset.Index, and their errors become codes.
//
// The reference is the comments of remote_execution.proto, bytestream.proto and remote_asset.proto.
//
// # Invariants
//
//   - NoFalseYes: a blob is called present only because the Store said so in a call that leases it,
//     made for this very request. Nothing here remembers that a blob exists.
//   - No message sent is longer than maxMessage, so a client with gRPC's default limit of 4 MiB can
//     receive every one.
//   - Memory taken for one call is bounded by limits in this package, never by a size that a client
//     merely states.
//   - A client that stalls holds room or a blob for five minutes at most (watch.go).
//
// # Concurrency
//
// All calls run concurrently. What they share is the store, the cache and the table of unfinished
// uploads (upload.go), where the newest stream of a name is the only one that may go on.
//
// # Crashes
//
// Unfinished uploads are forgotten; clients start again from 0 because QueryWriteStatus says so.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/asset"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/internal/botspb"
	"github.com/sarsen-build/sarsen/internal/snapshotpb"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

const (
	// maxReceive is the longest message that is accepted, in bytes.
	maxReceive = 16 << 20
	// maxMessage is the longest message that is sent, in bytes: clients accept 4 MiB by default, and
	// some count framing.
	maxMessage = 4<<20 - 16<<10
	// maxBatch is the most that the blobs of one batch may sum up to, in bytes.
	maxBatch = 4<<20 - 64<<10
	// maxStreams is how many calls of one connection may be under way; a client makes the others wait.
	maxStreams = 20_000
	// chunkSize is how much of a blob one ReadResponse carries, in bytes.
	chunkSize = 1 << 20

	// A window is how much may be on its way unacknowledged: over a line of 200 ms, one upload gets
	// 80 MB/s and all of one connection 160 MB/s. gRPC's own estimate needs many round trips to get
	// there. It is also how much of what a handler has not read yet may wait in memory.
	streamWindow     = 16 << 20
	connectionWindow = 32 << 20

	// watchGrace is how long a health watch outlasts the beginning of Stop.
	watchGrace = 100 * time.Millisecond
)

// Options says what a Server serves. Store and Actions must be set.
type Options struct {
	Store   blob.Store
	Actions *action.Cache

	// Scheduler runs actions. Without one the server is a cache only.
	Scheduler *execution.Scheduler
	// Assets is what the Remote Asset API serves. It may be nil: then that API is not served.
	Assets *asset.Index
	// Chunks knows of which chunks blobs consist. It may be nil: then none is split or spliced.
	Chunks *mapping.Index
	// Keeper holds snapshots. It may be nil: then there are none.
	Keeper blob.Keeper

	// HTTPAddr returns the address of the HTTP port, which is named to clients that speak HTTP/1 to
	// this one. It may be nil or return "".
	HTTPAddr func() string

	// MaxBlobSize is the largest blob that is accepted and advertised, in bytes; 0 leaves the limit to
	// the store.
	MaxBlobSize int64

	// Log may be nil.
	Log *slog.Logger

	// Metrics may be nil. One Registerer takes the metrics of one Server.
	Metrics prometheus.Registerer
}

// A Server answers REAPI calls on any number of listeners.
type Server struct {
	store       blob.Batcher
	actions     *action.Cache
	scheduler   *execution.Scheduler // or nil
	chunks      *mapping.Index       // or nil
	httpAddr    func() string
	maxBlobSize int64
	log         *slog.Logger
	metrics     *metrics
	uploads     *uploads
	grpc        *grpc.Server
	health      *health.Server
	handlers    sync.WaitGroup // of streams
	stall       time.Duration

	stopping context.Context // ends when Stop begins
	stop     context.CancelFunc
}

// New returns a Server that is ready to Serve.
func New(o Options) *Server {
	s := &Server{
		store:       blob.Batches(o.Store),
		actions:     o.Actions,
		scheduler:   o.Scheduler,
		chunks:      o.Chunks,
		httpAddr:    o.HTTPAddr,
		maxBlobSize: o.MaxBlobSize,
		log:         o.Log,
		uploads:     newUploads(uploadLimits),
		health:      health.NewServer(),
		stall:       stall,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(64<<10),
		grpc.WriteBufferSize(64<<10),
		experimental.BufferPool(buffers),
		grpc.NumStreamWorkers(uint32(4*runtime.GOMAXPROCS(0))),
		// Clients that ping more often than every 5 minutes get a GOAWAY by default; many do.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// A dead client is noticed within 80 s; gRPC's default is 2 hours.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	)
	s.grpc.RegisterService(casService(), &cas{Server: s})
	bytestream.RegisterByteStreamServer(s.grpc, &byteStream{Server: s})
	repb.RegisterActionCacheServer(s.grpc, &actionCache{Server: s})
	repb.RegisterCapabilitiesServer(s.grpc, &capabilities{maxBlobSize: o.MaxBlobSize, executes: o.Scheduler != nil, chunks: o.Chunks})
	if s.scheduler != nil {
		repb.RegisterExecutionServer(s.grpc, &executions{Server: s})
		longrunning.RegisterOperationsServer(s.grpc, &executions{Server: s})
		pb.RegisterWorkersServer(s.grpc, &workers{Server: s})
		botspb.RegisterBotsServer(s.grpc, &bots{Server: s, sessions: map[string]*bot{}})
	}
	if o.Assets != nil {
		s.registerAssets(o.Assets)
	}
	if o.Keeper != nil {
		snapshotpb.RegisterSnapshotsServer(s.grpc, &snapshots{Server: s, keeper: o.Keeper})
	}
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for service := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	}
	s.metrics = newMetrics(o.Metrics, s.grpc.GetServiceInfo(), s.uploads)
	return s
}

// Serve answers calls on l until Stop, and then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	err := s.grpc.Serve(s.listenHTTP2(l))
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Stop ends serving: clients are sent away with GOAWAY and calls in flight finish; those that have
// not when ctx ends are cut. When Stop returns, no call uses the store any more.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	s.stop()
	var finished sync.WaitGroup
	done := make(chan struct{})
	finished.Go(func() {
		s.grpc.GracefulStop()
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
	}
	finished.Wait()
	s.handlers.Wait()
	s.uploads.close()
}

// unary maps errors to codes and accounts for each call.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	var resp any
	err := checkInstance(req)
	if err == nil {
		resp, err = handler(ctx, req)
	}
	err = statusError(err)
	s.observe(ctx, info.FullMethod, start, err)
	return resp, err
}

// stream maps errors to codes and accounts for each call.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	if info.FullMethod == healthpb.Health_Watch_FullMethodName {
		// A watch lasts as long as its client wants, and would hold up Stop. It gets a moment to send
		// that the server is stopping.
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(s.stopping, func() { time.AfterFunc(watchGrace, cancel) })()
		stream = &streamUntil{stream, ctx}
	}
	var err error
	if strings.HasPrefix(info.FullMethod, byteStreamPrefix) {
		err = handler(srv, stream) // which has watched what it waits for
	} else {
		err = s.watch(stream, func(w *watchedStream) error { return handler(srv, w) })
	}
	err = statusError(err)
	s.observe(stream.Context(), info.FullMethod, start, err)
	return err
}

// A streamUntil is a stream whose context ends earlier than the call.
type streamUntil struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamUntil) Context() context.Context { return s.ctx }

// has reports whether the blob d is present, and leases it if so.
func (s *Server) has(ctx context.Context, d digest.Digest) (bool, error) {
	missing, err := s.store.Missing(ctx, digest.SetOf(d))
	return missing.Len() == 0, err
}

// casService is the generated description of the CAS service with the one call whose messages are
// coded by hand (findmissing.go).
func casService() *grpc.ServiceDesc {
	desc := repb.ContentAddressableStorage_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		if m.MethodName == "FindMissingBlobs" {
			desc.Methods[i].Handler = findMissingHandler
		}
	}
	return &desc
}
