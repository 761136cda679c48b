// Package upstream makes a Store of another Remote Execution API server.
//
// A worker reads its inputs through it and puts its outputs there; a near store fetches what it lacks.
// Small blobs travel in batches, larger ones by ByteStream, large ones in several ranges at once. The
// server is asked once for its capabilities, and calls that it lacks (batches, GetTree) are replaced by
// those that every server has.
//
// # Invariants
//
//   - Whole reads (GetAll, Copy, and a Reader read from its start to its end) deliver the bytes of the
//     digest or an error that wraps blob.ErrCorrupt. A range alone can't be verified.
//   - A yes is the server's own: nothing is remembered of what it said about a blob.
//   - Every wait ends: a call that gets no answer for Options.Stall is broken off, and tries end after
//     Options.Retry without progress.
//
// Two things are weaker than in a store of our own, because the protocol has no words for them. The size
// of a digest must be known: AnySize is blob.ErrInvalid. And an open Reader pins nothing between two
// calls, so that it lasts as the server's lease does.
//
// # Concurrency
//
// All methods of a Store and of its Readers may be called from many goroutines at once. No lock is held
// while the network is waited for: who asks for the capabilities, or reads the stream of a Reader, holds
// a channel that others see taken.
package upstream

import (
	"context"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

const (
	// maxBatch bounds the blobs of a call, their digests included, in bytes. Servers take messages of
	// 4 MiB unless they are told otherwise, whatever they say of batches.
	maxBatch = 4<<20 - 64<<10
	// maxReceive has room for a batch, or for a tree, of a server that sends longer messages.
	maxReceive = 64 << 20
	// maxDigests is how many digests one FindMissingBlobs asks for: about 2 MB, and no more in answer.
	maxDigests = 25_000
	// aroundBlob bounds what stands in a batch beside the bytes of each blob: digest, status, lengths.
	aroundBlob = 128
	// small is the size in bytes up to which a single blob travels in a batch of its own: one round
	// trip, verified before the first byte is seen.
	small = 1 << 20
	// rangeSize is how much of a large blob one of the streams that fetch it at once carries, in bytes.
	rangeSize = 4 << 20
	// largeSize is the size in bytes from which a blob is fetched in ranges.
	largeSize = 2 * rangeSize
)

// Options are how a Store treats its server. The zero value has the defaults.
type Options struct {
	// Retry is for how long a call is tried again while the server can't be reached or says UNAVAILABLE
	// or ABORTED: 30 s if 0, never if negative.
	Retry time.Duration
	// Stall is how long a call may be without an answer, and a stream without a message: 2 min if 0.
	Stall time.Duration
	// Parallel is how many calls one GetAll, PutAll, Missing or Copy makes at once: 4 if 0.
	Parallel int
}

// A Store is one instance of one server.
type Store struct {
	instance string
	retry    time.Duration
	stall    time.Duration
	parallel int

	conn   grpc.ClientConnInterface
	cas    repb.ContentAddressableStorageClient
	stream bspb.ByteStreamClient

	asking    chan struct{} // held by who asks for the limits
	known     atomic.Pointer[limits]
	noBatches atomic.Bool // the server turned out to have none
}

var _ blob.Batcher = (*Store)(nil)

// limits are what the server says that it takes.
type limits struct {
	batch   int64 // bytes of a batch
	maxBlob int64 // bytes of a blob; 0 if it doesn't say
}

// New makes a Store of one instance of the server at the other end of conn, which it doesn't close. The
// server is not asked anything yet.
func New(conn grpc.ClientConnInterface, instance string, o Options) *Store {
	s := &Store{
		instance: instance, conn: conn,
		retry: o.Retry, stall: o.Stall, parallel: o.Parallel,
		cas:    repb.NewContentAddressableStorageClient(conn),
		stream: bspb.NewByteStreamClient(conn),
		asking: make(chan struct{}, 1),
	}
	if s.retry == 0 {
		s.retry = 30 * time.Second
	}
	if s.stall <= 0 {
		s.stall = 2 * time.Minute
	}
	if s.parallel <= 0 {
		s.parallel = 4
	}
	return s
}

// limits returns what the server takes, and asks for it the first time.
func (s *Store) limits(ctx context.Context) (limits, error) {
	if l := s.known.Load(); l != nil {
		return *l, nil
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return limits{}, ctx.Err()
	}
	if l := s.known.Load(); l != nil {
		return *l, nil
	}
	var said *repb.ServerCapabilities
	err := s.call(ctx, func(ctx context.Context) (err error) {
		request := &repb.GetCapabilitiesRequest{InstanceName: s.instance}
		said, err = repb.NewCapabilitiesClient(s.conn).GetCapabilities(ctx, request)
		return err
	})
	// A plain CAS is a server too.
	if err != nil && status.Code(err) != codes.Unimplemented {
		return limits{}, answered(err, reading)
	}
	l := limits{batch: maxBatch, maxBlob: said.GetCacheCapabilities().GetMaxCasBlobSizeBytes()}
	if n := said.GetCacheCapabilities().GetMaxBatchTotalSizeBytes(); n > 0 {
		l.batch = min(n, maxBatch)
	}
	s.known.Store(&l)
	return l, nil
}

// Missing implements blob.Store. What is not listed is leased if the server knows leases.
func (s *Store) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	var parts [][]digest.Digest
	for _, list := range byFunction(ds.List()) {
		for len(list) > 0 {
			n := min(len(list), maxDigests)
			parts, list = append(parts, list[:n]), list[n:]
		}
	}
	answers := make([]map[digest.Digest]bool, len(parts))
	err := s.each(ctx, len(parts), func(ctx context.Context, i int) (err error) {
		answers[i], err = s.findMissing(ctx, parts[i])
		return err
	})
	if err != nil {
		return digest.Set{}, err
	}
	absent := map[digest.Digest]bool{}
	for _, answer := range answers {
		for d := range answer {
			absent[d] = true
		}
	}
	var missing digest.Set
	for _, d := range ds.List() {
		if absent[d] {
			missing.Add(d)
		}
	}
	return missing, nil
}

// byFunction parts a list, since a request speaks of one digest function. Empty blobs are left out:
// every store has them.
func byFunction(ds []digest.Digest) map[digest.Function][]digest.Digest {
	parts := map[digest.Function][]digest.Digest{}
	for _, d := range ds {
		if !d.IsEmpty() {
			parts[d.Function] = append(parts[d.Function], d)
		}
	}
	return parts
}

// findMissing asks for digests of one function in one call.
func (s *Store) findMissing(ctx context.Context, ds []digest.Digest) (map[digest.Digest]bool, error) {
	request := &repb.FindMissingBlobsRequest{InstanceName: s.instance, DigestFunction: function(ds[0].Function)}
	for _, d := range ds {
		if err := sized("find missing", d); err != nil {
			return nil, err
		}
		request.BlobDigests = append(request.BlobDigests, ToProto(d))
	}
	var answer *repb.FindMissingBlobsResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		answer, err = s.cas.FindMissingBlobs(ctx, request, grpc.MaxCallRecvMsgSize(maxReceive))
		return err
	})
	if err != nil {
		return nil, answered(err, reading)
	}
	absent := make(map[digest.Digest]bool, len(answer.MissingBlobDigests))
	for _, p := range answer.MissingBlobDigests {
		d, err := FromProto(ds[0].Function, p)
		if err != nil {
			return nil, err
		}
		absent[d] = true
	}
	return absent, nil
}
