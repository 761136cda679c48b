package segment

import (
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
		// Pinned since Create, but the lease of that time may be over.
		w.ring.ledger.Lease(keyOf(w.want), w.want.Size)
		return w.ring.standing()
	}
	e := w.extent
	w.extent = nil
	return w.ring.publish(e)
}

// Close implements io.Closer.
func (w *writer) Close() error {
	w.done, w.data = true, nil
	if w.extent != nil {
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
	switch r.ledger.Publish(e.key, e.size, e.place(), e.admitted) {
	case ledger.Won:
		e.seg.unref()
		return nil
	case ledger.Lost:
		if mutant.FirstWins {
			r.punchNamed(e.key)
		}
		r.giveBack(e)
		return r.standing()
	default:
		r.giveBack(e)
		if mutant.NoFalseYes {
			return nil
		}
		return e.refusal()
	}
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

// punchNamed is the mistake FirstWins: the loser gives back what the name stands for now, not what it
// wrote itself.
func (r *Ring) punchNamed(k ledger.Key) {
	if rd, err := r.open(k, digest.AnySize); err == nil {
		_ = rd.seg.file.Punch(rd.off, rd.size)
		_ = rd.Close()
	}
}
