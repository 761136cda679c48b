package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// chunksInMessage is how many digests one answer of GetChunkMapping carries, about 1 MB.
const chunksInMessage = 10_000

// errNoChunks is what a server answers that has no mappings, as its capabilities say.
var errNoChunks = status.Error(codes.Unimplemented, "this server neither splits nor splices blobs")

// split returns of which chunks the blob p consists. All of it is leased.
func (c *cas) split(ctx context.Context, f repb.DigestFunction_Value, p *repb.Digest) (mapping.Mapping, error) {
	if c.chunks == nil {
		return mapping.Mapping{}, errNoChunks
	}
	function, err := functionOf(f)
	if err != nil {
		return mapping.Mapping{}, err
	}
	d, err := digestOf(function, "blob_digest", p)
	if err != nil {
		return mapping.Mapping{}, err
	}
	return c.chunks.Split(ctx, d)
}

// SplitBlob says of which chunks a blob consists, in one message.
func (c *cas) SplitBlob(ctx context.Context, req *repb.SplitBlobRequest) (*repb.SplitBlobResponse, error) {
	m, err := c.split(ctx, req.GetDigestFunction(), req.GetBlobDigest())
	if err != nil {
		return nil, err
	}
	resp := &repb.SplitBlobResponse{ChunkDigests: toProto(m.Chunks), ChunkingFunction: repb.ChunkingFunction_Value(m.Function)}
	left := maxMessage
	for _, p := range resp.ChunkDigests {
		left -= bareSize(p)
	}
	if left < 0 {
		return nil, status.Errorf(codes.ResourceExhausted, "%d chunks are more than one answer can hold; use GetChunkMapping", len(m.Chunks))
	}
	return resp, nil
}

// GetChunkMapping says of which chunks a blob consists.
func (c *cas) GetChunkMapping(req *repb.GetChunkMappingRequest, stream grpc.ServerStreamingServer[repb.GetChunkMappingResponse]) error {
	m, err := c.split(stream.Context(), req.GetDigestFunction(), req.GetBlobDigest())
	if err != nil {
		return err
	}
	resp := &repb.GetChunkMappingResponse{ChunkingFunction: repb.ChunkingFunction_Value(m.Function)}
	for first := true; first || len(m.Chunks) > 0; first = false {
		n := min(len(m.Chunks), chunksInMessage)
		resp.ChunkDigests, m.Chunks = toProto(m.Chunks[:n]), m.Chunks[n:]
		if err := stream.Send(resp); err != nil {
			return err
		}
		resp = new(repb.GetChunkMappingResponse)
	}
	return nil
}

func toProto(ds []digest.Digest) []*repb.Digest {
	ps := make([]*repb.Digest, len(ds))
	for i, d := range ds {
		ps[i] = upstream.ToProto(d)
	}
	return ps
}

// A splice is a request to make a blob of chunks, as far as it was read.
type splice struct {
	cas      *cas
	digest   digest.Digest
	function repb.ChunkingFunction_Value
	chunks   []digest.Digest
}

// newSplice reads what the first message of a request says.
func (c *cas) newSplice(f repb.DigestFunction_Value, p *repb.Digest, how repb.ChunkingFunction_Value) (*splice, error) {
	function, err := functionOf(f)
	if err != nil {
		return nil, err
	}
	d, err := digestOf(function, "blob_digest", p)
	if err != nil {
		return nil, err
	}
	if err := c.checkSize("blob_digest.size_bytes", d); err != nil {
		return nil, err
	}
	if how != repb.ChunkingFunction_UNKNOWN && how != repb.ChunkingFunction_FAST_CDC_2020 {
		return nil, invalid("chunking_function: %v is not supported, only UNKNOWN and FAST_CDC_2020", how)
	}
	return &splice{cas: c, digest: d, function: how}, nil
}

// add takes the digests of one message.
func (s *splice) add(ps []*repb.Digest) error {
	if len(s.chunks)+len(ps) > mapping.MaxChunks {
		return invalid("chunk_digests: more than %d, which is all that a blob may have", mapping.MaxChunks)
	}
	for _, p := range ps {
		d, err := digestOf(s.digest.Function, fmt.Sprintf("chunk_digests[%d]", len(s.chunks)), p)
		if err != nil {
			return err
		}
		s.chunks = append(s.chunks, d)
	}
	return nil
}

// finish makes the blob.
func (s *splice) finish(ctx context.Context) (*repb.Digest, error) {
	err := s.cas.chunks.Splice(ctx, s.digest, mapping.Mapping{Function: mapping.Function(s.function), Chunks: s.chunks})
	if errors.Is(err, blob.ErrMismatch) {
		err = inField("chunk_digests", err)
	}
	return upstream.ToProto(s.digest), err
}

// SpliceBlob makes a blob of chunks that are there, and remembers them.
func (c *cas) SpliceBlob(ctx context.Context, req *repb.SpliceBlobRequest) (*repb.SpliceBlobResponse, error) {
	if c.chunks == nil {
		return nil, errNoChunks
	}
	s, err := c.newSplice(req.GetDigestFunction(), req.GetBlobDigest(), req.GetChunkingFunction())
	if err != nil {
		return nil, err
	}
	if err := s.add(req.GetChunkDigests()); err != nil {
		return nil, err
	}
	p, err := s.finish(ctx)
	if err != nil {
		return nil, err
	}
	return &repb.SpliceBlobResponse{BlobDigest: p}, nil
}

// RegisterChunkMapping makes a blob of chunks that are there, and remembers them. What the messages after the first
// say but digests is left unread, as the API has it.
func (c *cas) RegisterChunkMapping(stream grpc.ClientStreamingServer[repb.RegisterChunkMappingRequest, repb.RegisterChunkMappingResponse]) error {
	if c.chunks == nil {
		return errNoChunks
	}
	var s *splice
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if s == nil {
			if s, err = c.newSplice(req.GetDigestFunction(), req.GetBlobDigest(), req.GetChunkingFunction()); err != nil {
				return err
			}
		}
		if err := s.add(req.GetChunkDigests()); err != nil {
			return err
		}
	}
	if s == nil {
		return invalid("the stream ended before its first message")
	}
	p, err := s.finish(stream.Context())
	if err != nil {
		return err
	}
	return stream.SendAndClose(&repb.RegisterChunkMappingResponse{BlobDigest: p})
}
