package server

import (
	"context"
	"encoding/hex"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/wire"
)

// The field numbers of FindMissingBlobsRequest, FindMissingBlobsResponse and Digest.
const (
	findMissingRequestInstance = 1
	findMissingRequestDigests  = 2
	findMissingRequestFunction = 3
	findMissingResponseDigests = 2

	digestHash = 1
	digestSize = 2
)

// FindMissingBlobs carries thousands of digests, and to make a message, a Digest and a string of each
// costs more than to look it up. So they are read from the wire into the set that the Store takes,
// and written from the one that it returns.
func findMissingHandler(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	req := new(findMissingRequest)
	if err := decode(req); err != nil {
		return nil, err
	}
	handler := func(ctx context.Context, req any) (any, error) {
		return srv.(*cas).findMissing(ctx, req.(*findMissingRequest))
	}
	if interceptor == nil {
		return handler(ctx, req)
	}
	return interceptor(ctx, req, &grpc.UnaryServerInfo{
		Server:     srv,
		FullMethod: repb.ContentAddressableStorage_FindMissingBlobs_FullMethodName,
	}, handler)
}

// findMissing says which blobs are missing, each once, and leases all others.
func (c *cas) findMissing(ctx context.Context, req *findMissingRequest) (*findMissingResponse, error) {
	if req.err != nil {
		return nil, req.err
	}
	missing, err := c.store.Missing(ctx, req.digests)
	if err != nil {
		return nil, err
	}
	resp := &findMissingResponse{missing: missing.List()}
	for _, d := range resp.missing {
		resp.size += sizeOfDigestField(d)
	}
	if resp.size > maxMessage {
		return nil, invalid("blob_digests: %d of them are missing, too many for one answer; ask for at most 40000 at a time", missing.Len())
	}
	return resp, nil
}

// A findMissingRequest is a FindMissingBlobsRequest.
type findMissingRequest struct {
	instance string
	digests  digest.Set
	err      error // what is wrong with a field
}

// GetInstanceName is what the generated message has too.
func (m *findMissingRequest) GetInstanceName() string { return m.instance }

func (m *findMissingRequest) unmarshal(data mem.Buffer) error {
	defer data.Free()
	message := data.ReadOnlyData()
	// The function comes after the digests that need it.
	var value repb.DigestFunction_Value
	count := 0
	err := wire.Scan(message, func(f wire.Field) error {
		switch {
		case f.Is(findMissingRequestDigests, protowire.BytesType):
			count++
		case f.Is(findMissingRequestInstance, protowire.BytesType):
			m.instance = string(f.Bytes)
		case f.Is(findMissingRequestFunction, protowire.VarintType):
			value = repb.DigestFunction_Value(f.Number)
		}
		return nil
	})
	if err != nil {
		return err
	}
	function, err := functionOf(value)
	if err != nil {
		m.err = err
		return nil
	}
	list := make([]digest.Digest, 0, count)
	err = wire.Scan(message, func(f wire.Field) error {
		if !f.Is(findMissingRequestDigests, protowire.BytesType) || m.err != nil {
			return nil
		}
		hash, size, err := wire.Digest(f.Bytes)
		if err != nil {
			return err
		}
		d, wrong := parseDigest(function, string(hash), size)
		if wrong != nil {
			m.err = inField(fmt.Sprintf("blob_digests[%d].%s", len(list), wrong.field), wrong.err)
		}
		list = append(list, d)
		return nil
	})
	if m.err == nil {
		m.digests = digest.SetOf(list...)
	}
	return err
}

// A findMissingResponse is a FindMissingBlobsResponse.
type findMissingResponse struct {
	missing []digest.Digest
	size    int // bytes of the encoded message
}

func (m *findMissingResponse) marshal() mem.BufferSlice {
	if m.size == 0 {
		return nil
	}
	data := buffers.Get(m.size)
	b := (*data)[:0]
	for _, d := range m.missing {
		b = protowire.AppendTag(b, findMissingResponseDigests, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeOfDigest(d)))
		b = protowire.AppendTag(b, digestHash, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(hex.EncodedLen(len(d.Hash))))
		b = hex.AppendEncode(b, d.Hash[:])
		if d.Size != 0 {
			b = protowire.AppendTag(b, digestSize, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(d.Size))
		}
	}
	*data = b
	return mem.BufferSlice{mem.NewBuffer(data, buffers)}
}

// sizeOfDigest returns the length of d as a Digest message.
func sizeOfDigest(d digest.Digest) int {
	n := 1 + 1 + hex.EncodedLen(len(d.Hash))
	if d.Size != 0 {
		n += 1 + protowire.SizeVarint(uint64(d.Size))
	}
	return n
}

// sizeOfDigestField returns the length of d as a field of another message, numbered below 16.
func sizeOfDigestField(d digest.Digest) int { return 1 + protowire.SizeBytes(sizeOfDigest(d)) }
