package server

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/chunk/mapping"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// withChunks makes a rig split and splice, into chunks of 256 to 4096 bytes.
func withChunks(t testing.TB) func(*Options) {
	cutter, err := chunk.New(chunk.MinAverage, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Chunks = mapping.New(o.Store, o.Store.(blob.Records), cutter) }
}

// chunks returns what GetChunkMapping says.
func (r *rig) chunks(req *repb.GetChunkMappingRequest) (ps []*repb.Digest, messages []*repb.GetChunkMappingResponse, err error) {
	stream, err := r.cas.GetChunkMapping(r.ctx, req)
	if err != nil {
		return nil, nil, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return ps, messages, nil
		}
		if err != nil {
			return nil, nil, err
		}
		ps, messages = append(ps, m.GetChunkDigests()...), append(messages, m)
	}
}

// register calls RegisterChunkMapping with a message for each step chunks.
func (r *rig) register(first *repb.RegisterChunkMappingRequest, ps []*repb.Digest, step int) (*repb.RegisterChunkMappingResponse, error) {
	stream, err := r.cas.RegisterChunkMapping(r.ctx)
	if err != nil {
		return nil, err
	}
	for part := range slices.Chunk(ps, step) {
		first.ChunkDigests = part
		if err := stream.Send(first); err != nil {
			break // the answer says why
		}
		first = &repb.RegisterChunkMappingRequest{BlobDigest: &repb.Digest{Hash: "ignored"}}
	}
	return stream.CloseAndRecv()
}

// joined reads the chunks and returns them as one.
func (r *rig) joined(ps []*repb.Digest) (all []byte) {
	r.t.Helper()
	for _, p := range ps {
		d, err := digest.New(digest.SHA256, p.GetHash(), p.GetSizeBytes())
		if err != nil {
			r.t.Fatal(err)
		}
		data, err := r.download(resource{digest: d}.String(), 0, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

func TestChunksAdvertised(t *testing.T) {
	got, err := newRig(t, withChunks(t)).caps.GetCapabilities(t.Context(), &repb.GetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	c := got.GetCacheCapabilities()
	if !c.GetSplitBlobSupport() || !c.GetSpliceBlobSupport() || c.GetRepMaxCdcParams() != nil {
		t.Errorf("got %v, want FastCDC alone", c)
	}
	if p := c.GetFastCdc_2020Params(); p.GetAvgChunkSizeBytes() != chunk.MinAverage || p.GetSeed() != 0 {
		t.Errorf("got parameters %v, want the cutter's", p)
	}
}

// TestSplit splits a blob in both ways, and the same twice.
func TestSplit(t *testing.T) {
	r := newRig(t, withChunks(t))
	data := pattern(300_000, 1)
	p := r.put(digest.SHA256, data)
	for range 2 {
		stream, _, err := r.chunks(&repb.GetChunkMappingRequest{BlobDigest: p, DigestFunction: repb.DigestFunction_SHA256})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.joined(stream); !bytes.Equal(got, data) || len(stream) < 70 {
			t.Errorf("%d chunks have %d bytes, want %d", len(stream), len(got), len(data))
		}
		unary, err := r.cas.SplitBlob(r.ctx, &repb.SplitBlobRequest{BlobDigest: p})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(unary.GetChunkDigests(), stream, func(a, b *repb.Digest) bool { return proto.Equal(a, b) }) || unary.GetChunkingFunction() != repb.ChunkingFunction_FAST_CDC_2020 {
			t.Errorf("SplitBlob has %d chunks, GetChunkMapping %d", len(unary.GetChunkDigests()), len(stream))
		}
	}
}

// TestSplitLong has more chunks than one message takes.
func TestSplitLong(t *testing.T) {
	r := newRig(t, withChunks(t))
	var ps []*repb.Digest
	a, b := r.put(digest.SHA256, []byte("aa")), r.put(digest.SHA256, []byte("b"))
	for range 35_000 {
		ps = append(ps, a, b)
	}
	data := bytes.Repeat([]byte("aab"), 35_000)
	_, err := r.register(&repb.RegisterChunkMappingRequest{BlobDigest: wireOf(data), DigestFunction: repb.DigestFunction_SHA256}, ps, 9999)
	if err != nil {
		t.Fatal(err)
	}
	got, messages, err := r.chunks(&repb.GetChunkMappingRequest{BlobDigest: wireOf(data), DigestFunction: repb.DigestFunction_SHA256})
	if err != nil || len(got) != len(ps) || len(messages) != 7 {
		t.Errorf("got %d chunks in %d messages, %v, want %d in 7", len(got), len(messages), err, len(ps))
	}
	_, err = r.cas.SplitBlob(r.ctx, &repb.SplitBlobRequest{BlobDigest: wireOf(data)})
	wantStatus(t, err, codes.ResourceExhausted, "use GetChunkMapping")
}

func TestSplitErrors(t *testing.T) {
	r := newRig(t, withChunks(t))
	p := r.put(digest.SHA256, []byte("blob"))
	for _, tt := range []struct {
		req  *repb.GetChunkMappingRequest
		want codes.Code
		says string
	}{
		{&repb.GetChunkMappingRequest{}, codes.InvalidArgument, "blob_digest: missing"},
		{&repb.GetChunkMappingRequest{BlobDigest: p, DigestFunction: repb.DigestFunction_MD5}, codes.InvalidArgument, "digest_function"},
		{&repb.GetChunkMappingRequest{BlobDigest: wireOf([]byte("absent"))}, codes.NotFound, "not found"},
		{&repb.GetChunkMappingRequest{BlobDigest: wireOf(pattern(50_000, 1))}, codes.NotFound, "not found"},
	} {
		_, _, err := r.chunks(tt.req)
		wantStatus(t, err, tt.want, tt.says)
		_, err = r.cas.SplitBlob(r.ctx, &repb.SplitBlobRequest{BlobDigest: tt.req.BlobDigest, DigestFunction: tt.req.DigestFunction})
		wantStatus(t, err, tt.want, tt.says)
	}
}

// TestSplice makes a blob of chunks in both ways.
func TestSplice(t *testing.T) {
	r := newRig(t, withChunks(t))
	for i, splice := range []func(p *repb.Digest, chunks []*repb.Digest) (*repb.Digest, error){
		func(p *repb.Digest, chunks []*repb.Digest) (*repb.Digest, error) {
			resp, err := r.cas.SpliceBlob(r.ctx, &repb.SpliceBlobRequest{BlobDigest: p, ChunkDigests: chunks})
			return resp.GetBlobDigest(), err
		},
		func(p *repb.Digest, chunks []*repb.Digest) (*repb.Digest, error) {
			resp, err := r.register(&repb.RegisterChunkMappingRequest{
				BlobDigest: p, DigestFunction: repb.DigestFunction_SHA256, ChunkingFunction: repb.ChunkingFunction_FAST_CDC_2020,
			}, chunks, 2)
			return resp.GetBlobDigest(), err
		},
	} {
		data := pattern(50_000, uint64(i+1))
		p := wireOf(data)
		var chunks []*repb.Digest
		for part := range slices.Chunk(data, 10_001) {
			chunks = append(chunks, wireOf(part))
			if len(chunks) == 3 {
				_, err := splice(p, []*repb.Digest{chunks[0], wireOf(data[10_001:])})
				wantStatus(t, err, codes.NotFound, "not found")
			}
			r.put(digest.SHA256, part)
		}
		for range 2 {
			if got, err := splice(p, chunks); err != nil || !proto.Equal(got, p) {
				t.Errorf("got %v, %v, want %v", got, err, p)
			}
		}
		if back, err := r.download(resource{digest: digest.SHA256.Of(data)}.String(), 0, 0); err != nil || !bytes.Equal(back, data) {
			t.Errorf("the blob has %d bytes, %v", len(back), err)
		}
		if got, _, err := r.chunks(&repb.GetChunkMappingRequest{BlobDigest: p}); err != nil || len(got) != len(chunks) {
			t.Errorf("it has %d chunks, %v, want the %d that were spliced", len(got), err, len(chunks))
		}
		other := pattern(50_000, 9)
		_, err := splice(wireOf(other), chunks)
		wantStatus(t, err, codes.InvalidArgument, "chunk_digests: ", "do not match")
		if r.holds(digest.SHA256.Of(other)) {
			t.Error("a blob is there whose bytes nobody sent")
		}
	}
}

func TestSpliceErrors(t *testing.T) {
	r := newRig(t, withChunks(t), func(o *Options) { o.MaxBlobSize = 100 })
	p := r.put(digest.SHA256, []byte("blob"))
	for _, tt := range []struct {
		req  *repb.SpliceBlobRequest
		says string
	}{
		{&repb.SpliceBlobRequest{}, "blob_digest: missing"},
		{&repb.SpliceBlobRequest{BlobDigest: p, ChunkDigests: []*repb.Digest{p, {Hash: "x"}}}, "chunk_digests[1].hash"},
		{&repb.SpliceBlobRequest{BlobDigest: p, ChunkDigests: []*repb.Digest{p}, ChunkingFunction: repb.ChunkingFunction_REP_MAX_CDC}, "chunking_function"},
		{&repb.SpliceBlobRequest{BlobDigest: wireOf(make([]byte, 101)), ChunkDigests: []*repb.Digest{p}}, "blob_digest.size_bytes"},
		{&repb.SpliceBlobRequest{BlobDigest: p, ChunkDigests: []*repb.Digest{p, p}}, "its 2 chunks are not of that many bytes"},
	} {
		_, err := r.cas.SpliceBlob(r.ctx, tt.req)
		wantStatus(t, err, codes.InvalidArgument, tt.says)
		_, err = r.register(&repb.RegisterChunkMappingRequest{BlobDigest: tt.req.BlobDigest, ChunkingFunction: tt.req.ChunkingFunction}, tt.req.ChunkDigests, 1)
		wantStatus(t, err, codes.InvalidArgument)
	}
	_, err := r.register(&repb.RegisterChunkMappingRequest{}, nil, 1)
	wantStatus(t, err, codes.InvalidArgument, "before its first message")
}

// TestChunkYesLeases checks that each answer leases what it names: the blob, and a split's chunks.
func TestChunkYesLeases(t *testing.T) {
	store := &leasingStore{Store: model.New(time.Hour), asked: map[digest.Digest]int{}}
	r := newRig(t, func(o *Options) {
		o.Store = store
		withChunks(t)(o)
	})
	data := pattern(20_000, 1)
	d := digest.SHA256.Of(data)
	var chunks []*repb.Digest
	for part := range slices.Chunk(data, 7000) {
		if err := blob.Put(t.Context(), store, digest.SHA256.Of(part), part); err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, wireOf(part))
	}
	named := []digest.Digest{d, digest.SHA256.Of(data[:7000]), digest.SHA256.Of(data[14_000:])}
	for _, tt := range []struct {
		name string
		yes  func() error
	}{
		{"SpliceBlob", func() error {
			_, err := r.cas.SpliceBlob(r.ctx, &repb.SpliceBlobRequest{BlobDigest: onWire(d), ChunkDigests: chunks})
			return err
		}},
		{"RegisterChunkMapping", func() error {
			_, err := r.register(&repb.RegisterChunkMappingRequest{BlobDigest: onWire(d)}, chunks, 1)
			return err
		}},
		{"SplitBlob", func() error {
			_, err := r.cas.SplitBlob(r.ctx, &repb.SplitBlobRequest{BlobDigest: onWire(d)})
			return err
		}},
		{"GetChunkMapping", func() error {
			_, _, err := r.chunks(&repb.GetChunkMappingRequest{BlobDigest: onWire(d)})
			return err
		}},
	} {
		for i := range 3 {
			before := make([]int, len(named))
			for j, n := range named {
				before[j] = store.count(n)
			}
			if err := tt.yes(); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			for j, n := range named {
				if got := store.count(n); got <= before[j] {
					t.Errorf("%s, time %d: got %d leases of blob %d, want more than %d", tt.name, i, got, j, before[j])
				}
			}
		}
	}
}
