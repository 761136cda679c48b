// Package mapping knows of which chunks large blobs consist: it splits blobs, splices chunks, and keeps as a record
// what it found, so that the next split of a blob is a look-up.
//
// The reference is the comments of GetChunkMapping and RegisterChunkMapping in remote_execution.proto.
//
// # Invariants
//
//   - A mapping's chunks in their order are the blob's bytes: it was made by cutting the blob, or the chunks
//     hashed to its digest.
//   - Complete: no mapping is given out unless the blob and all of its chunks could be leased in one pass.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. Of one blob, one is split or spliced at a time, and whoever
// waits finds the mapping; if the first fails, the next one tries. A mapping that is complete is never replaced.
//
// # Crashes
//
// A mapping is written after the chunks, and the blob, that it names are durable (blob.Records.Put).
package mapping

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/chunk"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/turns"
)

// MaxChunks is how many chunks a mapping may have, so that it fits a record: with the recommended average, those of
// 50 GB.
const MaxChunks = 100_000

const (
	// maxBusy is how many blobs are split or spliced at once. Each takes a few megabytes of memory, and a core.
	maxBusy = 4
	// flushAt is how many bytes of chunks are stored in one round trip.
	flushAt = 4 << 20
)

// A Function says how a mapping's chunks were cut. The numbers are those of the API, and are stored.
type Function byte

// The functions.
const (
	Unknown     Function = 0
	FastCDC2020 Function = 1
)

// A Mapping is a blob as the sequence of its chunks.
type Mapping struct {
	Function Function
	Chunks   []digest.Digest // of the blob's digest function
}

// An Index maps blobs to their chunks.
type Index struct {
	store   blob.Batcher
	records blob.Records
	closure *action.Cache
	cutter  *chunk.Cutter
	busy    chan struct{}           // holds one for each blob that is split or spliced
	turns   turns.By[digest.Digest] // to split or splice a blob
}

// New returns the index of the mappings in records, whose blobs are in store. cutter cuts what nobody has cut yet.
func New(store blob.Store, records blob.Records, cutter *chunk.Cutter) *Index {
	return &Index{
		store: blob.Batches(store), records: records, closure: action.New(store, records), cutter: cutter,
		busy: make(chan struct{}, maxBusy),
	}
}

// Cutter returns what cuts blobs here.
func (x *Index) Cutter() *chunk.Cutter { return x.cutter }

// Split returns the chunks of d, all of which are stored, and leases them and d. A blob of at most the cutter's
// longest chunk is a chunk itself. It returns ErrNotFound if d is absent, or has too many chunks for a mapping.
func (x *Index) Split(ctx context.Context, d digest.Digest) (Mapping, error) {
	if d.Size <= int64(x.cutter.Max()) {
		return x.whole(ctx, d)
	}
	if m, err := x.find(ctx, d); !errors.Is(err, errUnknown) {
		return m, err
	}
	if d.Size/int64(x.cutter.Average()) > MaxChunks {
		return Mapping{}, fmt.Errorf("%w: no chunks of %s are known, and it is too large to be split here", blob.ErrNotFound, d)
	}
	done, err := x.take(ctx, d)
	if err != nil {
		return Mapping{}, err
	}
	defer done()
	// Whoever had the turn before may have found them.
	if m, err := x.find(ctx, d); !errors.Is(err, errUnknown) {
		return m, err
	}
	m := Mapping{Function: FastCDC2020}
	if m.Chunks, err = x.cut(ctx, d); err != nil {
		return Mapping{}, err
	}
	err = x.closure.Hold(ctx, m.names(d), func() error { return x.put(ctx, d, m) })
	if errors.As(err, new(*blob.MissingError)) { // eviction was faster than we
		err = fmt.Errorf("%w: %s or a chunk of it is gone", blob.ErrNotFound, d)
	}
	return m, err
}

// whole returns d as its only chunk.
func (x *Index) whole(ctx context.Context, d digest.Digest) (Mapping, error) {
	missing, err := x.store.Missing(ctx, digest.SetOf(d))
	if err != nil {
		return Mapping{}, err
	}
	if missing.Len() > 0 {
		return Mapping{}, notFound(d)
	}
	return Mapping{Function: Unknown, Chunks: []digest.Digest{d}}, nil
}

func notFound(d digest.Digest) error {
	return &blob.Error{Op: "split", Digest: d, Err: blob.ErrNotFound}
}

// errUnknown says that no complete mapping is kept, though the blob may be there.
var errUnknown = errors.New("no chunks are known")

// find returns the mapping that is kept of d, and leases it with all that it names. It returns ErrNotFound if d is
// absent, and errUnknown if the mapping or a chunk is.
func (x *Index) find(ctx context.Context, d digest.Digest) (Mapping, error) {
	m, err := x.get(ctx, d)
	if errors.Is(err, errUnknown) {
		m = Mapping{}
	} else if err != nil {
		return Mapping{}, err
	}
	sim.Point("mapping: record read")
	missing, leaseErr := x.closure.LeaseReferences(ctx, m.names(d))
	switch {
	case leaseErr != nil:
		return Mapping{}, leaseErr
	case missing.Has(d):
		return Mapping{}, notFound(d)
	case err != nil:
		return Mapping{}, err
	case missing.Len() > 0 && !mutant.MappingHole:
		return Mapping{}, errUnknown
	}
	return m, nil
}

// names returns everything that must be there for m to be given out.
func (m Mapping) names(d digest.Digest) action.References {
	return action.References{Function: d.Function, Blobs: append([]digest.Digest{d}, m.Chunks...)}
}

// cut cuts d and stores its chunks.
func (x *Index) cut(ctx context.Context, d digest.Digest) ([]digest.Digest, error) {
	r, err := x.store.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var chunks, batch []digest.Digest
	var data [][]byte
	size, hash := 0, d.Function.NewHash()
	flush := func() error {
		errs := x.store.PutAll(ctx, batch, data)
		batch, data, size = nil, nil, 0
		return errors.Join(errs...)
	}
	for b, err := range x.cutter.Chunks(io.NewSectionReader(r, 0, r.Size())) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if len(chunks) == MaxChunks {
			return nil, fmt.Errorf("%w: %s has more than %d chunks", blob.ErrNotFound, d, MaxChunks)
		}
		hash.Write(b)
		c := d.Function.Of(b)
		chunks, batch, data = append(chunks, c), append(batch, c), append(data, append([]byte(nil), b...))
		if size += len(b); size >= flushAt {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	// What is written down stands for as long as the record does, so a read that went wrong must not get into it.
	got := digest.Digest{Function: d.Function, Size: d.Size}
	if hash.Sum(got.Hash[:0]); got != d && !mutant.MappingUnhashed {
		return nil, &blob.Error{Op: "split", Digest: d, Err: fmt.Errorf("%w: read back as %s", blob.ErrCorrupt, got)}
	}
	return chunks, flush()
}

// Splice makes d of the chunks of m, all of which must be stored, and keeps m as its mapping unless one is kept. All
// are leased then. It returns ErrNotFound if a chunk is absent, ErrMismatch if together they are not d, and ErrInvalid
// for more than MaxChunks.
func (x *Index) Splice(ctx context.Context, d digest.Digest, m Mapping) error {
	if len(m.Chunks) > MaxChunks {
		return fmt.Errorf("%w: %d chunks, at most %d are taken", blob.ErrInvalid, len(m.Chunks), MaxChunks)
	}
	left := d.Size
	for _, c := range m.Chunks {
		if c.Function != d.Function || c.Size > left {
			left = -1
			break
		}
		left -= c.Size
	}
	if left != 0 {
		return &blob.Error{Op: "splice", Digest: d, Err: fmt.Errorf("%w: its %d chunks are not of that many bytes", blob.ErrMismatch, len(m.Chunks))}
	}
	if _, err := x.find(ctx, d); err == nil {
		return nil
	}
	done, err := x.take(ctx, d)
	if err != nil {
		return err
	}
	defer done()
	if _, err := x.find(ctx, d); err == nil {
		return nil
	}
	chunks := action.References{Function: d.Function, Blobs: m.Chunks}
	err = x.closure.Hold(ctx, chunks, func() error {
		if err := x.join(ctx, d, m.Chunks); err != nil {
			return err
		}
		// A blob that is a chunk itself has no use for a mapping.
		if d.Size <= int64(x.cutter.Max()) {
			return nil
		}
		return x.put(ctx, d, m)
	})
	if missing := (*blob.MissingError)(nil); errors.As(err, &missing) {
		return fmt.Errorf("%w: chunk %s of %s", blob.ErrNotFound, missing.Blobs[0], d)
	}
	if err != nil {
		return err
	}
	// The chunks' leases are new; the blob's may be as old as the copying was long.
	missing, err := x.closure.LeaseReferences(ctx, m.names(d))
	if err == nil && missing.Len() > 0 {
		err = fmt.Errorf("%w: %s was evicted at once", blob.ErrAborted, missing.List()[0])
	}
	return err
}

// join stores the bytes of chunks as d. If d is there, they are compared with its hash all the same: nobody is
// believed what a blob consists of.
func (x *Index) join(ctx context.Context, d digest.Digest, chunks []digest.Digest) error {
	missing, err := x.store.Missing(ctx, digest.SetOf(d))
	if err != nil {
		return err
	}
	if missing.Len() > 0 {
		w, err := x.store.Create(ctx, d)
		if err != nil {
			return err
		}
		defer w.Close()
		if err := x.copy(ctx, w, chunks); err != nil {
			return err
		}
		return w.Commit()
	}
	if mutant.MappingBelieved {
		return nil
	}
	hash := d.Function.NewHash()
	if err := x.copy(ctx, hash, chunks); err != nil {
		return err
	}
	got := digest.Digest{Function: d.Function, Size: d.Size}
	if hash.Sum(got.Hash[:0]); got != d {
		return &blob.Error{Op: "splice", Digest: d, Err: blob.Mismatch(d, got)}
	}
	return nil
}

// copy writes the bytes of chunks to w.
func (x *Index) copy(ctx context.Context, w io.Writer, chunks []digest.Digest) error {
	buffer := make([]byte, 1<<20)
	for _, c := range chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := x.store.Open(ctx, c)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(r, 0, r.Size())}, buffer)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// take waits for the turn of d, and for one of the places of all. The caller must call done.
func (x *Index) take(ctx context.Context, d digest.Digest) (done func(), err error) {
	end, err := x.turns.Take(ctx, d)
	if err != nil {
		return nil, err
	}
	select {
	case x.busy <- struct{}{}:
		return func() { <-x.busy; end() }, nil
	case <-ctx.Done():
		end()
		return nil, ctx.Err()
	}
}
