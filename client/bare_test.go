package client_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// A bareServer offers what every REAPI cache does and nothing else: FindMissingBlobs, ByteStream and
// the action cache, but no capabilities, batches or GetTree.
type bareServer struct {
	repb.UnimplementedContentAddressableStorageServer
	repb.UnimplementedActionCacheServer
	bspb.UnimplementedByteStreamServer

	store   *model.Store
	results map[string]*repb.ActionResult // by the action's hash; written before the server starts
	corrupt atomic.Bool                   // flips a bit of what is read
}

// serve starts the services that register names, and returns their target.
func serve(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return "grpc://" + l.Addr().String()
}

func newBareServer(t *testing.T) (*bareServer, string) {
	b := &bareServer{store: model.New(time.Hour), results: map[string]*repb.ActionResult{}}
	return b, serve(t, func(s *grpc.Server) {
		repb.RegisterContentAddressableStorageServer(s, b)
		repb.RegisterActionCacheServer(s, b)
		bspb.RegisterByteStreamServer(s, b)
	})
}

func (b *bareServer) FindMissingBlobs(ctx context.Context, r *repb.FindMissingBlobsRequest) (*repb.FindMissingBlobsResponse, error) {
	answer := new(repb.FindMissingBlobsResponse)
	for _, p := range r.BlobDigests {
		d, err := digest.New(digest.Function(r.DigestFunction), p.Hash, p.SizeBytes)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		missing, err := b.store.Missing(ctx, digest.SetOf(d))
		if err != nil {
			return nil, err
		}
		if missing.Len() > 0 {
			answer.MissingBlobDigests = append(answer.MissingBlobDigests, p)
		}
	}
	return answer, nil
}

func (b *bareServer) GetActionResult(_ context.Context, r *repb.GetActionResultRequest) (*repb.ActionResult, error) {
	result := b.results[r.ActionDigest.Hash]
	if result == nil {
		return nil, status.Error(codes.NotFound, "no result")
	}
	return result, nil
}

func named(resource string) (digest.Digest, error) {
	_, name, ok := strings.Cut("/"+resource, "/blobs/")
	d, err := digest.Parse(name)
	if !ok || err != nil {
		return d, status.Errorf(codes.InvalidArgument, "resource name %q", resource)
	}
	return d, nil
}

func (b *bareServer) Read(r *bspb.ReadRequest, stream bspb.ByteStream_ReadServer) error {
	d, err := named(r.ResourceName)
	if err != nil {
		return err
	}
	data, err := blob.Get(stream.Context(), b.store, d)
	if err != nil {
		return status.Error(codes.NotFound, err.Error())
	}
	if b.corrupt.Load() {
		data = bytes.Clone(data)
		data[0] ^= 1
	}
	for len(data) > 0 {
		n := min(len(data), 100_000)
		if err := stream.Send(&bspb.ReadResponse{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (b *bareServer) Write(stream bspb.ByteStream_WriteServer) error {
	var d digest.Digest
	var data []byte
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			return status.Error(codes.InvalidArgument, "the stream ended without finish_write")
		}
		if err != nil {
			return err
		}
		if len(data) == 0 {
			if d, err = named(r.ResourceName); err != nil {
				return err
			}
			// Who writes what is there is told so before the rest arrives.
			if missing, _ := b.store.Missing(stream.Context(), digest.SetOf(d)); missing.Len() == 0 {
				return stream.SendAndClose(&bspb.WriteResponse{CommittedSize: d.Size})
			}
		}
		if r.WriteOffset != int64(len(data)) {
			return status.Errorf(codes.InvalidArgument, "offset %d, have %d", r.WriteOffset, len(data))
		}
		data = append(data, r.Data...)
		if r.FinishWrite {
			break
		}
	}
	if err := blob.Put(stream.Context(), b.store, d, data); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return stream.SendAndClose(&bspb.WriteResponse{CommittedSize: d.Size})
}
