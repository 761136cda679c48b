package segment

import (
	"context"
	"errors"
	"fmt"
	"hash"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// smallSize is the largest blob that is collected in memory and appended with its neighbours in one
// write. Larger ones stream into an extent of their own.
const smallSize = 256 << 10

var errVictim = fmt.Errorf("%w: its segment is being evicted", blob.ErrAborted)

// A writer takes one blob. A small one waits in data; a large one streams into extent, or, if the
// blob is there already, is only verified.
type writer struct {
	ring    *Ring
	want    digest.Digest
	written int64
	done    bool

	data   []byte
	hash   hash.Hash   // of a large blob, so far
	sums   *summer     // of what went to extent
	extent *extent     // of a large blob; nil once its state is settled
	winner *ledger.Pin // the same blob, present already
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if err := w.write(p); err != nil {
		return 0, &blob.Error{Op: "write", Digest: w.want, Err: err}
	}
	return len(p), nil
}

func (w *writer) write(p []byte) error {
	if w.done {
		return blob.ErrClosed
	}
	if w.written+int64(len(p)) > w.want.Size {
		return fmt.Errorf("%w: more than the declared %d bytes", blob.ErrMismatch, w.want.Size)
	}
	if w.hash == nil {
		w.collect(p)
	} else {
		_, _ = w.hash.Write(p) // hashes never fail
	}
	if w.extent != nil {
		if w.extent.seg.victim.Load() {
			return errVictim // no use in writing more
		}
		if err := w.extent.writeAt(p, w.written); err != nil {
			return err
		}
		w.sums.write(p)
	}
	w.written += int64(len(p))
	return nil
}

func (w *writer) collect(p []byte) {
	if w.data == nil && int64(len(p)) == w.want.Size {
		w.data = make([]byte, 0, len(p))
	}
	w.data = append(w.data, p...)
}

// Commit implements blob.Writer.
func (w *writer) Commit() error {
	if w.done {
		return &blob.Error{Op: "commit", Digest: w.want, Err: blob.ErrClosed}
	}
	w.done = true
	defer w.Close()
	if err := w.commit(); err != nil {
		return &blob.Error{Op: "commit", Digest: w.want, Err: err}
	}
	return nil
}

func (w *writer) commit() error {
	if w.hash == nil {
		// Whatever the digest declares, the bytes decide, so the check comes before any yes.
		return w.ring.putAll([]digest.Digest{w.want}, [][]byte{w.data})[0]
	}
	got := digest.Digest{Function: w.want.Function, Hash: [32]byte(w.hash.Sum(nil)), Size: w.written}
	if got != w.want && !mutant.Immutable {
		return blob.Mismatch(w.want, got)
	}
	if w.winner != nil {
		// Pinned since Create, so it can't have been evicted, but it may have turned out to be damaged.
		ok, due := w.ring.ledger.Lease(keyOf(w.want), w.want.Size)
		if !ok {
			return fmt.Errorf("%w: the blob that was there is damaged", blob.ErrAborted)
		}
		if err := w.ring.writeDownOne(keyOf(w.want), due); err != nil {
			return err
		}
		return w.ring.standing()
	}
	if err := w.extent.writeSums(w.sums.close()); err != nil {
		return err
	}
	if w.ring.durability == Sync {
		if err := w.extent.seg.syncHeld(); err != nil {
			return err
		}
	}
	e := w.extent
	w.extent = nil
	return w.ring.publish(e)
}

// Close implements io.Closer.
func (w *writer) Close() error {
	w.done, w.data = true, nil
	if w.extent != nil {
		if mutant.Poisoned {
			w.ring.forget(w.extent.key)
		}
		w.ring.giveBack(w.extent)
		w.extent = nil
	}
	if w.winner != nil {
		w.winner.Release()
		w.winner = nil
	}
	return nil
}

// publish makes a blob whose bytes are verified and written present, and settles its extent. If
// another writer was first, the bytes are given back and the answer is yes all the same.
func (r *Ring) publish(e *extent) error {
	if mutant.EarlyComplete {
		e.state.Store(uint32(complete))
	}
	sim.Point("publish")
	outcome, due := r.ledger.Publish(e.key, e.size, e.place(), e.admit)
	switch outcome {
	case ledger.Won:
		e.seg.unref()
	case ledger.Lost:
		if mutant.FirstWins {
			r.punchNamed(e.key)
		}
		r.giveBack(e)
	default:
		r.giveBack(e)
		if mutant.NoFalseYes {
			return nil
		}
		return e.refusal()
	}
	if err := r.writeDownOne(e.key, due); err != nil {
		return err
	}
	if outcome == ledger.Lost {
		return r.standing()
	}
	return nil
}

// admit is the ledger's question whether what lies in e may still be published. If e lies in a segment
// that the lease log names, that is a record of the lease.
func (e *extent) admit() (ok, recorded bool) {
	return e.admitted(), !e.moved && e.seg.generation >= e.seg.ring.leases.since.Load()
}

// admitted reports whether what lies in e may still be published, and then it is. Only here does an
// extent become complete, in the section that publishes it: a footer must not vouch for what turns
// out to be abandoned.
func (e *extent) admitted() bool {
	ok := !e.seg.victim.Load() && !e.seg.bad.Load() && !e.seg.ring.closed.Load()
	if ok {
		e.seg.named.Store(true)
		e.state.Store(uint32(complete))
	}
	return ok
}

// standing returns ErrClosed if a yes that was just stamped may have come too late for Close to write
// its lease down. A yes that sees the ring open was stamped before Close looked.
func (r *Ring) standing() error {
	if r.closed.Load() {
		return blob.ErrClosed
	}
	return nil
}

// refusal says why it may not.
func (e *extent) refusal() error {
	switch {
	case e.seg.ring.closed.Load():
		return blob.ErrClosed
	case e.seg.bad.Load():
		return errBadSegment
	}
	return errVictim
}

// giveBack ends an extent that nobody will ever read.
func (r *Ring) giveBack(e *extent) {
	e.abandon()
	if e.seg.own {
		r.removeOwn(e.seg)
	}
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
		if ok, due := r.ledger.Lease(keyOf(d), d.Size); ok {
			if errs[i] = r.writeDownOne(keyOf(d), due); errs[i] == nil {
				errs[i] = r.standing()
			}
			continue
		}
		requests = append(requests, &request{key: keyOf(d), size: d.Size, data: data[i]})
		of = append(of, i)
	}
	for j, err := range r.putRequests(requests) {
		errs[of[j]] = err
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

// putRequests appends and publishes. A small blob that waited while the ring turned round under it is
// appended again: its bytes are here.
func (r *Ring) putRequests(requests []*request) []error {
	errs := make([]error, len(requests))
	todo := make([]int, len(requests))
	for i := range todo {
		todo[i] = i
	}
	for n := 0; len(todo) > 0 && n < attempts; n++ {
		now := make([]*request, len(todo))
		for i, j := range todo {
			requests[j].extent, requests[j].done = nil, false
			now[i] = requests[j]
		}
		_ = r.append(now...) // each request has its own error
		r.syncFor(now)
		again := todo[:0]
		for i, j := range todo {
			if errs[j] = now[i].err; errs[j] == nil {
				errs[j] = r.publish(now[i].extent)
			}
			if errors.Is(errs[j], errVictim) {
				again = append(again, j)
			}
		}
		todo = again
	}
	return errs
}

// syncFor syncs what was appended, if blobs are to be durable before they are acknowledged.
func (r *Ring) syncFor(requests []*request) {
	if r.durability != Sync {
		return
	}
	err := r.sync()
	for _, req := range requests {
		if err != nil && req.err == nil {
			r.giveBack(req.extent)
			req.err = err
		}
	}
}

// punchNamed is the mistake FirstWins: the loser gives back what the name stands for now, not what it
// wrote itself.
func (r *Ring) punchNamed(k ledger.Key) {
	if rd, err := r.open(k, digest.AnySize); err == nil {
		_ = rd.seg.file.Punch(rd.off, rd.size)
		_ = rd.Close()
	}
}
