package files

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"syscall"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// smallSize is the largest blob that is collected in memory and written with one call, in bytes.
const smallSize = 64 << 10

// A writer takes one blob. A small one waits in data; a large one streams into its private file, or, if
// the blob is there already, is only verified.
type writer struct {
	store   *Store
	want    digest.Digest
	written int64
	done    bool
	room    int64 // bytes that are reserved

	data   []byte
	hash   hash.Hash // of a large blob, so far
	part   *part
	winner *held // the same blob, present already
}

func (s *Store) create(ctx context.Context, d digest.Digest) (*writer, error) {
	if err := s.mayCreate(d); err != nil {
		return nil, err
	}
	w := &writer{store: s, want: d}
	if d.Size > smallSize {
		w.hash = d.Function.NewHash()
	}
	if d.IsEmpty() {
		return w, nil
	}
	if h, ok := s.pin(d, false); ok {
		w.winner = &h // the bytes are still verified, but written nowhere
		return w, nil
	}
	if err := s.reserve(ctx, charge(d.Size)); err != nil {
		return nil, err
	}
	w.room = charge(d.Size)
	if w.hash != nil {
		p, err := s.begin(keyOf(d, false), d.Size)
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		w.part = p
	}
	return w, nil
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
		w.data = append(w.data, p...)
	} else {
		_, _ = w.hash.Write(p) // hashes never fail
	}
	if w.part != nil {
		if _, err := w.part.file.WriteAt(p, w.written); err != nil {
			return full(err)
		}
	}
	w.written += int64(len(p))
	return nil
}

// Commit implements blob.Writer.
func (w *writer) Commit() error {
	if w.done {
		return &blob.Error{Op: "commit", Digest: w.want, Err: blob.ErrClosed}
	}
	w.done = true
	defer w.Close()
	if !w.store.calls.Enter() {
		return &blob.Error{Op: "commit", Digest: w.want, Err: blob.ErrClosed}
	}
	defer w.store.calls.Leave()
	if err := w.commit(); err != nil {
		return &blob.Error{Op: "commit", Digest: w.want, Err: err}
	}
	return nil
}

func (w *writer) commit() error {
	got := digest.Digest{Function: w.want.Function, Size: w.written}
	if w.hash != nil {
		got.Hash = [32]byte(w.hash.Sum(nil))
	} else {
		got = w.want.Function.Of(w.data)
	}
	if got != w.want && (!mutant.SizeOnly || got.Size != w.want.Size) {
		return blob.Mismatch(w.want, got)
	}
	if w.want.IsEmpty() {
		return nil
	}
	if w.winner != nil {
		// Pinned since Create, so it can't have been evicted, but it may have turned out to be damaged.
		if ok, _ := w.store.ledger.Lease(w.winner.key, w.want.Size); !ok {
			return fmt.Errorf("%w: the file that was there is damaged", blob.ErrAborted)
		}
		return nil
	}
	if w.part == nil {
		p, err := w.store.begin(keyOf(w.want, false), w.want.Size)
		if err != nil {
			return err
		}
		w.part = p
		if _, err := p.file.WriteAt(w.data, 0); err != nil {
			return full(err)
		}
	}
	p := w.part
	w.part, w.room = nil, 0 // they are publish's to settle
	_, err := w.store.publish(p, nil)
	return err
}

// Close implements io.Closer.
func (w *writer) Close() error {
	w.done, w.data = true, nil
	var err error
	if w.part != nil {
		err = w.part.discard()
		w.part = nil
	}
	w.store.room.giveBack(w.room)
	w.room = 0
	if w.winner != nil {
		w.winner.pin.Release()
		w.winner = nil
	}
	return err
}

// A part is a private file, which becomes an incarnation or goes.
type part struct {
	incarnation
	store *Store
	file  vfs.ModeFile
}

// begin makes a private file for a blob whose room is reserved.
func (s *Store) begin(k ledger.Key, size int64) (*part, error) {
	p := &part{incarnation{k, size, ledger.Place(s.incarnation.Add(1))}, s, nil}
	ahead := size
	if size <= smallSize {
		ahead = 0 // one write allocates as well
	}
	var err error
	if p.file, err = s.dir.Create(partName(p.place), ahead); err != nil {
		return nil, full(err)
	}
	return p, nil
}

// discard removes a private file.
func (p *part) discard() error {
	return errors.Join(p.file.Close(), p.store.dir.Remove(partName(p.place)))
}

// publish gives a private file, whose bytes are whole and verified, its mode and its name, and then
// publishes it. It settles the file and its room, whatever comes of it. hold, if set, is told which
// incarnation there is then, pinned; found says whether there is one.
func (s *Store) publish(p *part, hold *held) (found bool, err error) {
	sim.Point("written")
	err = p.file.Chmod(p.mode())
	err = errors.Join(err, p.file.Close())
	if err == nil {
		err = s.dir.Rename(partName(p.place), p.name())
	}
	if err != nil {
		s.room.giveBack(charge(p.size))
		return false, errors.Join(full(err), s.dir.Remove(partName(p.place)))
	}
	sim.Point("named")
	outcome, _ := s.ledger.Publish(p.key, p.size, p.place, func() (ok, recorded bool) { return true, true })
	if outcome == ledger.Won {
		s.room.add(p.incarnation)
	} else {
		s.room.giveBack(charge(p.size))
		if mutant.LoserRemoves {
			pin, _ := s.ledger.Pin(p.key, p.size, func(winner ledger.Place, _ int64) { p.place = winner })
			defer pin.Release()
		}
		err = s.dir.Remove(p.name())
	}
	if hold != nil {
		hold.incarnation = p.incarnation
		hold.pin, found = s.ledger.Pin(p.key, p.size, func(at ledger.Place, size int64) { hold.place, hold.size = at, size })
	}
	return found, err
}

// PutAll implements blob.Batcher. A blob that is there is not written again.
func (s *Store) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	for i, d := range ds {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = s.put(ctx, d, data[i])
		}
	}
	return errs
}

func (s *Store) put(ctx context.Context, d digest.Digest, data []byte) error {
	w, err := s.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}

// full makes the disk's want of room the store's.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", blob.ErrFull, err)
	}
	return err
}
