//go:build crash && linux

package crash

import (
	"context"
	"fmt"
	"io"
	"net/http"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/uuid"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	chunkSize = 256 << 10
	maxBatch  = 3 << 20 // bytes of blobs in a batch; servers receive 4 MiB by default
)

// A conn is one connection to a server.
type conn struct {
	grpc   *grpc.ClientConn
	cas    repb.ContentAddressableStorageClient
	cache  repb.ActionCacheClient
	stream bspb.ByteStreamClient
	http   string // address of Sarsen's files, or empty
	files  *http.Transport
}

// connect makes a connection and waits until the server answers on it.
func connect(ctx context.Context, address string) (*conn, error) {
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	_, err = repb.NewCapabilitiesClient(c).GetCapabilities(ctx, &repb.GetCapabilitiesRequest{}, grpc.WaitForReady(true))
	if err != nil && status.Code(err) != codes.Unimplemented {
		c.Close()
		return nil, err
	}
	return &conn{grpc: c, cas: repb.NewContentAddressableStorageClient(c), cache: repb.NewActionCacheClient(c), stream: bspb.NewByteStreamClient(c), files: &http.Transport{}}, nil
}

func (c *conn) close() {
	_ = c.grpc.Close()
	c.files.CloseIdleConnections()
}

func wire(d digest.Digest) *repb.Digest {
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}

func wires(ds []digest.Digest) []*repb.Digest {
	list := make([]*repb.Digest, len(ds))
	for i, d := range ds {
		list[i] = wire(d)
	}
	return list
}

func fromWire(p *repb.Digest) (digest.Digest, error) {
	return digest.New(digest.SHA256, p.GetHash(), p.GetSizeBytes())
}

// writeBatch sends blobs in one call and returns an error for each, or one for the call.
func (c *conn) writeBatch(ctx context.Context, ds []digest.Digest, bytes [][]byte) ([]error, error) {
	request := &repb.BatchUpdateBlobsRequest{}
	at := map[digest.Digest]int{}
	for i, d := range ds {
		at[d] = i
		request.Requests = append(request.Requests, &repb.BatchUpdateBlobsRequest_Request{Digest: wire(d), Data: bytes[i]})
	}
	answer, err := c.cas.BatchUpdateBlobs(ctx, request)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(ds))
	for i := range errs {
		errs[i] = fmt.Errorf("blob %s is not in the answer", ds[i])
	}
	for _, one := range answer.Responses {
		d, err := fromWire(one.Digest)
		if err != nil {
			return nil, err
		}
		if i, ok := at[d]; ok {
			errs[i] = status.ErrorProto(one.Status)
		}
	}
	return errs, nil
}

// write sends a blob over ByteStream.
func (c *conn) write(ctx context.Context, d digest.Digest, data []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.stream.Write(ctx)
	if err != nil {
		return err
	}
	name := "uploads/" + uuid.NewString() + "/blobs/" + d.String()
	for offset := 0; ; {
		n := min(chunkSize, len(data)-offset)
		err := stream.Send(&bspb.WriteRequest{
			ResourceName: name, WriteOffset: int64(offset), Data: data[offset : offset+n], FinishWrite: offset+n == len(data),
		})
		name, offset = "", offset+n
		if err != nil || offset == len(data) {
			break // an answer that comes early ends the stream; CloseAndRecv has it
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if answer.CommittedSize != d.Size {
		return fmt.Errorf("write of %s: committed size %d", d, answer.CommittedSize)
	}
	return nil
}

// missing returns those of ds that the server says it lacks.
func (c *conn) missing(ctx context.Context, ds []digest.Digest) (map[digest.Digest]bool, error) {
	answer, err := c.cas.FindMissingBlobs(ctx, &repb.FindMissingBlobsRequest{BlobDigests: wires(ds)})
	if err != nil {
		return nil, err
	}
	absent := map[digest.Digest]bool{}
	for _, p := range answer.MissingBlobDigests {
		d, err := fromWire(p)
		if err != nil {
			return nil, err
		}
		absent[d] = true
	}
	return absent, nil
}

// readBatch reads blobs in one call. What is not found has no bytes in the answer.
func (c *conn) readBatch(ctx context.Context, ds []digest.Digest) (map[digest.Digest][]byte, error) {
	answer, err := c.cas.BatchReadBlobs(ctx, &repb.BatchReadBlobsRequest{Digests: wires(ds)})
	if err != nil {
		return nil, err
	}
	found := map[digest.Digest][]byte{}
	for _, one := range answer.Responses {
		d, err := fromWire(one.Digest)
		if err != nil {
			return nil, err
		}
		if err := status.ErrorProto(one.Status); err != nil && status.Code(err) != codes.NotFound {
			return nil, err
		} else if err == nil {
			found[d] = one.Data
		}
	}
	return found, nil
}

// read reads a blob over ByteStream and returns the digest of what came.
func (c *conn) read(ctx context.Context, d digest.Digest) (digest.Digest, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.stream.Read(ctx, &bspb.ReadRequest{ResourceName: "blobs/" + d.String()})
	if err != nil {
		return digest.Digest{}, err
	}
	hash := digest.SHA256.NewHash()
	got := digest.Digest{Function: digest.SHA256}
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			hash.Sum(got.Hash[:0])
			return got, nil
		}
		if err != nil {
			return digest.Digest{}, err
		}
		hash.Write(part.Data)
		got.Size += int64(len(part.Data))
	}
}

// update sends a result for an action.
func (c *conn) update(ctx context.Context, action digest.Digest, result *repb.ActionResult) error {
	_, err := c.cache.UpdateActionResult(ctx, &repb.UpdateActionResultRequest{ActionDigest: wire(action), ActionResult: result})
	return err
}

// result asks for an action's result.
func (c *conn) result(ctx context.Context, action digest.Digest) (*repb.ActionResult, error) {
	return c.cache.GetActionResult(ctx, &repb.GetActionResultRequest{ActionDigest: wire(action)})
}
