package segment

import (
	"context"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// GetAll implements blob.Batcher.
func (r *Ring) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	for i, d := range ds {
		if errs[i] = ctx.Err(); errs[i] == nil {
			data[i], errs[i] = blob.Get(ctx, r, d)
		}
	}
	return data, errs
}

// PutAll implements blob.Batcher.
func (r *Ring) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := r.putAll(ds, data)
	for i, err := range errs {
		if err != nil {
			errs[i] = &blob.Error{Op: "put", Digest: ds[i], Err: err}
		}
	}
	return errs
}

// putAll appends what is not there yet in as few writes as there are neighbours.
func (r *Ring) putAll(ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	requests := make([]*request, 0, len(ds))
	of := make([]int, 0, len(ds)) // requests[j] is for ds[of[j]]
	first := make(map[digest.Key]int, len(ds))
	twin := make([]int, len(ds))
	for i, d := range ds {
		twin[i] = i
		if errs[i] = r.mayPut(d, data[i]); errs[i] != nil || d.IsEmpty() {
			continue
		}
		if j, ok := first[d.Key()]; ok {
			twin[i] = j
			continue
		}
		first[d.Key()] = i
		if r.ledger.Lease(keyOf(d), d.Size) {
			errs[i] = r.standing()
			continue
		}
		requests = append(requests, &request{key: keyOf(d), size: d.Size, data: data[i]})
		of = append(of, i)
	}
	if len(requests) > 0 {
		_ = r.append(requests...) // each request has its own error
	}
	for j, req := range requests {
		if errs[of[j]] = req.err; req.err == nil {
			errs[of[j]] = r.publish(req.extent)
		}
	}
	for i, j := range twin {
		if i != j {
			errs[i] = errs[j]
		}
	}
	return errs
}

func (r *Ring) mayPut(d digest.Digest, data []byte) error {
	if err := r.mayCreate(d); err != nil {
		return err
	}
	if got := d.Function.Of(data); got != d && !mutant.Immutable {
		return blob.Mismatch(d, got)
	}
	return nil
}
