package server

import (
	"fmt"
	"io"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"

	"github.com/sarsen-build/sarsen/digest"
)

// The benchmarks run client and server in one process, over loopback and the store in memory, so they
// say what this package and gRPC cost.

func BenchmarkFindMissing(b *testing.B) {
	r := newRig(b)
	req := new(repb.FindMissingBlobsRequest)
	for i := range 1000 {
		data := pattern(10, uint64(i)+1)
		req.BlobDigests = append(req.BlobDigests, wireOf(data))
		if i%2 == 0 {
			r.put(digest.SHA256, data)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.cas.FindMissingBlobs(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 64 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newRig(b)
			data := pattern(size, 1)
			r.put(digest.SHA256, data)
			req := &bytestream.ReadRequest{ResourceName: resource{digest: digest.SHA256.Of(data)}.String()}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				stream, err := r.bs.Read(b.Context(), req)
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = stream.Recv()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBatchRead(b *testing.B) {
	r := newRig(b)
	req := new(repb.BatchReadBlobsRequest)
	for i := range 100 {
		req.Digests = append(req.Digests, r.put(digest.SHA256, pattern(4096, uint64(i)+1)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.cas.BatchReadBlobs(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetTree(b *testing.B) {
	r := newRig(b)
	root := &node{name: "root"}
	for i := range 20 {
		dir := &node{name: fmt.Sprint(i)}
		for j := range 24 {
			dir.children = append(dir.children, &node{name: fmt.Sprint(i, j), padding: 400})
		}
		root.children = append(root.children, dir)
	}
	req := &repb.GetTreeRequest{RootDigest: r.putTree(digest.SHA256, root)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.getTree(req); err != nil {
			b.Fatal(err)
		}
	}
}
