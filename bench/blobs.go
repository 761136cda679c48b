package bench

import (
	"context"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	methodFindMissing = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs"
	methodBatchUpdate = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs"
	methodBatchRead   = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs"

	digestsPerRequest = 1000
	blobsPerBatch     = 100

	// Different FindMissingBlobs requests, which are sent in turn: together they name all the small
	// blobs that batch-update writes.
	findMissingRequests = 40

	// Different BatchReadBlobs requests, for the same blobs.
	batchReadRequests = 400
)

func (s *session) findMissingRequest(ds []digest.Digest) *message {
	request := &repb.FindMissingBlobsRequest{InstanceName: s.instance, DigestFunction: repb.DigestFunction_SHA256}
	for _, d := range ds {
		request.BlobDigests = append(request.BlobDigests, wire(d))
	}
	return encoded(encode(request))
}

// findMissing asks for 1,000 digests, of which the given number are absent.
func findMissing(absent int) func(context.Context, *session, int) (call, error) {
	return func(ctx context.Context, s *session, n int) (call, error) {
		kinds := s.scaled(n, findMissingRequests)
		var present []payload
		if here := digestsPerRequest - absent; here > 0 {
			var err error
			if present, err = s.present(ctx, kinds*here, 4*kib); err != nil {
				return nil, err
			}
		}
		requests := make([]*message, kinds)
		want := make([]map[string]int, kinds)
		for k := range requests {
			ds := s.absent(absent)
			want[k] = make(map[string]int, absent)
			for i, d := range ds {
				want[k][d.Hex()] = i
			}
			for i := range digestsPerRequest - absent {
				ds = append(ds, present[(k*(digestsPerRequest-absent)+i)%len(present)].digest)
			}
			// Present and absent ones mixed, as in a build.
			for i := range ds {
				j := int(s.random.Uint64() % uint64(i+1))
				ds[i], ds[j] = ds[j], ds[i]
			}
			requests[k] = s.findMissingRequest(ds)
		}
		return func(ctx context.Context, w *worker, i int) (load, error) {
			k := i % kinds
			if err := w.conn.Invoke(ctx, methodFindMissing, requests[k], &w.answer); err != nil {
				return load{}, err
			}
			return load{items: digestsPerRequest}, checkMissing(w.answer.buffer, want[k])
		}, nil
	}
}

// checkMissing checks that an encoded FindMissingBlobsResponse names exactly the hashes of want, each
// once. Their values number them.
func checkMissing(answer []byte, want map[string]int) error {
	seen, n := make([]bool, len(want)), 0
	err := eachField(answer, func(number protowire.Number, value []byte, _ uint64) error {
		if number != 2 {
			return nil
		}
		hash, err := hashOf(value)
		if err != nil {
			return err
		}
		i, ok := want[string(hash)]
		if !ok {
			return fmt.Errorf("%q was called missing and is present", hash)
		}
		if seen[i] {
			return fmt.Errorf("%s was called missing twice", hash)
		}
		seen[i] = true
		n++
		return nil
	})
	if err == nil && n != len(want) {
		err = fmt.Errorf("%d digests were called missing, want %d", n, len(want))
	}
	return err
}

// A batch is an encoded request and the blobs that it is about.
type batch struct {
	request *message
	blobs   []payload
}

// batchUpdateRequest encodes a BatchUpdateBlobsRequest whose data are the blobs' own bytes, uncopied.
func (s *session) batchUpdateRequest(list []payload) batch {
	parts := [][]byte{encode(&repb.BatchUpdateBlobsRequest{InstanceName: s.instance, DigestFunction: repb.DigestFunction_SHA256})}
	for i := range list {
		p := &list[i]
		// A BatchUpdateBlobsRequest.Request: the digest is field 1, the data field 2.
		d := encode(wire(p.digest))
		inner := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), d)
		inner = protowire.AppendTag(inner, 2, protowire.BytesType)
		inner = protowire.AppendVarint(inner, uint64(p.digest.Size))
		outer := protowire.AppendTag(nil, 2, protowire.BytesType)
		outer = protowire.AppendVarint(outer, uint64(len(inner))+uint64(p.digest.Size))
		parts = append(parts, append(outer, inner...), p.head)
		if len(p.tail) > 0 {
			parts = append(parts, p.tail)
		}
	}
	return batch{encoded(parts...), list}
}

func (w *worker) updateBatch(ctx context.Context, b batch) (load, error) {
	if err := w.conn.Invoke(ctx, methodBatchUpdate, b.request, &w.answer); err != nil {
		return load{}, err
	}
	answers := 0
	err := eachField(w.answer.buffer, func(number protowire.Number, value []byte, _ uint64) error {
		if number != 1 {
			return nil
		}
		answers++
		return eachField(value, func(number protowire.Number, value []byte, _ uint64) error {
			if number != 2 {
				return nil
			}
			return statusOf(value)
		})
	})
	if err == nil && answers != len(b.blobs) {
		err = fmt.Errorf("%d of %d blobs were answered", answers, len(b.blobs))
	}
	return b.load(), err
}

func (b batch) load() load {
	l := load{items: int64(len(b.blobs))}
	for i := range b.blobs {
		l.bytes += b.blobs[i].digest.Size
	}
	return l
}

func batchUpdate(_ context.Context, s *session, n int) (call, error) {
	blobs := s.fresh(n*blobsPerBatch, 4*kib)
	batches := make([]batch, n)
	for i := range batches {
		batches[i] = s.batchUpdateRequest(blobs[i*blobsPerBatch : (i+1)*blobsPerBatch])
	}
	return func(ctx context.Context, w *worker, i int) (load, error) {
		return w.updateBatch(ctx, batches[i])
	}, nil
}

func batchRead(ctx context.Context, s *session, n int) (call, error) {
	kinds := s.scaled(n, batchReadRequests)
	blobs, err := s.present(ctx, kinds*blobsPerBatch, 4*kib)
	if err != nil {
		return nil, err
	}
	batches := make([]batch, kinds)
	for k := range batches {
		part := blobs[k*blobsPerBatch : (k+1)*blobsPerBatch]
		request := &repb.BatchReadBlobsRequest{InstanceName: s.instance, DigestFunction: repb.DigestFunction_SHA256}
		for i := range part {
			request.Digests = append(request.Digests, wire(part[i].digest))
		}
		batches[k] = batch{encoded(encode(request)), part}
	}
	return func(ctx context.Context, w *worker, i int) (load, error) {
		b := batches[i%kinds]
		if err := w.conn.Invoke(ctx, methodBatchRead, b.request, &w.answer); err != nil {
			return load{}, err
		}
		return b.load(), b.checkRead(w.answer.buffer)
	}, nil
}

// checkRead compares an encoded BatchReadBlobsResponse with the blobs. Servers mostly answer in the
// order of the request, but need not.
func (b batch) checkRead(answer []byte) error {
	seen, n := make([]bool, len(b.blobs)), 0
	err := eachField(answer, func(number protowire.Number, value []byte, _ uint64) error {
		if number != 1 {
			return nil
		}
		var hash, data []byte
		err := eachField(value, func(number protowire.Number, value []byte, _ uint64) (err error) {
			switch number {
			case 1:
				hash, err = hashOf(value)
			case 2:
				data = value
			case 3:
				err = statusOf(value)
			}
			return err
		})
		if err != nil {
			return err
		}
		i := b.find(n, hash)
		if i < 0 || seen[i] {
			return fmt.Errorf("%q was answered and not asked for, or twice", hash)
		}
		if p := &b.blobs[i]; int64(len(data)) != p.digest.Size || !p.equal(0, data) {
			return fmt.Errorf("wrong bytes for %s", hash)
		}
		seen[i] = true
		n++
		return nil
	})
	if err == nil && n != len(b.blobs) {
		err = fmt.Errorf("%d of %d blobs were answered", n, len(b.blobs))
	}
	return err
}

// find returns which blob has the hash, likely the one at guess, or -1.
func (b batch) find(guess int, hash []byte) int {
	if guess < len(b.blobs) && b.blobs[guess].hex == string(hash) {
		return guess
	}
	for i := range b.blobs {
		if b.blobs[i].hex == string(hash) {
			return i
		}
	}
	return -1
}
