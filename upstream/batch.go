package upstream

import (
	"bytes"
	"context"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A batch is the places in a list of digests of one function that travel in one call, or a single
// blob that travels by itself.
type batch struct {
	places []int
	single bool
}

// plan parts the places of ds into batches that the server takes. Blobs that don't fit into one travel
// by themselves.
func (s *Store) plan(l limits, ds []digest.Digest, places []int) []batch {
	var plan []batch
	open := map[digest.Function]int{}
	room := map[digest.Function]int64{}
	for _, i := range places {
		f, size := ds[i].Function, ds[i].Size+aroundBlob
		if size > l.batch || s.noBatches.Load() {
			plan = append(plan, batch{[]int{i}, true})
			continue
		}
		if size > room[f] {
			open[f], room[f] = len(plan), l.batch
			plan = append(plan, batch{})
		}
		b := &plan[open[f]]
		b.places = append(b.places, i)
		room[f] -= size
	}
	return plan
}

// moveAll runs a plan: whole moves a batch, one a blob by itself. What was not begun fails as ctx did.
func (s *Store) moveAll(ctx context.Context, plan []batch, errs []error, whole func(context.Context, []int), one func(context.Context, int)) {
	begun := make([]bool, len(plan))
	err := s.each(ctx, len(plan), func(ctx context.Context, i int) error {
		begun[i] = true
		if plan[i].single {
			one(ctx, plan[i].places[0])
		} else {
			whole(ctx, plan[i].places)
		}
		return ctx.Err()
	})
	for i, b := range plan {
		for _, place := range b.places {
			if !begun[i] {
				errs[place] = err
			}
		}
	}
}

// alone reports whether what failed in a batch may succeed by itself.
func alone(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.Unimplemented, codes.InvalidArgument:
		return true
	}
	return false
}

// GetAll implements blob.Batcher. Blobs that are too large for a batch take their whole size in memory
// too: the caller bounds what it asks for.
func (s *Store) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	l, err := s.limits(ctx)
	first := make(map[digest.Digest]int, len(ds))
	var places []int
	for i, d := range ds {
		switch wrong := sized("open", d); {
		case wrong != nil:
			errs[i] = wrong
		case d.IsEmpty():
			data[i] = []byte{}
		case err != nil:
			errs[i] = fail("open", d, err, reading)
		default:
			if _, ok := first[d]; !ok {
				first[d] = i
				places = append(places, i)
			}
		}
	}
	one := func(ctx context.Context, i int) { data[i], errs[i] = s.get(ctx, ds[i]) }
	s.moveAll(ctx, s.plan(l, ds, places), errs, func(ctx context.Context, places []int) {
		for _, i := range s.getBatch(ctx, ds, places, data, errs) {
			one(ctx, i)
		}
	}, one)
	for i, d := range ds {
		if j, ok := first[d]; ok {
			data[i], errs[i] = data[j], errs[j]
		}
	}
	return data, errs
}

// get returns the blob whole.
func (s *Store) get(ctx context.Context, d digest.Digest) ([]byte, error) {
	data := make(memory, d.Size)
	if err := s.Copy(ctx, d, data); err != nil {
		return nil, err
	}
	return data, nil
}

// memory is a blob that is being fetched.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// getBatch reads blobs in one call, and returns the places of those that should be tried alone.
func (s *Store) getBatch(ctx context.Context, ds []digest.Digest, places []int, data [][]byte, errs []error) (rest []int) {
	f := ds[places[0]].Function
	request := &repb.BatchReadBlobsRequest{InstanceName: s.instance, DigestFunction: function(f)}
	waiting := make(map[digest.Digest]int, len(places))
	for _, i := range places {
		request.Digests = append(request.Digests, ToProto(ds[i]))
		waiting[ds[i]] = i
	}
	var answer *repb.BatchReadBlobsResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		answer, err = s.cas.BatchReadBlobs(ctx, request, grpc.MaxCallRecvMsgSize(maxReceive))
		return err
	})
	if err != nil {
		return s.batchFailed(err, reading, ds, places, errs)
	}
	for _, r := range answer.Responses {
		d, err := FromProto(f, r.Digest)
		i, ok := waiting[d]
		if err != nil || !ok {
			continue // of no use, and what was asked for is left waiting
		}
		switch code := codes.Code(r.Status.GetCode()); {
		case code != codes.OK && alone(code):
			continue
		case code != codes.OK:
			errs[i] = fail("open", d, status.ErrorProto(r.Status), reading)
		case r.Compressor != repb.Compressor_IDENTITY:
			continue // it was not asked for
		default:
			if got := f.Of(r.Data); got != d && !mutant.BatchBelieved {
				errs[i] = fail("read", d, corrupt(d, got), reading)
				break
			}
			data[i] = r.Data
		}
		delete(waiting, d)
	}
	for _, i := range places {
		if _, ok := waiting[ds[i]]; ok {
			rest = append(rest, i)
		}
	}
	return rest
}

// batchFailed says for each place of a batch whose call failed what becomes of it.
func (s *Store) batchFailed(err error, way direction, ds []digest.Digest, places []int, errs []error) (rest []int) {
	if lacks(err) {
		s.noBatches.Store(true)
	}
	// What could not be reached for so long won't be reached blob by blob either.
	if code := status.Code(err); alone(code) && code != codes.Unavailable && code != codes.Aborted {
		return places
	}
	op := "open"
	if way == writing {
		op = "write"
	}
	for _, i := range places {
		errs[i] = fail(op, ds[i], err, way)
	}
	return nil
}

// PutAll implements blob.Batcher.
func (s *Store) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	l, err := s.limits(ctx)
	first := make(map[digest.Digest]int, len(ds))
	var places, twins, rivals []int
	for i, d := range ds {
		j, twin := first[d]
		switch wrong := l.takes("write", d); {
		case err != nil:
			errs[i] = fail("write", d, err, writing)
		case wrong != nil:
			errs[i] = wrong
		case int64(len(data[i])) != d.Size:
			errs[i] = &blob.Error{Op: "write", Digest: d, Err: blob.Mismatch(d, digest.Digest{Function: d.Function, Size: int64(len(data[i]))})}
		case d.IsEmpty():
		case twin && bytes.Equal(data[i], data[j]):
			twins = append(twins, i)
		case twin:
			rivals = append(rivals, i)
		default:
			first[d] = i
			places = append(places, i)
		}
	}
	one := func(ctx context.Context, i int) { errs[i] = s.put(ctx, ds[i], data[i]) }
	s.moveAll(ctx, s.plan(l, ds, places), errs, func(ctx context.Context, places []int) {
		for _, i := range s.putBatch(ctx, ds, places, data, errs) {
			one(ctx, i)
		}
	}, one)
	for _, i := range twins {
		errs[i] = errs[first[ds[i]]]
	}
	// Other bytes under the same digest: answers in one batch could not be told apart.
	for _, i := range rivals {
		one(ctx, i)
	}
	return errs
}

// takes refuses what the server can never hold.
func (l limits) takes(op string, d digest.Digest) error {
	if err := sized(op, d); err != nil {
		return err
	}
	if l.maxBlob > 0 && d.Size > l.maxBlob {
		return &blob.Error{Op: op, Digest: d, Err: fmt.Errorf("%w: the server takes blobs up to %d bytes", blob.ErrTooLarge, l.maxBlob)}
	}
	return nil
}

// putBatch stores blobs in one call, and returns the places of those that should be tried alone.
func (s *Store) putBatch(ctx context.Context, ds []digest.Digest, places []int, data [][]byte, errs []error) (rest []int) {
	f := ds[places[0]].Function
	request := &repb.BatchUpdateBlobsRequest{InstanceName: s.instance, DigestFunction: function(f)}
	waiting := make(map[digest.Digest]int, len(places))
	for _, i := range places {
		request.Requests = append(request.Requests, &repb.BatchUpdateBlobsRequest_Request{Digest: ToProto(ds[i]), Data: data[i]})
		waiting[ds[i]] = i
	}
	var answer *repb.BatchUpdateBlobsResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		answer, err = s.cas.BatchUpdateBlobs(ctx, request, grpc.MaxCallRecvMsgSize(maxReceive))
		return err
	})
	if err != nil {
		return s.batchFailed(err, writing, ds, places, errs)
	}
	for _, r := range answer.Responses {
		d, err := FromProto(f, r.Digest)
		i, ok := waiting[d]
		if err != nil || !ok {
			continue
		}
		code := codes.Code(r.Status.GetCode())
		if code == codes.Unavailable || code == codes.Aborted {
			continue
		}
		errs[i] = fail("write", d, status.ErrorProto(r.Status), writing)
		delete(waiting, d)
	}
	for _, i := range places {
		if _, ok := waiting[ds[i]]; ok {
			rest = append(rest, i)
		}
	}
	return rest
}

// put stores data as d by itself, and tries again while the server can't be reached.
func (s *Store) put(ctx context.Context, d digest.Digest, data []byte) error {
	err := s.call(ctx, func(ctx context.Context) error { return s.send(ctx, d, data) })
	return fail("write", d, err, writing)
}
