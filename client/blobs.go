package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/uuid"
	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

const (
	// Digests in one FindMissingBlobs request: about 80 bytes each, far from any message limit.
	maxDigests = 10_000

	// Bytes of a blob in one WriteRequest.
	chunkSize = 64 << 10

	// MaxWhole is the size in bytes of the largest blob that Bytes holds in memory.
	MaxWhole = 64 << 20
)

// function returns f as REAPI has it; the numbers are the same.
func function(f digest.Function) repb.DigestFunction_Value { return repb.DigestFunction_Value(f) }

// resource returns the part of a ByteStream resource name that says which blob is meant.
func resource(d digest.Digest) string { return "blobs/" + d.String() }

func (c *Client) prefixed(name string) string {
	if c.instance == "" {
		return name
	}
	return c.instance + "/" + name
}

// Missing returns the digests of ds that the server lacks, in their order. All others are leased, if
// the server knows leases.
func (c *Client) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	absent := map[digest.Digest]bool{}
	for list := ds.List(); len(list) > 0; {
		if err := c.speaks(list[0].Function); err != nil {
			return digest.Set{}, c.fail("find missing blobs", err)
		}
		n := 0
		request := &repb.FindMissingBlobsRequest{InstanceName: c.instance, DigestFunction: function(list[0].Function)}
		// A request speaks of one digest function.
		for n < len(list) && n < maxDigests && list[n].Function == list[0].Function {
			request.BlobDigests = append(request.BlobDigests, upstream.ToProto(list[n]))
			n++
		}
		answer, err := c.cas.FindMissingBlobs(ctx, request)
		if err != nil {
			return digest.Set{}, c.fail("find missing blobs", err)
		}
		for _, p := range answer.MissingBlobDigests {
			d, err := upstream.FromProto(list[0].Function, p)
			if err != nil {
				return digest.Set{}, c.fail("find missing blobs", err)
			}
			absent[d] = true
		}
		list = list[n:]
	}
	var missing digest.Set
	for _, d := range ds.List() {
		if absent[d] {
			missing.Add(d)
		}
	}
	return missing, nil
}

// Get writes the blob to w. A blob that fits a batch is verified before its first byte is written. Of
// a larger one that turns out wrong, bytes have been written when the error comes.
func (c *Client) Get(ctx context.Context, d digest.Digest, w io.Writer) error {
	op := "read " + d.String()
	if d.IsEmpty() {
		return nil
	}
	if err := c.speaks(d.Function); err != nil {
		return c.fail(op, err)
	}
	if d.Size <= c.batchLimit {
		data, err := c.Bytes(ctx, d)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	return c.fail(op, c.read(ctx, d, w))
}

// Bytes returns the blob whole, verified. It refuses blobs over MaxWhole.
func (c *Client) Bytes(ctx context.Context, d digest.Digest) ([]byte, error) {
	op := "read " + d.String()
	if err := c.speaks(d.Function); err != nil {
		return nil, c.fail(op, err)
	}
	switch {
	case d.IsEmpty():
		return nil, nil
	case d.Size > MaxWhole:
		return nil, c.fail(op, fmt.Errorf("%d bytes are too many to hold in memory, the limit is %d", d.Size, MaxWhole))
	case d.Size <= c.batchLimit && !c.noBatches.Load():
		data, err := c.batchRead(ctx, d)
		if !lacks(err) {
			return data, c.fail(op, err)
		}
		c.noBatches.Store(true)
	}
	var data bytes.Buffer
	data.Grow(int(d.Size))
	if err := c.read(ctx, d, &data); err != nil {
		return nil, c.fail(op, err)
	}
	return data.Bytes(), nil
}

func (c *Client) batchRead(ctx context.Context, d digest.Digest) ([]byte, error) {
	answer, err := c.cas.BatchReadBlobs(ctx, &repb.BatchReadBlobsRequest{
		InstanceName: c.instance, Digests: []*repb.Digest{upstream.ToProto(d)}, DigestFunction: function(d.Function),
	})
	if err != nil {
		return nil, err
	}
	if len(answer.Responses) != 1 {
		return nil, fmt.Errorf("asked for one blob, got %d answers", len(answer.Responses))
	}
	one := answer.Responses[0]
	if err := status.ErrorProto(one.GetStatus()); err != nil {
		return nil, err
	}
	if got := d.Function.Of(one.Data); got != d {
		return nil, fmt.Errorf("the server sent other bytes: %w", blob.Mismatch(d, got))
	}
	return one.Data, nil
}

// read copies the blob from ByteStream.Read to w and verifies it on the way.
func (c *Client) read(ctx context.Context, d digest.Digest, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where this returns early
	stream, err := c.stream.Read(ctx, &bspb.ReadRequest{ResourceName: c.prefixed(resource(d))})
	if err != nil {
		return err
	}
	hash, size := d.Function.NewHash(), int64(0)
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if size += int64(len(message.Data)); size > d.Size {
			return fmt.Errorf("the server sent more bytes than the %d asked for: %w", d.Size, blob.ErrMismatch)
		}
		hash.Write(message.Data)
		if _, err := w.Write(message.Data); err != nil {
			return err
		}
	}
	got := digest.Digest{Function: d.Function, Size: size}
	copy(got.Hash[:], hash.Sum(nil))
	if got != d {
		return fmt.Errorf("the server sent other bytes: %w", blob.Mismatch(d, got))
	}
	return nil
}

// Put stores the d.Size bytes of r as d. It asks nothing first; see Missing.
func (c *Client) Put(ctx context.Context, d digest.Digest, r io.Reader) error {
	op := "write " + d.String()
	if d.IsEmpty() {
		return nil
	}
	if err := c.speaks(d.Function); err != nil {
		return c.fail(op, err)
	}
	if d.Size <= c.batchLimit {
		data := make([]byte, d.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return c.fail(op, fmt.Errorf("%w: the source ends early", blob.ErrMismatch))
		}
		if !c.noBatches.Load() {
			err := c.batchUpdate(ctx, d, data)
			if !lacks(err) {
				return c.fail(op, err)
			}
			c.noBatches.Store(true)
		}
		r = bytes.NewReader(data)
	}
	return c.fail(op, c.write(ctx, d, r))
}

func (c *Client) batchUpdate(ctx context.Context, d digest.Digest, data []byte) error {
	answer, err := c.cas.BatchUpdateBlobs(ctx, &repb.BatchUpdateBlobsRequest{
		InstanceName:   c.instance,
		DigestFunction: function(d.Function),
		Requests:       []*repb.BatchUpdateBlobsRequest_Request{{Digest: upstream.ToProto(d), Data: data}},
	})
	if err != nil {
		return err
	}
	if len(answer.Responses) != 1 {
		return fmt.Errorf("sent one blob, got %d answers", len(answer.Responses))
	}
	return status.ErrorProto(answer.Responses[0].GetStatus())
}

// write sends the blob by ByteStream.Write.
func (c *Client) write(ctx context.Context, d digest.Digest, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where this returns early
	stream, err := c.stream.Write(ctx)
	if err != nil {
		return err
	}
	request := &bspb.WriteRequest{ResourceName: c.prefixed("uploads/" + uuid.NewString() + "/" + resource(d))}
	buffer := make([]byte, min(chunkSize, d.Size))
	for !request.FinishWrite {
		n := min(int64(len(buffer)), d.Size-request.WriteOffset)
		if _, err := io.ReadFull(r, buffer[:n]); err != nil {
			return fmt.Errorf("%w: the source ends early", blob.ErrMismatch)
		}
		request.Data = buffer[:n]
		request.FinishWrite = request.WriteOffset+n == d.Size
		if err := stream.Send(request); err != nil {
			// EOF: the server answered already, because it has the blob or because it refuses it.
			if !errors.Is(err, io.EOF) {
				return err
			}
			break
		}
		request.ResourceName, request.WriteOffset = "", request.WriteOffset+n
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if answer.CommittedSize != d.Size {
		return status.Errorf(codes.DataLoss, "the server committed %d of %d bytes", answer.CommittedSize, d.Size)
	}
	return nil
}
