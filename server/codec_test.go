package server

import (
	"bytes"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
)

// received cuts data into the pieces in which a message may come.
func received(data []byte, piece int) mem.BufferSlice {
	var s mem.BufferSlice
	for len(data) > 0 {
		n := min(piece, len(data))
		s = append(s, mem.SliceBuffer(data[:n:n]))
		data = data[n:]
	}
	return s
}

// TestCodec checks that messages of all sizes come out as they went in, and that the memory which
// they used serves the next without leaving a trace.
func TestCodec(t *testing.T) {
	c := newCodec()
	for i, size := range []int{0, 1, 1000, 1 << 10, 5000, 1 << 20, 3<<20 + 1, 100, 5 << 20} {
		want := &repb.BatchUpdateBlobsRequest{
			InstanceName: "i",
			Requests:     []*repb.BatchUpdateBlobsRequest_Request{{Data: pattern(size, uint64(i)+1)}},
		}
		encoded, err := c.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		generated, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encoded.Materialize(), generated) {
			t.Errorf("%d bytes: the codec's encoding differs from the generated code's", size)
		}
		got := new(repb.BatchUpdateBlobsRequest)
		if err := c.Unmarshal(received(encoded.Materialize(), 16<<10), got); err != nil {
			t.Fatal(err)
		}
		encoded.Free()
		if !proto.Equal(got, want) {
			t.Errorf("%d bytes: another message came back", size)
		}
	}
}

// FuzzWriteRequest checks that the twin of a WriteRequest reads what the generated code does.
func FuzzWriteRequest(f *testing.F) {
	seed := func(m *bytestream.WriteRequest) {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, 3)
	}
	seed(&bytestream.WriteRequest{ResourceName: "uploads/u/blobs/h/3", WriteOffset: 7, Data: []byte("abc")})
	seed(&bytestream.WriteRequest{WriteOffset: -1, FinishWrite: true})
	f.Add([]byte{0x52, 0x03, 'a'}, 1) // shorter than it says
	f.Add([]byte{0x52, 0x01, 'a', 0x52, 0x00}, 1)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		want, got := new(bytestream.WriteRequest), new(writeRequest)
		wantErr := proto.Unmarshal(data, want)
		err := newCodec().Unmarshal(received(data, max(piece, 1)), got)
		defer got.free()
		if err != nil && wantErr == nil {
			t.Fatalf("refused %x: %v", data, err)
		}
		// The generated code also refuses names that are not UTF-8, which no parser of names takes.
		if wantErr != nil {
			return
		}
		if got.resourceName != want.ResourceName || got.writeOffset != want.WriteOffset || got.finishWrite != want.FinishWrite || !bytes.Equal(got.data, want.Data) {
			t.Errorf("%x: got %q %d %v %x, want %v", data, got.resourceName, got.writeOffset, got.finishWrite, got.data, want)
		}
	})
}

// FuzzFindMissingRequest checks that the twin of a FindMissingBlobsRequest reads what the generated
// code does.
func FuzzFindMissingRequest(f *testing.F) {
	seed, err := proto.Marshal(&repb.FindMissingBlobsRequest{
		InstanceName:   "i",
		BlobDigests:    []*repb.Digest{wireOf([]byte("a")), wireOf([]byte("b")), wireOf([]byte("a")), wireOf(nil)},
		DigestFunction: repb.DigestFunction_SHA256,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, 20)
	f.Add(append(seed, 0x12, 0x02, 0x0a, 0x00), 1)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		want, got := new(repb.FindMissingBlobsRequest), new(findMissingRequest)
		wantErr := proto.Unmarshal(data, want)
		err := newCodec().Unmarshal(received(data, max(piece, 1)), got)
		if err != nil && wantErr == nil {
			t.Fatalf("refused %x: %v", data, err)
		}
		if wantErr != nil || err != nil || got.err != nil {
			return
		}
		var set digest.Set
		for _, p := range want.BlobDigests {
			function, err := functionOf(want.DigestFunction)
			if err != nil {
				t.Fatalf("%x: took the function %v", data, want.DigestFunction)
			}
			d, wrong := parseDigest(function, p.GetHash(), p.GetSizeBytes())
			if wrong != nil {
				t.Fatalf("%x: took the digest %v", data, p)
			}
			set.Add(d)
		}
		if got.instance != want.InstanceName || got.digests.Len() != set.Len() {
			t.Fatalf("%x: got %d digests in %q, want %d in %q", data, got.digests.Len(), got.instance, set.Len(), want.InstanceName)
		}
		for i, d := range got.digests.List() {
			if d != set.List()[i] {
				t.Errorf("%x: digest %d: got %v, want %v", data, i, d, set.List()[i])
			}
		}
	})
}
