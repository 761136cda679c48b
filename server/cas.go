package server

import (
	"context"
	"fmt"
	"slices"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// cas is the ContentAddressableStorage service. GetTree is in tree.go and FindMissingBlobs in
// findmissing.go; the chunk calls are in chunks.go.
type cas struct {
	*Server
	repb.UnimplementedContentAddressableStorageServer
}

// A budget is how many bytes an answer to a batch may still grow by.
type budget int

// newBudget returns what is left of a message when every item is in it with no more than a code.
func newBudget(field string, items int, digestAt func(int) *repb.Digest) (budget, error) {
	left := maxMessage
	for i := range items {
		left -= bareSize(digestAt(i))
	}
	if left < 0 {
		return 0, invalid("%s: %d items are more than one answer can hold; send at most 45000 at a time", field, items)
	}
	return budget(left), nil
}

// bareSize returns the bytes of an item with a digest and a status that has a code and no text.
func bareSize(d *repb.Digest) int {
	const code = 2
	return fieldSize(fieldSize(proto.Size(d)) + fieldSize(code))
}

// fieldSize returns how long a message of n bytes is as a field of another, numbered below 16.
func fieldSize(n int) int { return 1 + protowire.SizeBytes(n) }

// take takes n bytes if there are as many.
func (b *budget) take(n int) bool {
	if int(*b) < n {
		return false
	}
	*b -= budget(n)
	return true
}

// status returns err as an item's status, without its text if there is no room for it.
func (b *budget) status(err error) *spb.Status {
	const around = 8 // bounds the text's tag and length, and what they add to the lengths around it
	s := itemStatus(err)
	if !b.take(len(s.GetMessage()) + around) {
		s.Message = ""
	}
	return s
}

// checkBatch refuses a batch whose blobs sum up to more than was advertised.
func checkBatch(field string, items int, digestAt func(int) *repb.Digest) error {
	var total int64
	for i := range items {
		// Each size is compared alone too, so that the sum can't overflow. Negative ones fail as items.
		size := max(0, digestAt(i).GetSizeBytes())
		if total += min(size, maxBatch+1); total > maxBatch {
			return invalid("%s: the blobs sum up to more than max_batch_total_size_bytes, %d; send fewer at a time or use ByteStream", field, maxBatch)
		}
	}
	return nil
}

// BatchUpdateBlobs stores blobs, each of which succeeds or fails alone.
func (c *cas) BatchUpdateBlobs(ctx context.Context, req *repb.BatchUpdateBlobsRequest) (*repb.BatchUpdateBlobsResponse, error) {
	function, err := functionOf(req.GetDigestFunction())
	if err != nil {
		return nil, err
	}
	items := req.GetRequests()
	digestAt := func(i int) *repb.Digest { return items[i].GetDigest() }
	if err := checkBatch("requests", len(items), digestAt); err != nil {
		return nil, err
	}
	left, err := newBudget("requests", len(items), digestAt)
	if err != nil {
		return nil, err
	}
	resp, block := new(repb.BatchUpdateBlobsResponse), make([]repb.BatchUpdateBlobsResponse_Response, len(items))
	resp.Responses = make([]*repb.BatchUpdateBlobsResponse_Response, len(items))
	digests, data := make([]digest.Digest, 0, len(items)), make([][]byte, 0, len(items))
	var index []int // of each digest in items
	for i, item := range items {
		r := &block[i]
		resp.Responses[i], r.Digest, r.Status = r, item.GetDigest(), itemOK
		c.metrics.received.add(len(item.GetData()), item.GetCompressor() == repb.Compressor_ZSTD)
		d, plain, err := c.decode(function, i, item)
		if err != nil {
			r.Status = left.status(err)
			continue
		}
		digests, data, index = append(digests, d), append(data, plain), append(index, i)
	}
	for j, err := range c.store.PutAll(ctx, digests, data) {
		if err != nil {
			i := index[j]
			block[i].Status = left.status(inField(fmt.Sprintf("requests[%d]", i), err))
		}
	}
	return resp, nil
}

// decode returns the digest and the bytes of one item of a batch.
func (c *cas) decode(f digest.Function, i int, item *repb.BatchUpdateBlobsRequest_Request) (digest.Digest, []byte, error) {
	// The field's name is put together only when it is needed.
	field := func(name string) string { return fmt.Sprintf("requests[%d].%s", i, name) }
	if item.GetDigest() == nil {
		return digest.Digest{}, nil, invalid("%s: missing", field("digest"))
	}
	d, wrong := parseDigest(f, item.GetDigest().GetHash(), item.GetDigest().GetSizeBytes())
	if wrong != nil {
		return d, nil, inField(field("digest."+wrong.field), wrong.err)
	}
	if c.maxBlobSize > 0 && d.Size > c.maxBlobSize {
		return d, nil, c.checkSize(field("digest.size_bytes"), d)
	}
	switch item.GetCompressor() {
	case repb.Compressor_IDENTITY:
		return d, item.GetData(), nil
	case repb.Compressor_ZSTD:
		data, err := zstd.Decode(item.GetData(), d.Size)
		if err != nil {
			return d, nil, invalid("%s: %v", field("data"), err)
		}
		return d, data, nil
	}
	return d, nil, invalid("%s: %v is not supported, only IDENTITY and ZSTD", field("compressor"), item.GetCompressor())
}

// BatchReadBlobs returns blobs, each of which succeeds or fails alone.
func (c *cas) BatchReadBlobs(ctx context.Context, req *repb.BatchReadBlobsRequest) (*repb.BatchReadBlobsResponse, error) {
	function, err := functionOf(req.GetDigestFunction())
	if err != nil {
		return nil, err
	}
	items := req.GetDigests()
	digestAt := func(i int) *repb.Digest { return items[i] }
	if err := checkBatch("digests", len(items), digestAt); err != nil {
		return nil, err
	}
	left, err := newBudget("digests", len(items), digestAt)
	if err != nil {
		return nil, err
	}
	compress := slices.Contains(req.GetAcceptableCompressors(), repb.Compressor_ZSTD)
	resp, block := new(repb.BatchReadBlobsResponse), make([]repb.BatchReadBlobsResponse_Response, len(items))
	resp.Responses = make([]*repb.BatchReadBlobsResponse_Response, len(items))
	digests, index := make([]digest.Digest, 0, len(items)), make([]int, 0, len(items))
	for i, item := range items {
		r := &block[i]
		resp.Responses[i], r.Digest, r.Status = r, item, itemOK
		d, wrong := parseDigest(function, item.GetHash(), item.GetSizeBytes())
		if wrong != nil {
			r.Status = left.status(inField(fmt.Sprintf("digests[%d].%s", i, wrong.field), wrong.err))
			continue
		}
		digests, index = append(digests, d), append(index, i)
	}
	data, errs := c.store.GetAll(ctx, digests)
	for j, i := range index {
		if errs[j] != nil {
			block[i].Status = left.status(errs[j])
			continue
		}
		answer(&block[i], data[j], compress, &left)
		c.metrics.sent.add(len(block[i].GetData()), block[i].GetCompressor() == repb.Compressor_ZSTD)
	}
	return resp, nil
}

// answer puts data into r, compressed if the client takes it and it pays, if there is room for it.
//
// Room lacks only in a batch of more than about 600 blobs that reaches the advertised limit, which
// counts their bytes and not what stands around them.
func answer(r *repb.BatchReadBlobsResponse_Response, data []byte, compress bool, left *budget) {
	// Less than this isn't worth a frame's header and the time.
	const smallest = 128
	r.Data = data
	if compress && len(data) >= smallest {
		if packed := zstd.Encode(data); len(packed) < len(data)-len(data)/8 {
			r.Compressor, r.Data = repb.Compressor_ZSTD, packed
		}
	}
	if !left.take(fieldSize(proto.Size(r)) - bareSize(r.Digest)) {
		r.Compressor, r.Data = repb.Compressor_IDENTITY, nil
		r.Status = left.status(status.Error(codes.ResourceExhausted, "no room left in the answer; ask for this blob in another call"))
	}
}
