package segment

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/ledger"
)

// A root is a record of its own kind, under the hash of its name, so that a newer one supersedes and one
// that was released is a newer one that says so. What a root names is kept in the ledger: before the
// record is published, until a newer one is, and at start-up before anything may be condemned. The cleaner
// copies it forward like what is leased.

func rootKey(name string) ledger.Key {
	return ledger.Key{Kind: ledger.Root, Hash: sha256.Sum256([]byte(name))}
}

// Keep implements blob.Keeper.
func (r *Ring) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	return r.keepRoot(ctx, name, value, blobs, nil)
}

// KeepIf implements blob.Keeper.
func (r *Ring) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	return r.keepRoot(ctx, name, value, blobs, func() error { return r.unchanged(name, was) })
}

// unchanged returns ErrChanged unless a root is what it was. The caller holds its slot.
func (r *Ring) unchanged(name string, was *blob.Root) error {
	root, err := r.root(name)
	now := &root
	if errors.Is(err, blob.ErrNotFound) {
		now, err = nil, nil
	}
	if err == nil && !was.Is(now) && !mutant.ChangeBlind {
		err = fmt.Errorf("root %q: %w", name, blob.ErrChanged)
	}
	return err
}

// keepRoot keeps a root if it may, which is asked while nobody else can change it; nil is always.
func (r *Ring) keepRoot(ctx context.Context, name string, value []byte, blobs digest.Set, may func() error) error {
	root, list, err := blob.NewRoot(name, value, blobs)
	if err != nil {
		return err
	}
	encoded := root.Encode()
	if err := r.mayHold(encoded); err != nil {
		return err
	}
	if list != nil {
		if err := blob.Put(ctx, r, root.List, list); err != nil {
			return fmt.Errorf("the list of what %q holds: %w", name, err)
		}
	}
	held := heldBy(root, blobs.List())
	if !mutant.RootFirst {
		if err := r.keep(held); err != nil {
			return err
		}
	}
	sim.Point("kept")
	u := &revision{value: encoded, by: putter, may: may}
	if err = r.syncBlobs(); err == nil {
		err = r.putRoot(ctx, name, u)
	}
	switch {
	case mutant.RootFirst && err == nil:
		return r.keep(held)
	case err != nil && u.appended:
		r.roots.stash(name, held)
	case err != nil:
		r.unkeep(held)
	}
	return err
}

// syncBlobs makes durable what a root will name, so that no crash leaves the root and not that.
func (r *Ring) syncBlobs() error {
	if r.durability == None {
		return nil
	}
	return r.sync()
}

// heldBy returns all that a root of these blobs holds. It is for whoever has them; what was stored is
// read by holds.
func heldBy(root blob.Root, blobs []digest.Digest) []digest.Digest {
	held := slices.DeleteFunc(slices.Clone(blobs), digest.Digest.IsEmpty)
	if root.List != (digest.Digest{}) {
		held = append(held, root.List)
	}
	return held
}

// keep keeps all of ds or nothing.
func (r *Ring) keep(ds []digest.Digest) error {
	var missing []digest.Digest
	more := false
	kept := make([]digest.Digest, 0, len(ds))
	for _, d := range ds {
		ok, first := r.ledger.Keep(keyOf(d), d.Size)
		if more = more || first; ok {
			kept = append(kept, d)
		} else if mutant.HoleKept {
			r.ledger.Owe(keyOf(d))
		} else {
			missing = append(missing, d)
		}
	}
	err := r.standing()
	if len(missing) > 0 && err == nil {
		err = &blob.MissingError{Blobs: missing}
	} else if more && err == nil {
		err = r.mayKeep()
	}
	if err != nil {
		r.unkeep(kept)
	}
	return err
}

func (r *Ring) unkeep(ds []digest.Digest) {
	for _, d := range ds {
		r.ledger.Unkeep(keyOf(d))
	}
}

// mayKeep refuses when what is kept takes more than half of the ring: the cleaner copies it each time round,
// and leases need room beside it.
func (r *Ring) mayKeep() error {
	limit := r.limit.Load()
	bytes := r.keptBytes()
	if bytes <= limit/2 {
		return nil
	}
	why := fmt.Sprintf("%s would be kept beyond leases, and that may be half of %s", humanize.IBytes(uint64(bytes)), humanize.IBytes(uint64(max(limit, 0))))
	r.refused.Add(1)
	if limit < r.maxSize.Load() {
		return fmt.Errorf("%w: %s, because the disk is nearly full; free some of it, or let backups go", blob.ErrFull, why)
	}
	return fmt.Errorf("%w: %s; raise --max-size, or let backups go", blob.ErrFull, why)
}

// keptBytes is what roots hold, with what each record takes beside its bytes.
func (r *Ring) keptBytes() int64 {
	entries, bytes := r.ledger.Kept()
	return bytes + entries*(headerSize+entrySize)
}

// Release implements blob.Keeper.
func (r *Ring) Release(ctx context.Context, name string) error {
	if !r.roots.has(name) && !r.roots.maybe(name) {
		return r.standing()
	}
	return r.releaseRoot(ctx, name, nil)
}

// ReleaseIf implements blob.Keeper.
func (r *Ring) ReleaseIf(ctx context.Context, was blob.Root) error {
	return r.releaseRoot(ctx, was.Name, func() error { return r.unchanged(was.Name, &was) })
}

// releaseRoot releases a root if it may, as in keepRoot.
func (r *Ring) releaseRoot(ctx context.Context, name string, may func() error) error {
	encoded := blob.EncodeReleased(name)
	err := r.putRoot(ctx, name, &revision{value: encoded, by: putter, released: true, may: may})
	if errors.Is(err, blob.ErrFull) { // whoever gives room back may take a little of the cleaner's
		err = r.putRoot(ctx, name, &revision{value: encoded, by: mover, released: true, may: may})
	}
	return err
}

// putRoot puts the record of a root, and lets go of what those before it held.
func (r *Ring) putRoot(ctx context.Context, name string, u *revision) error {
	k := rootKey(name)
	var old []digest.Digest
	if mutant.ReleaseFirst && u.released {
		r.unkeep(r.holds(ctx, name))
		sim.Point("let go")
	}
	u.before = func() {
		if old = nil; r.roots.has(name) {
			old = r.holds(ctx, name)
		} else {
			r.ledger.Owe(k)
		}
	}
	u.failed = func() {
		if !r.roots.has(name) {
			r.ledger.Unkeep(k)
		}
	}
	u.after = func() {
		old = append(old, r.roots.unstash(name)...)
		if !u.released {
			r.roots.add(name)
			return
		}
		r.roots.remove(name)
		r.ledger.Unkeep(k)
	}
	if err := r.revise(k, u); err != nil {
		return err
	}
	sim.Point("root published")
	if !(mutant.ReleaseFirst && u.released) {
		r.unkeep(old)
	}
	return nil
}

// holds returns all that a root keeps. What can't be read any more stays kept until the next start.
func (r *Ring) holds(ctx context.Context, name string) []digest.Digest {
	if r.roots.unknown(name) {
		return nil
	}
	root, err := r.root(name)
	var blobs digest.Set
	if err == nil {
		blobs, err = root.Blobs(ctx, r)
	}
	if err != nil {
		r.log.Warn("what a root held can't be read, and stays until the next start", slog.String("root", name), slog.Any("error", err))
		return nil
	}
	return heldBy(root, blobs.List())
}

// root reads the root of that name, or returns blob.ErrNotFound.
func (r *Ring) root(name string) (blob.Root, error) {
	rd, err := r.open(rootKey(name), -1)
	if err != nil {
		return blob.Root{}, err
	}
	defer rd.Close()
	b, err := rd.all()
	if err != nil {
		return blob.Root{}, err
	}
	root, released, err := blob.DecodeRoot(b)
	if released {
		err = errReleased
	}
	return root, err
}

var errReleased = fmt.Errorf("%w: the root was released", blob.ErrNotFound)

// Kept implements blob.Keeper. A root whose record turns out to be damaged is gone, as it is after a restart.
func (r *Ring) Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error] {
	return func(yield func(blob.Root, error) bool) {
		for name, ok := r.roots.next(prefix); ok && strings.HasPrefix(name, prefix); name, ok = r.roots.next(name + "\x00") {
			err := ctx.Err()
			var root blob.Root
			if err == nil {
				root, err = r.root(name)
			}
			switch {
			case errors.Is(err, errReleased): // just now
			case errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrCorrupt):
				if r.roots.has(name) {
					r.log.Error("a root is lost", slog.String("root", name), slog.Any("error", err))
				}
			case !yield(root, err) || err != nil:
				return
			}
		}
	}
}

// A foundRoot is the record of a root that start-up found.
type foundRoot struct {
	key   ledger.Key
	place ledger.Place
}

// mark keeps what every root holds. It comes before anything may be condemned.
func (r *Ring) mark(ctx context.Context) error {
	var all []foundRoot
	r.ledger.Each(func(k ledger.Key, _ int64, p ledger.Place, _ bool) {
		if k.Kind == ledger.Root {
			all = append(all, foundRoot{k, p})
		}
	})
	slices.SortFunc(all, func(a, b foundRoot) int { return cmp.Compare(a.place, b.place) }) // as disks like it
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(readers, len(all)/rootsEach+1) {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(all) && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				r.markOne(ctx, all[n])
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// Records of roots lie apart, so that start-up mostly waits for the disk: so many reads at once are asked of it, one for so
// many roots.
const (
	readers   = 16
	rootsEach = 64
)

func (r *Ring) markOne(ctx context.Context, f foundRoot) {
	if err := r.markRoot(ctx, f.key); err != nil {
		r.log.Error("a root is lost: its record can't be read", slog.String("key", fmt.Sprintf("%x", f.key.Hash)), slog.Any("error", err))
		r.ledger.Drop(f.key, f.place)
	}
}

func (r *Ring) markRoot(ctx context.Context, k ledger.Key) error {
	rd, err := r.open(k, -1)
	if err != nil {
		return err
	}
	defer rd.Close()
	b, err := rd.seg.readAgain(k, rd.off-headerSize, rd.size)
	if err != nil {
		return err
	}
	root, released, err := blob.DecodeRoot(b)
	if err != nil || released {
		return err
	}
	r.roots.add(root.Name)
	r.ledger.Owe(k)
	blobs, err := root.Blobs(ctx, r)
	if err != nil {
		r.log.Error("what a root holds is not known: its list can't be read", slog.String("root", root.Name), slog.Any("error", err))
		r.roots.setUnknown(root.Name)
		return nil
	}
	missing := 0
	for _, d := range heldBy(root, blobs.List()) {
		if !r.ledger.Owe(keyOf(d)) {
			missing++
		}
	}
	if missing > 0 {
		r.log.Error("a root holds blobs that are damaged or gone", slog.String("root", root.Name), slog.Int("blobs", missing))
	}
	return nil
}
