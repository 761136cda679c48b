package server

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

func TestRead(t *testing.T) {
	r := newRig(t)
	large := pattern(5<<20+17, 1)
	small := []byte("hello world")
	n := int64(len(large))
	for _, f := range digest.Functions {
		r.put(f, large)
		r.put(f, small)
		for _, tt := range []struct {
			name          string
			data          []byte
			offset, limit int64
			want          []byte
		}{
			{"whole", large, 0, 0, large},
			{"small", small, 0, 0, small},
			{"from an offset", large, 1234567, 0, large[1234567:]},
			{"with a limit", large, 0, 1<<20 + 1, large[:1<<20+1]},
			{"with both", small, 6, 3, small[6:9]},
			{"a limit beyond the end", small, 6, 1 << 40, small[6:]},
			{"from the last byte", large, n - 1, 0, large[n-1:]},
			{"from the end", large, n, 0, nil},
			{"from the end with a limit", large, n, 5, nil},
			{"empty", nil, 0, 0, nil},
		} {
			for _, instance := range []string{"", "a/b"} {
				got, err := r.download(resource{instance: instance, digest: f.Of(tt.data)}.String(), tt.offset, tt.limit)
				if err != nil || !bytes.Equal(got, tt.want) {
					t.Errorf("%v %s: got %d bytes, %v, want %d", f, tt.name, len(got), err, len(tt.want))
				}
			}
		}
	}
}

// TestReadChunks checks that no message is larger than a client takes, nor tiny.
func TestReadChunks(t *testing.T) {
	r := newRig(t)
	data := pattern(3<<20, 1)
	r.put(digest.SHA256, data)
	stream, err := r.bs.Read(r.ctx, &bytestream.ReadRequest{ResourceName: resource{digest: digest.SHA256.Of(data)}.String()})
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(m.GetData()))
	}
	if got, want := fmt.Sprint(sizes), fmt.Sprint([]int{chunkSize, chunkSize, chunkSize}); got != want {
		t.Errorf("chunks: got %s, want %s", got, want)
	}
}

func TestReadCompressed(t *testing.T) {
	r := newRig(t)
	text := bytes.Repeat([]byte("compresses well "), 200000)
	noise := pattern(3<<20, 1)
	for _, f := range digest.Functions {
		for _, data := range [][]byte{text, noise, []byte("x"), nil} {
			r.put(f, data)
			size := int64(len(data))
			for _, offset := range []int64{0, size / 2, size} {
				name := resource{instance: "i", compressed: true, digest: f.Of(data)}.String()
				packed, err := r.download(name, offset, 0)
				if err != nil {
					t.Fatal(err)
				}
				if len(packed) == 0 {
					t.Errorf("%d bytes from %d: got nothing, want a frame", size, offset)
				}
				got, err := zstd.Decode(packed, size-offset)
				if err != nil || !bytes.Equal(got, data[offset:]) {
					t.Errorf("%d bytes from %d: got %d, %v", size, offset, len(got), err)
				}
			}
		}
	}
}

func TestReadErrors(t *testing.T) {
	r := newRig(t)
	data := []byte("hello world")
	r.put(digest.SHA256, data)
	d := digest.SHA256.Of(data)
	plain, packed := resource{digest: d}.String(), resource{compressed: true, digest: d}.String()
	absent := resource{digest: digest.SHA256.Of([]byte("absent"))}.String()
	otherSize := resource{digest: digest.Digest{Function: d.Function, Hash: d.Hash, Size: 12}}.String()
	for _, tt := range []struct {
		name          string
		resource      string
		offset, limit int64
		want          codes.Code
		text          string
	}{
		{"absent", absent, 0, 0, codes.NotFound, "resource_name: blob " + strings.TrimPrefix(absent, "blobs/") + " is not here"},
		{"another size", otherSize, 0, 0, codes.NotFound, "resource_name: blob " + strings.TrimPrefix(otherSize, "blobs/") + " is not here"},
		{"offset beyond the end", plain, 12, 0, codes.OutOfRange, "read_offset: 12"},
		{"negative offset", plain, -1, 0, codes.OutOfRange, "read_offset: -1"},
		{"negative limit", plain, 0, -1, codes.InvalidArgument, "read_limit: -1"},
		{"offset beyond the end, compressed", packed, 12, 0, codes.OutOfRange, "read_offset: 12"},
		{"limit, compressed", packed, 0, 5, codes.InvalidArgument, "read_limit: 5"},
		{"no name", "", 0, 0, codes.InvalidArgument, "resource_name: "},
		{"name of an upload", resource{upload: "u", digest: d}.String(), 0, 0, codes.InvalidArgument, "resource_name: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.download(tt.resource, tt.offset, tt.limit)
			wantStatus(t, err, tt.want, tt.text)
		})
	}
}

func TestWrite(t *testing.T) {
	for _, f := range digest.Functions {
		r := newRig(t)
		for _, tt := range []struct {
			name       string
			size, step int
			instance   string
			metadata   string
		}{
			{"one byte", 1, 10, "", ""},
			{"one message", 1000, 1000, "", ""},
			{"several messages", 1000, 300, "i", ""},
			{"with an instance of several segments and metadata", 1001, 500, "a/b", "some/file.txt"},
			{"large", 20 << 20, 1 << 20, "", ""},
		} {
			data := pattern(tt.size, 5)
			d := f.Of(data)
			name := resource{instance: tt.instance, upload: "6d3a0c5e-2b1f-4a57-9d0e-0c7a1f2b3c4d", digest: d, metadata: tt.metadata}.String()
			got, err := r.write(name, data, tt.step)
			if err != nil || got != int64(tt.size) {
				t.Errorf("%v %s: got %d, %v, want %d", f, tt.name, got, err, tt.size)
			}
			if back, err := r.download(resource{digest: d}.String(), 0, 0); err != nil || !bytes.Equal(back, data) {
				t.Errorf("%v %s: got %d bytes back, %v", f, tt.name, len(back), err)
			}
		}
	}
}

func TestWriteCompressed(t *testing.T) {
	for _, f := range digest.Functions {
		r := newRig(t)
		for _, tt := range []struct {
			name string
			data []byte
			step int
		}{
			{"one message", []byte("x"), 1000},
			{"several messages", bytes.Repeat([]byte("compresses well "), 100000), 100},
			{"incompressible", pattern(9<<20, 1), 1 << 20},
		} {
			d := f.Of(tt.data)
			packed := zstd.Encode(tt.data)
			got, err := r.write(resource{upload: "u", compressed: true, digest: d}.String(), packed, tt.step)
			// Bazel takes the number of compressed bytes, or -1, for success.
			if err != nil || got != int64(len(packed)) {
				t.Errorf("%v %s: got %d, %v, want %d", f, tt.name, got, err, len(packed))
			}
			if back, err := r.download(resource{digest: d}.String(), 0, 0); err != nil || !bytes.Equal(back, tt.data) {
				t.Errorf("%v %s: got %d bytes back, %v", f, tt.name, len(back), err)
			}
		}
	}
}

// TestWriteEarly checks that a present blob is answered after the first message, while the client is
// still sending.
func TestWriteEarly(t *testing.T) {
	r := newRig(t)
	data := pattern(1000, 1)
	r.put(digest.SHA256, data)
	for _, tt := range []struct {
		name string
		res  resource
		want int64
	}{
		{"plain", resource{upload: "u", digest: digest.SHA256.Of(data)}, 1000},
		{"compressed", resource{upload: "u", compressed: true, digest: digest.SHA256.Of(data)}, -1},
		{"empty", resource{upload: "u", digest: digest.SHA256.Empty()}, 0},
		{"empty, BLAKE3", resource{instance: "i", upload: "u", digest: digest.BLAKE3.Empty()}, 0},
		{"empty, compressed", resource{upload: "u", compressed: true, digest: digest.SHA256.Empty()}, -1},
	} {
		stream, err := r.bs.Write(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&bytestream.WriteRequest{ResourceName: tt.res.String()}); err != nil {
			t.Fatal(err)
		}
		// The stream isn't closed on this side: the answer must not wait for that.
		got := new(bytestream.WriteResponse)
		if err := stream.RecvMsg(got); err != nil || got.GetCommittedSize() != tt.want {
			t.Errorf("%s: got %v, %v, want %d", tt.name, got, err, tt.want)
		}
	}
}

// TestWriteEarlyInTheMiddle checks that an upload ends when another client has finished the same blob.
func TestWriteEarlyInTheMiddle(t *testing.T) {
	data := pattern(2*recheckEvery, 1)
	d := digest.SHA256.Of(data)
	for _, tt := range []struct {
		res  resource
		data []byte
		want int64
	}{
		{resource{upload: "u", digest: d}, data, d.Size},
		{resource{upload: "u", compressed: true, digest: d}, zstd.Encode(data), -1},
	} {
		r := newRig(t)
		stream, err := r.bs.Write(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&bytestream.WriteRequest{ResourceName: tt.res.String(), Data: tt.data[:100]}); err != nil {
			t.Fatal(err)
		}
		r.until("the first message has arrived", func() bool { return r.received() >= 100 })
		r.put(digest.SHA256, data)
		for offset, n := 100, 1<<20; offset < len(tt.data)-n; offset += n {
			if stream.Send(&bytestream.WriteRequest{WriteOffset: int64(offset), Data: tt.data[offset : offset+n]}) != nil {
				break
			}
		}
		got := new(bytestream.WriteResponse)
		if err := stream.RecvMsg(got); err != nil || got.GetCommittedSize() != tt.want {
			t.Errorf("%s: got %v, %v, want %d", tt.res, got, err, tt.want)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBlobSize = 1 << 20 })
	data := pattern(1000, 1)
	d := digest.SHA256.Of(data)
	name := resource{upload: "u", digest: d}.String()
	packed := resource{upload: "u", compressed: true, digest: d}.String()
	tooLarge := resource{upload: "u", digest: digest.Digest{Function: digest.SHA256, Hash: d.Hash, Size: 1<<20 + 1}}.String()
	frame, otherFrame := zstd.Encode(data), zstd.Encode(data[:999])
	longer := zstd.Encode(append(bytes.Clone(data), 'x'))
	wrong := bytes.Clone(data)
	wrong[999] ^= 1
	type m = bytestream.WriteRequest
	for _, tt := range []struct {
		name     string
		messages []*m
		want     codes.Code
		text     []string
	}{
		{"no message", nil, codes.InvalidArgument, []string{"before its first message"}},
		{"no name", []*m{{Data: data, FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: missing"}},
		{"malformed name", []*m{{ResourceName: "blobs/" + hash1 + "/11"}}, codes.InvalidArgument, []string{"resource_name: "}},
		{"name changes", []*m{{ResourceName: name, Data: data[:10]}, {ResourceName: packed, WriteOffset: 10, Data: data[10:], FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: "}},
		{"negative offset", []*m{{ResourceName: name, WriteOffset: -1}}, codes.InvalidArgument, []string{"write_offset: -1"}},
		{"offset jumps", []*m{{ResourceName: name, Data: data[:10]}, {WriteOffset: 11, Data: data[11:], FinishWrite: true}}, codes.InvalidArgument, []string{"write_offset: 11", "end at 10"}},
		{"offset stays", []*m{{ResourceName: name, Data: data[:10]}, {WriteOffset: 0, Data: data[10:], FinishWrite: true}}, codes.InvalidArgument, []string{"write_offset: 0", "end at 10"}},
		{"wrong hash in one message", []*m{{ResourceName: name, Data: wrong, FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: ", d.Hex(), digest.SHA256.Of(wrong).Hex()}},
		{"wrong hash", []*m{{ResourceName: name + "/a", Data: wrong[:500]}, {WriteOffset: 500, Data: wrong[500:], FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: ", d.Hex(), digest.SHA256.Of(wrong).Hex()}},
		{"too short", []*m{{ResourceName: name + "/b", Data: data[:500]}, {WriteOffset: 500, Data: data[500:900], FinishWrite: true}}, codes.InvalidArgument, []string{"finish_write: ", "900", "1000"}},
		{"too short in one message", []*m{{ResourceName: name + "/c", Data: data[:900], FinishWrite: true}}, codes.InvalidArgument, []string{"finish_write: ", "900", "1000"}},
		{"too long", []*m{{ResourceName: name + "/d", Data: data}, {WriteOffset: 1000, Data: []byte("more"), FinishWrite: true}}, codes.InvalidArgument, []string{"1004", "1000"}},
		{"larger than max_cas_blob_size_bytes", []*m{{ResourceName: tooLarge, Data: data}}, codes.InvalidArgument, []string{"max_cas_blob_size_bytes"}},
		{"offset beyond the blob", []*m{{ResourceName: name + "/f", WriteOffset: 1001, Data: data, FinishWrite: true}}, codes.InvalidArgument, []string{"write_offset: 1001", "1000 bytes"}},
		{"gap", []*m{{ResourceName: name + "/e", WriteOffset: 10, Data: data[10:], FinishWrite: true}}, codes.Unavailable, []string{"write_offset: 10", "committed size, which is 0"}},
		{"compressed: offset", []*m{{ResourceName: packed, WriteOffset: 10, Data: frame[10:], FinishWrite: true}}, codes.Unavailable, []string{"committed size, which is 0"}},
		{"compressed: not zstd", []*m{{ResourceName: packed, Data: data, FinishWrite: true}}, codes.InvalidArgument, []string{"data: "}},
		{"compressed: cut off", []*m{{ResourceName: packed, Data: frame[:len(frame)-3], FinishWrite: true}}, codes.InvalidArgument, []string{"data: ", "1000 bytes declared"}},
		{"compressed: nothing", []*m{{ResourceName: packed, FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: ", "declared 1000 bytes, got 0"}},
		{"compressed: too short", []*m{{ResourceName: packed, Data: otherFrame, FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: ", "declared 1000 bytes, got 999"}},
		{"compressed: too long", []*m{{ResourceName: packed, Data: longer, FinishWrite: true}}, codes.InvalidArgument, []string{"data: ", "more bytes than declared"}},
		{"compressed: wrong hash", []*m{{ResourceName: packed, Data: zstd.Encode(wrong), FinishWrite: true}}, codes.InvalidArgument, []string{"resource_name: ", d.Hex(), digest.SHA256.Of(wrong).Hex()}},
		{"compressed: offset jumps", []*m{{ResourceName: packed, Data: frame[:10]}, {WriteOffset: 11, Data: frame[10:], FinishWrite: true}}, codes.InvalidArgument, []string{"write_offset: 11", "end at 10"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream, err := r.bs.Write(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, message := range tt.messages {
				if stream.Send(message) != nil {
					break
				}
			}
			_, err = stream.CloseAndRecv()
			wantStatus(t, err, tt.want, tt.text...)
			if r.holds(d) {
				t.Error("the blob is visible")
			}
		})
	}
}

// TestWriteCompressedEndless checks that input which decompresses to nothing is not read to its end.
func TestWriteCompressedEndless(t *testing.T) {
	r := newRig(t)
	frame := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0xf8, 0x0f, 0, 0}, make([]byte, 4088)...) // skippable
	endless := bytes.Repeat(frame, 64<<20/len(frame))
	name := resource{upload: "u", compressed: true, digest: digest.SHA256.Of([]byte("ten bytes."))}.String()
	_, err := r.write(name, endless, 64<<10)
	wantStatus(t, err, codes.InvalidArgument, "data: ", "10 bytes declared, 0 came out")
	if got, most := r.received(), 1<<20; got > float64(most) {
		t.Errorf("got %.0f bytes received, want at most %d", got, most)
	}
}

// TestWriteWithoutFinish checks what a stream gets that ends without finish_write.
func TestWriteWithoutFinish(t *testing.T) {
	data := pattern(1000, 1)
	d := digest.SHA256.Of(data)
	packed := zstd.Encode(data)
	for _, tt := range []struct {
		name      string
		res       resource
		data      []byte
		committed int64
		complete  bool
	}{
		{"a part", resource{upload: "u", digest: d}, data[:400], 400, false},
		// To answer 1000 is to say that the blob is there, so it must be.
		{"all of it", resource{upload: "u", digest: d}, data, 1000, true},
		{"a part, compressed", resource{upload: "u", compressed: true, digest: d}, packed[:400], 0, false},
		{"nothing, compressed", resource{upload: "u", compressed: true, digest: d}, nil, 0, false},
		{"all of it, compressed", resource{upload: "u", compressed: true, digest: d}, packed, int64(len(packed)), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			stream, err := r.bs.Write(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&bytestream.WriteRequest{ResourceName: tt.res.String(), Data: tt.data}); err != nil {
				t.Fatal(err)
			}
			got, err := stream.CloseAndRecv()
			if err != nil || got.GetCommittedSize() != tt.committed {
				t.Errorf("got %v, %v, want %d", got, err, tt.committed)
			}
			if r.holds(d) != tt.complete {
				t.Errorf("visible: got %v, want %v", r.holds(d), tt.complete)
			}
		})
	}
}

func TestQueryWriteStatus(t *testing.T) {
	r := newRig(t)
	present := pattern(1000, 1)
	r.put(digest.SHA256, present)
	partial := r.broken("p", pattern(1000, 2), 300)
	for _, tt := range []struct {
		name      string
		resource  string
		committed int64
		complete  bool
	}{
		{"unknown", resource{upload: "x", digest: digest.SHA256.Of(pattern(1000, 3))}.String(), 0, false},
		{"unknown, compressed", resource{upload: "x", compressed: true, digest: digest.SHA256.Of(pattern(1000, 3))}.String(), 0, false},
		{"present", resource{upload: "x", digest: digest.SHA256.Of(present)}.String(), 1000, true},
		{"present, compressed", resource{instance: "i", upload: "x", compressed: true, digest: digest.SHA256.Of(present)}.String(), 1000, true},
		{"empty", resource{upload: "x", digest: digest.SHA256.Empty()}.String(), 0, true},
		{"partial", partial, 300, false},
		{"partial under another name", "i/" + partial, 0, false},
	} {
		got, err := r.bs.QueryWriteStatus(r.ctx, &bytestream.QueryWriteStatusRequest{ResourceName: tt.resource})
		if err != nil || got.GetCommittedSize() != tt.committed || got.GetComplete() != tt.complete {
			t.Errorf("%s: got %v, %v, want %d, %v", tt.name, got, err, tt.committed, tt.complete)
		}
	}
	_, err := r.bs.QueryWriteStatus(r.ctx, &bytestream.QueryWriteStatusRequest{ResourceName: "blobs/" + hash1 + "/11"})
	wantStatus(t, err, codes.InvalidArgument, "resource_name: ")
}
