package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	// Blobs over this size differ only in their first headBytes bytes and share the rest, so that a
	// run does not need the memory of all of them.
	maxOwnBytes = 1 << 20
	headBytes   = 64

	kib = 1 << 10
	mib = 1 << 20
)

// A payload is a blob: the bytes of head, then those of tail.
type payload struct {
	digest     digest.Digest
	hex        string
	head, tail []byte
}

func newPayload(head, tail []byte) payload {
	hash := digest.SHA256.NewHash()
	hash.Write(head)
	hash.Write(tail)
	d := digest.Digest{Function: digest.SHA256, Size: int64(len(head) + len(tail))}
	hash.Sum(d.Hash[:0])
	return payload{d, d.Hex(), head, tail}
}

// slice returns the bytes of p from offset, n at most, as up to two pieces.
func (p *payload) slice(offset, n int64) (a, b []byte) {
	n = min(n, p.digest.Size-offset)
	size := int64(len(p.head))
	if offset >= size {
		return p.tail[offset-size : offset-size+n], nil
	}
	if offset+n <= size {
		return p.head[offset : offset+n], nil
	}
	return p.head[offset:], p.tail[:offset+n-size]
}

// A source makes random bytes that can be made again from its seed.
type source struct{ *rand.ChaCha8 }

func newSource(seed uint64) *source {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &source{rand.NewChaCha8(key)}
}

func (r *source) bytes(n int) []byte {
	b := make([]byte, n)
	r.Read(b) // never fails
	return b
}

// fresh makes count blobs of size bytes that no server has, and remembers them for those who read.
func (s *session) fresh(count, size int) []payload {
	s.blobs = nil // the memory of the last ones
	list := make([]payload, count)
	if size > maxOwnBytes {
		tail := s.random.bytes(size - headBytes)
		for i := range list {
			list[i] = newPayload(s.random.bytes(headBytes), tail)
		}
	} else {
		all := s.random.bytes(count * size)
		for i := range list {
			list[i] = newPayload(all[i*size:(i+1)*size:(i+1)*size], nil)
		}
	}
	s.blobs = list
	return list
}

// scaled returns how many different requests a workload of n requests has, full in a full run.
func (s *session) scaled(n, full int) int {
	if s.short {
		full /= 20
	}
	return min(n, full)
}

// present returns blobs of size bytes that are on the server: those that were written last, or count
// new ones.
func (s *session) present(ctx context.Context, count, size int) ([]payload, error) {
	list := s.blobs
	if len(list) < count || list[0].digest.Size != int64(size) {
		list = s.fresh(count, size)
	}
	return list, s.upload(ctx, list)
}

// absent returns digests of blobs that nobody has.
func (s *session) absent(count int) []digest.Digest {
	list := make([]digest.Digest, count)
	for i := range list {
		list[i] = digest.Digest{Function: digest.SHA256, Size: 4 * kib}
		copy(list[i].Hash[:], s.random.bytes(len(list[i].Hash)))
	}
	return list
}

// upload puts the blobs of list that the server lacks.
func (s *session) upload(ctx context.Context, list []payload) error {
	byHash := make(map[string]*payload, len(list))
	var absent []payload
	for lo := 0; lo < len(list); lo += digestsPerRequest {
		part := list[lo:min(lo+digestsPerRequest, len(list))]
		ds := make([]digest.Digest, len(part))
		for i := range part {
			ds[i] = part[i].digest
			byHash[part[i].hex] = &part[i]
		}
		answer := new(repb.FindMissingBlobsResponse)
		if err := s.conns[0].Invoke(ctx, methodFindMissing, s.findMissingRequest(ds), answer); err != nil {
			return err
		}
		for _, d := range answer.MissingBlobDigests {
			p := byHash[d.Hash]
			if p == nil {
				return fmt.Errorf("FindMissingBlobs named %s, which was not asked for", d.Hash)
			}
			absent = append(absent, *p)
		}
	}
	if len(absent) == 0 {
		return nil
	}
	if list[0].digest.Size <= 16*kib {
		err := s.inParallel(ctx, (len(absent)+blobsPerBatch-1)/blobsPerBatch, func(ctx context.Context, w *worker, i int) (load, error) {
			return w.updateBatch(ctx, s.batchUpdateRequest(absent[i*blobsPerBatch:min((i+1)*blobsPerBatch, len(absent))]))
		})
		if !lacks(err) {
			return err
		}
	}
	return s.inParallel(ctx, len(absent), func(ctx context.Context, w *worker, i int) (load, error) {
		return w.write(ctx, s.instance, &absent[i])
	})
}

// inParallel makes n requests outside every clock and returns the first error.
func (s *session) inParallel(ctx context.Context, n int, do call) error {
	workers := s.workers(Workload{concurrency: 8, connections: 1})
	d := &drive{do: do, last: int64(n), limit: prepareLimit}
	d.run(ctx, workers, func(int64) {})
	done := 0
	for _, w := range workers {
		if w.firstErr != nil {
			return w.firstErr
		}
		done += len(w.latencies)
	}
	if done < n {
		return errors.Join(ctx.Err(), fmt.Errorf("laid down %d of %d in %v", done, n, prepareLimit))
	}
	return nil
}

// encode returns m on the wire. Only messages made here come in, which can always be encoded.
func encode(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}
