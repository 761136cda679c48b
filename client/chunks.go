package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

const (
	// atOnce is how many chunks are on their way at a time.
	atOnce = 4
	// window is how many bytes of chunks are fetched before they are written in order.
	window = 16 << 20
	// chunksInRequest is how many digests one message of RegisterChunkMapping carries, about 1 MB.
	chunksInRequest = 10_000
)

// Cutter returns what cuts blobs as the server does, or nil if the server does not both split and splice, or says
// parameters that the API does not allow.
func (c *Client) Cutter() *chunk.Cutter {
	caps := c.capabilities.GetCacheCapabilities()
	p := caps.GetFastCdc_2020Params()
	if p == nil || !caps.GetSplitBlobSupport() || !caps.GetSpliceBlobSupport() || p.AvgChunkSizeBytes > chunk.MaxAverage {
		return nil
	}
	cutter, err := chunk.New(int(p.AvgChunkSizeBytes), p.Seed)
	if err != nil {
		return nil
	}
	return cutter
}

// streams reports whether the server has the calls of 2.13, which stream what those of 2.12 said in one message.
func (c *Client) streams() bool {
	v := c.capabilities.GetHighApiVersion()
	return v.GetMajor() > 2 || v.GetMajor() == 2 && v.GetMinor() >= 13
}

// Chunks returns of which chunks d consists, as the server says.
func (c *Client) Chunks(ctx context.Context, d digest.Digest) ([]digest.Digest, error) {
	ps, err := c.split(ctx, d)
	var total int64
	ds := make([]digest.Digest, len(ps))
	for i, p := range ps {
		if err == nil {
			ds[i], err = upstream.FromProto(d.Function, p)
			total += ds[i].Size
		}
	}
	if err == nil && total != d.Size {
		err = fmt.Errorf("the server names chunks of %d bytes: %w", total, blob.ErrMismatch)
	}
	return ds, c.fail("split "+d.String(), err)
}

func (c *Client) split(ctx context.Context, d digest.Digest) (ps []*repb.Digest, err error) {
	if !c.streams() {
		answer, err := c.cas.SplitBlob(ctx, &repb.SplitBlobRequest{InstanceName: c.instance, BlobDigest: upstream.ToProto(d), DigestFunction: function(d.Function)})
		return answer.GetChunkDigests(), err
	}
	stream, err := c.cas.GetChunkMapping(ctx, &repb.GetChunkMappingRequest{InstanceName: c.instance, BlobDigest: upstream.ToProto(d), DigestFunction: function(d.Function)})
	if err != nil {
		return nil, err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return ps, nil
		}
		if err != nil {
			return nil, err
		}
		ps = append(ps, answer.ChunkDigests...)
	}
}

// splice tells the server of which chunks, which it has, d consists.
func (c *Client) splice(ctx context.Context, d digest.Digest, chunks []digest.Digest) error {
	ps := make([]*repb.Digest, len(chunks))
	for i, ch := range chunks {
		ps[i] = upstream.ToProto(ch)
	}
	if !c.streams() {
		_, err := c.cas.SpliceBlob(ctx, &repb.SpliceBlobRequest{
			InstanceName: c.instance, BlobDigest: upstream.ToProto(d), ChunkDigests: ps, DigestFunction: function(d.Function), ChunkingFunction: repb.ChunkingFunction_FAST_CDC_2020,
		})
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where this returns early
	stream, err := c.cas.RegisterChunkMapping(ctx)
	if err != nil {
		return err
	}
	request := &repb.RegisterChunkMappingRequest{
		InstanceName: c.instance, BlobDigest: upstream.ToProto(d), DigestFunction: function(d.Function), ChunkingFunction: repb.ChunkingFunction_FAST_CDC_2020,
	}
	for len(ps) > 0 {
		n := min(len(ps), chunksInRequest)
		request.ChunkDigests, ps = ps[:n], ps[n:]
		if err := stream.Send(request); err != nil {
			break // the answer says why
		}
		request = &repb.RegisterChunkMappingRequest{InstanceName: c.instance}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// A Cut is what a blob is called, and its chunks in their order.
type Cut struct {
	Digest digest.Digest
	Chunks []digest.Digest
}

// NewCut reads r to its end. A nil cutter makes no chunks.
func NewCut(r io.Reader, f digest.Function, cutter *chunk.Cutter) (Cut, error) {
	var cut Cut
	hash := f.NewHash()
	cut.Digest.Function = f
	if cutter == nil {
		var err error
		cut.Digest.Size, err = io.Copy(hash, r)
		hash.Sum(cut.Digest.Hash[:0])
		return cut, err
	}
	for b, err := range cutter.Chunks(r) {
		if err != nil {
			return Cut{}, err
		}
		hash.Write(b)
		cut.Digest.Size += int64(len(b))
		cut.Chunks = append(cut.Chunks, f.Of(b))
	}
	hash.Sum(cut.Digest.Hash[:0])
	return cut, nil
}

// PutCut stores the bytes of r, of which cut was made, and returns how many of them had to be sent: chunks that the
// server lacks. Without chunks, or with one, the blob is sent whole. It does not ask for the blob itself; see Missing.
func (c *Client) PutCut(ctx context.Context, cut Cut, r io.ReaderAt) (sent int64, err error) {
	d := cut.Digest
	if len(cut.Chunks) < 2 {
		return d.Size, c.Put(ctx, d, io.NewSectionReader(r, 0, d.Size))
	}
	missing, err := c.Missing(ctx, digest.SetOf(cut.Chunks...))
	if err != nil {
		return 0, err
	}
	type piece struct {
		digest digest.Digest
		offset int64
	}
	var pieces []piece
	var once digest.Set
	offset := int64(0)
	for _, ch := range cut.Chunks {
		if missing.Has(ch) && once.Add(ch) {
			pieces = append(pieces, piece{ch, offset})
			sent += ch.Size
		}
		offset += ch.Size
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, p := range pieces {
		group.Go(func() error {
			return c.Put(within, p.digest, io.NewSectionReader(r, p.offset, p.digest.Size))
		})
	}
	if err = group.Wait(); err == nil {
		err = c.fail("splice "+d.String(), c.splice(ctx, d, cut.Chunks))
	}
	return sent, err
}

// Seeds are local files that may have chunks of a blob which is wanted.
type Seeds struct {
	function digest.Function
	cutter   *chunk.Cutter
	places   map[digest.Digest]place
}

// A place is where a chunk was seen.
type place struct {
	file   string
	offset int64
}

// Seeds returns a set of seeds for blobs of the function f, or nil if the server does not split blobs.
func (c *Client) Seeds(f digest.Function) *Seeds {
	cutter := c.Cutter()
	if cutter == nil {
		return nil
	}
	return &Seeds{f, cutter, map[digest.Digest]place{}}
}

// Add reads the file and remembers its chunks. The file may change: each chunk is verified when it is used.
func (s *Seeds) Add(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	cut, err := NewCut(f, s.function, s.cutter)
	offset := int64(0)
	for _, d := range cut.Chunks {
		s.places[d] = place{file, offset}
		offset += d.Size
	}
	return err
}

// chunk returns a chunk that a seed has.
func (s *Seeds) chunk(d digest.Digest) ([]byte, bool) {
	p, ok := s.places[d]
	if !ok {
		return nil, false
	}
	f, err := os.Open(p.file)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data := make([]byte, d.Size)
	if _, err := f.ReadAt(data, p.offset); err != nil || d.Function.Of(data) != d {
		return nil, false
	}
	return data, true
}

// GetSeeded writes the blob to w, takes from seeds what they have of it, and returns how many bytes it had to fetch.
// Of a blob that turns out wrong, bytes have been written when the error comes. Seeds may be nil.
func (c *Client) GetSeeded(ctx context.Context, d digest.Digest, seeds *Seeds, w io.Writer) (fetched int64, err error) {
	op := "read " + d.String()
	if seeds == nil || d.Size <= int64(seeds.cutter.Max()) {
		return d.Size, c.Get(ctx, d, w)
	}
	chunks, err := c.Chunks(ctx, d)
	if err != nil {
		if status.Code(errors.Unwrap(err)) == codes.NotFound || lacks(errors.Unwrap(err)) {
			return d.Size, c.Get(ctx, d, w) // which says so if the blob is absent
		}
		return 0, err
	}
	hash := d.Function.NewHash()
	both := io.MultiWriter(hash, w)
	for len(chunks) > 0 {
		n, size := 1, chunks[0].Size
		for n < len(chunks) && size+chunks[n].Size <= window {
			size += chunks[n].Size
			n++
		}
		got, err := c.fetch(ctx, chunks[:n], seeds, both)
		fetched += got
		if err != nil {
			return fetched, c.fail(op, err)
		}
		chunks = chunks[n:]
	}
	got := digest.Digest{Function: d.Function, Size: d.Size}
	if hash.Sum(got.Hash[:0]); got != d {
		return fetched, c.fail(op, fmt.Errorf("the server named chunks of another blob: %w", blob.Mismatch(d, got)))
	}
	return fetched, nil
}

// fetch writes chunks to w, in their order. Several fit the window; one alone may be larger.
func (c *Client) fetch(ctx context.Context, chunks []digest.Digest, seeds *Seeds, w io.Writer) (fetched int64, err error) {
	have := map[digest.Digest][]byte{}
	var want digest.Set
	for _, d := range chunks {
		if data, ok := seeds.chunk(d); ok {
			have[d] = data
		} else {
			want.Add(d)
		}
	}
	if len(chunks) == 1 && want.Len() == 1 {
		return chunks[0].Size, c.Get(ctx, chunks[0], w)
	}
	data := make([][]byte, want.Len())
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, d := range want.List() {
		group.Go(func() (err error) {
			data[i], err = c.Bytes(within, d)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	for i, d := range want.List() {
		have[d] = data[i]
		fetched += d.Size
	}
	for _, d := range chunks {
		if _, err := w.Write(have[d]); err != nil {
			return fetched, err
		}
	}
	return fetched, nil
}
