package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

func TestFindMissingBlobs(t *testing.T) {
	r := newRig(t)
	here := r.put(digest.SHA256, []byte("here"))
	blake := r.put(digest.BLAKE3, []byte("blake"))
	away, away2 := wireOf([]byte("away")), wireOf([]byte("away too"))
	otherSize := &repb.Digest{Hash: here.Hash, SizeBytes: 5}
	emptySHA, emptyBLAKE3 := onWire(digest.SHA256.Empty()), onWire(digest.BLAKE3.Empty())
	for _, tt := range []struct {
		name     string
		function repb.DigestFunction_Value
		ask      []*repb.Digest
		want     []*repb.Digest
	}{
		{name: "nothing asked"},
		{name: "present", ask: []*repb.Digest{here}},
		{name: "missing", ask: []*repb.Digest{away}, want: []*repb.Digest{away}},
		{name: "each missing one once, in order", ask: []*repb.Digest{away2, here, away, away2, away}, want: []*repb.Digest{away2, away}},
		{name: "empty blob", ask: []*repb.Digest{emptySHA}},
		{name: "another size is another blob", ask: []*repb.Digest{otherSize, here}, want: []*repb.Digest{otherSize}},
		{name: "function stated", function: repb.DigestFunction_SHA256, ask: []*repb.Digest{here, away}, want: []*repb.Digest{away}},
		{name: "BLAKE3", function: repb.DigestFunction_BLAKE3, ask: []*repb.Digest{blake, emptyBLAKE3}},
		{name: "functions do not share names", function: repb.DigestFunction_BLAKE3, ask: []*repb.Digest{here}, want: []*repb.Digest{here}},
		{name: "unset means SHA-256", ask: []*repb.Digest{blake}, want: []*repb.Digest{blake}},
	} {
		for _, instance := range []string{"", "some/instance"} { // one CAS for all
			got, err := r.cas.FindMissingBlobs(r.ctx, &repb.FindMissingBlobsRequest{InstanceName: instance, BlobDigests: tt.ask, DigestFunction: tt.function})
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			if !slices.EqualFunc(got.GetMissingBlobDigests(), tt.want, func(a, b *repb.Digest) bool { return proto.Equal(a, b) }) {
				t.Errorf("%s: got %v, want %v", tt.name, got.GetMissingBlobDigests(), tt.want)
			}
		}
	}
}

func TestFindMissingBlobsErrors(t *testing.T) {
	r := newRig(t)
	good := wireOf([]byte("good"))
	for _, tt := range []struct {
		name     string
		function repb.DigestFunction_Value
		last     *repb.Digest
		want     string
	}{
		{"upper case", 0, &repb.Digest{Hash: "E" + good.Hash[1:], SizeBytes: 1}, "blob_digests[3].hash: "},
		{"SHA-1 by its length", 0, &repb.Digest{Hash: good.Hash[:40], SizeBytes: 1}, "blob_digests[3].hash: "},
		{"no hash", 0, &repb.Digest{SizeBytes: 1}, "blob_digests[3].hash: "},
		{"negative size", 0, &repb.Digest{Hash: good.Hash, SizeBytes: -1}, "blob_digests[3].size_bytes: "},
		{"size 0 of a hash that is not of nothing", 0, &repb.Digest{Hash: good.Hash}, "blob_digests[3].size_bytes: "},
		{"empty hash with a size", 0, &repb.Digest{Hash: empty, SizeBytes: 1}, "blob_digests[3].size_bytes: "},
		{"function", repb.DigestFunction_SHA1, good, "digest_function: SHA1 is not supported"},
		{"unknown function", 77, good, "digest_function: 77 is not supported"},
	} {
		_, err := r.cas.FindMissingBlobs(r.ctx, &repb.FindMissingBlobsRequest{BlobDigests: []*repb.Digest{good, good, good, tt.last}, DigestFunction: tt.function})
		if status.Code(err) == codes.OK {
			t.Errorf("%s: got no error", tt.name)
		}
		wantStatus(t, err, codes.InvalidArgument, tt.want)
	}
}

// TestFindMissingBlobsLimit checks that an answer too long for its client is refused, not cut.
func TestFindMissingBlobsLimit(t *testing.T) {
	r := newRig(t)
	req := new(repb.FindMissingBlobsRequest)
	for i := range 60000 {
		d := onWire(digest.Digest{Function: digest.SHA256, Size: 1000, Hash: [32]byte{byte(i), byte(i >> 8), 1}})
		req.BlobDigests = append(req.BlobDigests, d)
	}
	_, err := r.cas.FindMissingBlobs(r.ctx, req)
	wantStatus(t, err, codes.InvalidArgument, "blob_digests: 60000")
	req.BlobDigests = req.BlobDigests[:40000]
	got, err := r.cas.FindMissingBlobs(r.ctx, req)
	if err != nil || len(got.GetMissingBlobDigests()) != 40000 {
		t.Errorf("got %d, %v, want 40000", len(got.GetMissingBlobDigests()), err)
	}
}

func TestBatchUpdateBlobs(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBlobSize = 3 << 20 })
	text := bytes.Repeat([]byte("compresses well "), 100)
	item := func(data []byte) *repb.BatchUpdateBlobsRequest_Request {
		return &repb.BatchUpdateBlobsRequest_Request{Digest: wireOf(data), Data: data}
	}
	packed := func(data []byte) *repb.BatchUpdateBlobsRequest_Request {
		return &repb.BatchUpdateBlobsRequest_Request{Digest: wireOf(data), Data: zstd.Encode(data), Compressor: repb.Compressor_ZSTD}
	}
	wrongHash, short, long := item([]byte("wrong hash")), item([]byte("short")), item([]byte("long"))
	wrongHash.Data = []byte("hash wrong")
	short.Data, long.Data = short.Data[:4], append(long.Data, '!')
	noDigest, malformed, negative := item([]byte("x")), item([]byte("y")), item([]byte("z"))
	noDigest.Digest, malformed.Digest.Hash, negative.Digest.SizeBytes = nil, "abc", -1
	deflate, garbage, bomb := item([]byte("deflate")), item([]byte("garbage")), packed(make([]byte, 1<<20))
	deflate.Compressor, garbage.Compressor = repb.Compressor_DEFLATE, repb.Compressor_ZSTD
	bomb.Digest.SizeBytes = 1000
	truncated := packed(text[16:])
	truncated.Data = truncated.Data[:len(truncated.Data)-5]
	emptyPacked := &repb.BatchUpdateBlobsRequest_Request{Digest: onWire(digest.SHA256.Empty()), Compressor: repb.Compressor_ZSTD}
	tests := []struct {
		name string
		item *repb.BatchUpdateBlobsRequest_Request
		want codes.Code
		text []string
	}{
		{"plain", item([]byte("plain")), codes.OK, nil},
		{"the same again", item([]byte("plain")), codes.OK, nil},
		{"empty", item(nil), codes.OK, nil},
		{"zstd", packed(text), codes.OK, nil},
		{"zstd of nothing", emptyPacked, codes.OK, nil},
		{"wrong hash", wrongHash, codes.InvalidArgument, []string{"requests[5]", wrongHash.Digest.Hash, wireOf(wrongHash.Data).Hash}},
		{"short", short, codes.InvalidArgument, []string{"requests[6]", "5 bytes", "got 4"}},
		{"long", long, codes.InvalidArgument, []string{"requests[7]"}},
		{"no digest", noDigest, codes.InvalidArgument, []string{"requests[8].digest: missing"}},
		{"malformed digest", malformed, codes.InvalidArgument, []string{"requests[9].digest.hash: "}},
		{"negative size", negative, codes.InvalidArgument, []string{"requests[10].digest.size_bytes: "}},
		{"compressor", deflate, codes.InvalidArgument, []string{"requests[11].compressor: DEFLATE"}},
		{"not zstd", garbage, codes.InvalidArgument, []string{"requests[12].data: "}},
		{"more comes out than declared", bomb, codes.InvalidArgument, []string{"requests[13].data: "}},
		{"cut off", truncated, codes.InvalidArgument, []string{"requests[14].data: "}},
		{"larger than max_cas_blob_size_bytes", item(make([]byte, 3<<20+1)), codes.InvalidArgument, []string{"requests[15].digest.size_bytes: ", "max_cas_blob_size_bytes"}},
	}
	req := new(repb.BatchUpdateBlobsRequest)
	for _, tt := range tests {
		req.Requests = append(req.Requests, tt.item)
	}
	got, err := r.cas.BatchUpdateBlobs(r.ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range tests {
		item := got.GetResponses()[i]
		if tt.item.GetDigest() != nil && !proto.Equal(item.GetDigest(), tt.item.GetDigest()) {
			t.Errorf("%s: got the answer for %v, want %v", tt.name, item.GetDigest(), tt.item.GetDigest())
		}
		if got := codes.Code(item.GetStatus().GetCode()); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, item.GetStatus(), tt.want)
			continue
		}
		wantStatus(t, status.FromProto(item.GetStatus()).Err(), tt.want, tt.text...)
		d, err := digest.New(digest.SHA256, tt.item.GetDigest().GetHash(), digest.AnySize)
		if err == nil && r.holds(d) != (tt.want == codes.OK) {
			t.Errorf("%s: got visible %v", tt.name, r.holds(d))
		}
	}
}

func TestBatchUpdateBLAKE3(t *testing.T) {
	r := newRig(t)
	data := []byte("data")
	d := digest.BLAKE3.Of(data)
	got, err := r.cas.BatchUpdateBlobs(r.ctx, &repb.BatchUpdateBlobsRequest{
		InstanceName:   "i",
		DigestFunction: repb.DigestFunction_BLAKE3,
		Requests:       []*repb.BatchUpdateBlobsRequest_Request{{Digest: onWire(d), Data: data}},
	})
	if err != nil || got.GetResponses()[0].GetStatus().GetCode() != 0 {
		t.Fatalf("got %v, %v, want success", got, err)
	}
	if !r.holds(d) || r.holds(digest.SHA256.Of(data)) {
		t.Errorf("got BLAKE3 %v, SHA-256 %v, want only the first", r.holds(d), r.holds(digest.SHA256.Of(data)))
	}
	_, err = r.cas.BatchUpdateBlobs(r.ctx, &repb.BatchUpdateBlobsRequest{DigestFunction: repb.DigestFunction_MD5})
	wantStatus(t, err, codes.InvalidArgument, "digest_function: MD5")
}

// fullStore is a store without room.
type fullStore struct{ *model.Store }

func (f fullStore) Create(_ context.Context, d digest.Digest) (blob.Writer, error) {
	return nil, &blob.Error{Op: "create", Digest: d, Err: fmt.Errorf("%w; raise --max-size", blob.ErrFull)}
}

// PutAll is what blob.Batches would make of Create.
func (f fullStore) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	for i, d := range ds {
		_, errs[i] = f.Create(ctx, d)
	}
	return errs
}

func TestFull(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Store = fullStore{o.Store.(*model.Store)} })
	data := pattern(100, 1)
	got, err := r.cas.BatchUpdateBlobs(r.ctx, &repb.BatchUpdateBlobsRequest{Requests: []*repb.BatchUpdateBlobsRequest_Request{{Digest: wireOf(data), Data: data}}})
	if err != nil {
		t.Fatal(err)
	}
	s := got.GetResponses()[0].GetStatus()
	wantStatus(t, status.FromProto(s).Err(), codes.ResourceExhausted, "requests[0]", "--max-size")
	for _, step := range []int{100, 10} {
		_, err = r.write(resource{upload: "u", digest: digest.SHA256.Of(data)}.String(), data, step)
		wantStatus(t, err, codes.ResourceExhausted, "--max-size")
	}
	_, err = r.write(resource{upload: "u", compressed: true, digest: digest.SHA256.Of(data)}.String(), zstd.Encode(data), 10)
	wantStatus(t, err, codes.ResourceExhausted, "--max-size")
}

func TestBatchReadBlobs(t *testing.T) {
	r := newRig(t)
	text := bytes.Repeat([]byte("compresses well "), 100)
	noise := pattern(1000, 3)
	a, b, n := r.put(digest.SHA256, []byte("a")), r.put(digest.SHA256, text), r.put(digest.SHA256, noise)
	away := wireOf([]byte("away"))
	got, err := r.cas.BatchReadBlobs(r.ctx, &repb.BatchReadBlobsRequest{
		InstanceName:          "i",
		Digests:               []*repb.Digest{a, away, b, a, n, {Hash: "abc", SizeBytes: 1}, {Hash: a.Hash, SizeBytes: 2}, onWire(digest.SHA256.Empty()), {Hash: a.Hash, SizeBytes: -1}},
		AcceptableCompressors: []repb.Compressor_Value{repb.Compressor_ZSTD, repb.Compressor_DEFLATE},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		code       codes.Code
		data       []byte
		compressor repb.Compressor_Value
		text       string
	}{
		{data: []byte("a")},
		{code: codes.NotFound, text: away.Hash},
		{data: text, compressor: repb.Compressor_ZSTD},
		{data: []byte("a")},
		{data: noise}, // does not compress, so it comes as it is
		{code: codes.InvalidArgument, text: "digests[5].hash: "},
		{code: codes.NotFound, text: "/2"},
		{},
		{code: codes.InvalidArgument, text: "digests[8].size_bytes: "},
	} {
		item := got.GetResponses()[i]
		wantStatus(t, status.FromProto(item.GetStatus()).Err(), want.code, want.text)
		data := item.GetData()
		if item.GetCompressor() != want.compressor {
			t.Errorf("item %d: got compressor %v, want %v", i, item.GetCompressor(), want.compressor)
		} else if item.GetCompressor() == repb.Compressor_ZSTD {
			if data, err = zstd.Decode(data, item.GetDigest().GetSizeBytes()); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(data, want.data) {
			t.Errorf("item %d: got %d bytes, want %d", i, len(data), len(want.data))
		}
	}
}

// TestBatchReadPlain checks that nothing is compressed for a client that did not ask for it.
func TestBatchReadPlain(t *testing.T) {
	r := newRig(t)
	data := bytes.Repeat([]byte("compresses well "), 100)
	got, err := r.cas.BatchReadBlobs(r.ctx, &repb.BatchReadBlobsRequest{Digests: []*repb.Digest{r.put(digest.BLAKE3, data)}, DigestFunction: repb.DigestFunction_BLAKE3})
	if err != nil {
		t.Fatal(err)
	}
	if item := got.GetResponses()[0]; item.GetCompressor() != repb.Compressor_IDENTITY || !bytes.Equal(item.GetData(), data) {
		t.Errorf("got %v and %d bytes, want IDENTITY and %d", item.GetCompressor(), len(item.GetData()), len(data))
	}
}

// TestBatchLimits checks both directions at the limit and over it.
func TestBatchLimits(t *testing.T) {
	r := newRig(t)
	half, rest := pattern(maxBatch/2, 1), pattern(maxBatch-maxBatch/2, 2)
	over := pattern(maxBatch-maxBatch/2+1, 3)
	for _, tt := range []struct {
		name  string
		blobs [][]byte
		ok    bool
	}{
		{"at the limit", [][]byte{half, rest}, true},
		{"over the limit", [][]byte{half, over}, false},
		{"one over the limit", [][]byte{pattern(maxBatch+1, 4)}, false},
	} {
		update, read := new(repb.BatchUpdateBlobsRequest), new(repb.BatchReadBlobsRequest)
		for _, data := range tt.blobs {
			update.Requests = append(update.Requests, &repb.BatchUpdateBlobsRequest_Request{Digest: wireOf(data), Data: data})
			read.Digests = append(read.Digests, wireOf(data))
		}
		_, updateErr := r.cas.BatchUpdateBlobs(r.ctx, update)
		got, readErr := r.cas.BatchReadBlobs(r.ctx, read)
		if !tt.ok {
			wantStatus(t, updateErr, codes.InvalidArgument, "requests: ", "max_batch_total_size_bytes", fmt.Sprint(maxBatch))
			wantStatus(t, readErr, codes.InvalidArgument, "digests: ", "max_batch_total_size_bytes", fmt.Sprint(maxBatch))
			continue
		}
		if updateErr != nil || readErr != nil {
			t.Fatalf("%s: got %v and %v, want success", tt.name, updateErr, readErr)
		}
		for i, item := range got.GetResponses() {
			if !bytes.Equal(item.GetData(), tt.blobs[i]) {
				t.Errorf("%s: item %d: got %d bytes, want %d", tt.name, i, len(item.GetData()), len(tt.blobs[i]))
			}
		}
	}
	// A size that would overflow the sum is over the limit too.
	huge := &repb.Digest{Hash: hash1, SizeBytes: 1<<63 - 1}
	_, err := r.cas.BatchReadBlobs(r.ctx, &repb.BatchReadBlobsRequest{Digests: []*repb.Digest{huge, huge}})
	wantStatus(t, err, codes.InvalidArgument, "digests: ")
}

// TestBatchReadManySmall checks that an answer stays receivable when what stands around the blobs is
// what makes it long. The client of the rig has gRPC's default limit.
func TestBatchReadManySmall(t *testing.T) {
	r := newRig(t)
	const size = 1024
	req := new(repb.BatchReadBlobsRequest)
	for i := range maxBatch / size {
		req.Digests = append(req.Digests, r.put(digest.SHA256, pattern(size, uint64(i)+1)))
	}
	got, err := r.cas.BatchReadBlobs(r.ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	served, later := 0, 0
	for _, item := range got.GetResponses() {
		switch codes.Code(item.GetStatus().GetCode()) {
		case codes.OK:
			if !proto.Equal(wireOf(item.GetData()), item.GetDigest()) {
				t.Fatalf("got wrong bytes for %v", item.GetDigest())
			}
			served++
		case codes.ResourceExhausted:
			later++
		}
	}
	if served < 3500 || served+later != len(req.Digests) {
		t.Errorf("got %d served and %d put off of %d", served, later, len(req.Digests))
	}
	// The room is used up: not one blob more would fit.
	if n := proto.Size(got); n > maxMessage || n < maxMessage-size-16 {
		t.Errorf("answer: got %d bytes, want at most %d, and less than a blob less", n, maxMessage)
	}
}

// TestBatchTooManyItems checks that what can't be answered in one message is refused before any work.
func TestBatchTooManyItems(t *testing.T) {
	r := newRig(t)
	update, read := new(repb.BatchUpdateBlobsRequest), new(repb.BatchReadBlobsRequest)
	for range 60000 {
		update.Requests = append(update.Requests, &repb.BatchUpdateBlobsRequest_Request{Digest: onWire(digest.SHA256.Empty())})
		read.Digests = append(read.Digests, onWire(digest.SHA256.Empty()))
	}
	_, err := r.cas.BatchUpdateBlobs(r.ctx, update)
	wantStatus(t, err, codes.InvalidArgument, "requests: 60000 items")
	_, err = r.cas.BatchReadBlobs(r.ctx, read)
	wantStatus(t, err, codes.InvalidArgument, "digests: 60000 items")
	// As many failures as are allowed must fit as well.
	for _, item := range update.Requests {
		item.Digest = &repb.Digest{Hash: "x", SizeBytes: 0}
	}
	update.Requests = update.Requests[:45000]
	got, err := r.cas.BatchUpdateBlobs(r.ctx, update)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range got.GetResponses() {
		if item.GetStatus().GetCode() != int32(codes.InvalidArgument) {
			t.Fatalf("got %v, want INVALID_ARGUMENT", item.GetStatus())
		}
	}
}
