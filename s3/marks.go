package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A marks has what roots name, by eight bytes of each hash: a false match keeps one blob too many.
type marks struct {
	tags    []uint64        // sorted, but for those that were added since
	sorted  int             // how many tags there were when they were sorted last
	roots   map[string]bool // keys that were read
	damaged []Problem       // roots that say nothing, so that they may name anything
}

func newMarks() *marks { return &marks{roots: map[string]bool{}} }

func (m *marks) add(k ledger.Key) {
	m.tags = append(m.tags, k.Tag())
	// Snapshots name mostly the same: what many roots name is not held once for each.
	if len(m.tags) > 2*m.sorted+1<<20 {
		m.sort()
	}
}

func (m *marks) sort() {
	slices.Sort(m.tags)
	m.tags = slices.Compact(m.tags)
	m.sorted = len(m.tags)
}

// has reports whether a root may name a blob.
func (m *marks) has(k ledger.Key) bool {
	if len(m.damaged) > 0 && !mutant.DamageIgnored {
		return true
	}
	_, ok := slices.BinarySearch(m.tags, k.Tag())
	return ok
}

// A DamagedError says which roots a collection could not read. While a root is damaged no blob goes but second copies,
// since the root may name any; records go as the policy says.
type DamagedError struct{ Roots []Problem }

func (e *DamagedError) Error() string {
	what := "1 root is damaged, so no blob was removed, for it may name any"
	if n := len(e.Roots); n != 1 {
		what = fmt.Sprintf("%d roots are damaged, so no blob was removed, for they may name any", n)
	}
	return fmt.Sprintf("%s: %s: %s: keep it anew under its name, or remove that object", what, e.Roots[0].Key, e.Roots[0].What)
}

// err returns what is to be said about damaged roots.
func (m *marks) err() error {
	if len(m.damaged) == 0 {
		return nil
	}
	return &DamagedError{m.damaged}
}

// spoiled reports whether a root is damaged, whose older incarnations may be of use to somebody.
func (m *marks) spoiled(key string) bool {
	return slices.ContainsFunc(m.damaged, func(p Problem) bool { return p.Key == key })
}

// mark reads the roots that are not in m yet, and adds what they name. It fails if one can't be had: what it keeps would
// not be known. One that is damaged, it notes.
func (s *Store) mark(ctx context.Context, m *marks) error {
	newest, err := s.newestRoots(ctx, roots)
	if err != nil {
		return err
	}
	newest = slices.DeleteFunc(newest, func(key string) bool { return m.roots[key] })
	for i, next := range ahead(newest, func(key string) kept { return s.readKept(ctx, key) }) {
		r := next()
		if r.err != nil && !errors.Is(r.err, blob.ErrCorrupt) {
			return fmt.Errorf("what is kept is not known: %w", r.err)
		}
		m.roots[newest[i]], m.roots[r.key] = true, true
		if r.err != nil {
			m.damaged = append(m.damaged, Problem{r.key, r.err.Error()})
		}
		if r.err != nil || r.none {
			continue
		}
		ds, err := s.listOf(ctx, r.Root)
		if known(err) {
			m.damaged = append(m.damaged, Problem{r.key, fmt.Sprintf("its list %v: %v", r.List, err)})
			s.disown(r.List, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("what root %q keeps is not known: %w", r.Name, err)
		}
		for _, d := range ds.List() {
			m.add(keyOf(d))
		}
		if r.List != (digest.Digest{}) {
			m.add(keyOf(r.List))
		}
	}
	m.sort()
	return nil
}

// disown drops a blob whose bytes are known to be damaged, so that who keeps the root anew uploads it.
func (s *Store) disown(d digest.Digest, cause error) {
	h := held{life: s.now.Load()}
	if h.tryPin(keyOf(d), d.Size) {
		_ = s.drop(&h, cause)
		h.pin.Release()
	}
}

// listOf returns what a root names. Its list is read from the bucket and not by the ledger, which may have let go of it.
func (s *Store) listOf(ctx context.Context, r blob.Root) (digest.Set, error) {
	if r.List == (digest.Digest{}) {
		return r.Blobs(ctx, nil)
	}
	list, err := s.rawBlob(ctx, r.List)
	if err != nil {
		return digest.Set{}, err
	}
	return r.Blobs(ctx, oneBlob{d: r.List, data: list})
}

// rawBlob reads a blob from whatever object has it.
func (s *Store) rawBlob(ctx context.Context, d digest.Digest) ([]byte, error) {
	var objects []bucket.Object
	if _, err := bucket.All(ctx, s.bucket, blobPrefix(keyOf(d))+"-", func(page []bucket.Object) error {
		objects = append(objects, page...)
		return nil
	}); err != nil {
		return nil, err
	}
	failed := blob.ErrNotFound
	for _, o := range objects {
		data, err := s.rawObject(ctx, o.Key, d)
		if err == nil {
			return data, nil
		}
		// One that could not be had may be sound, whatever the others are.
		if known(failed) {
			failed = err
		}
	}
	return nil, failed
}

// known reports whether an error says what is wrong with an object.
func known(err error) bool {
	return errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrNotFound)
}

// rawObject reads a blob from an object, once more if it came damaged.
func (s *Store) rawObject(ctx context.Context, key string, d digest.Digest) (data []byte, err error) {
	for range tries {
		var b []byte
		if b, err = s.receive(ctx, key, 0, -1); err != nil {
			return nil, err
		}
		if data, err = open(keyOf(d), b); err == nil && d.Function.Of(data) == d {
			return data, nil
		}
	}
	return nil, cmp.Or(err, blob.ErrCorrupt)
}

// A oneBlob is a store that has one blob, in memory.
type oneBlob struct {
	blob.Store
	d    digest.Digest
	data []byte
}

// Open implements blob.Store.
func (o oneBlob) Open(_ context.Context, d digest.Digest) (blob.Reader, error) {
	if d != o.d {
		return nil, blob.ErrNotFound
	}
	return &reader{size: int64(len(o.data)), data: o.data}, nil
}
