package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A Check says what Fsck looks at beyond the listing and the roots.
type Check struct {
	Bytes    bool         // every object is read, and its bytes hashed
	Progress func(Survey) // if set, is told now and then how far it is
}

// A Survey is what Fsck found.
type Survey struct {
	Objects      int64     `json:"objects"` // blobs and records
	Bytes        int64     `json:"bytes"`
	Verified     int64     `json:"verified"` // objects whose bytes were read
	Roots        int       `json:"roots"`
	SecondCopies int64     `json:"second_copies"` // and superseded records: the next collection takes them
	Condemned    int64     `json:"condemned"`     // objects that a verdict names
	Unkept       int64     `json:"unkept"`        // blobs that no root names, which is no fault: a cache's are so
	Strange      []string  `json:"strange,omitempty"`
	Problems     []Problem `json:"problems,omitempty"`
	Incomplete   []Problem `json:"incomplete,omitempty"` // roots
}

// A Problem is what is wrong with an object.
type Problem struct {
	Key  string `json:"key"`
	What string `json:"what"`
}

// Sound reports whether nothing is damaged or missing.
func (s Survey) Sound() bool { return len(s.Problems)+len(s.Incomplete) == 0 }

// Fsck looks at a bucket that servers may use meanwhile. It changes nothing.
func Fsck(ctx context.Context, b bucket.Bucket, check Check) (Survey, error) {
	f := &fsck{Store: newStore(b, Options{}), check: check, condemned: map[string]bool{}}
	defer f.stop()
	r, _, err := f.readRegister(ctx)
	if err != nil {
		return f.Survey, err
	}
	for _, v := range r.Verdicts {
		p, err := f.readProposal(ctx, v.Key)
		if err != nil {
			return f.Survey, err
		}
		for key := range p.keys() {
			f.condemned[key] = true
		}
	}
	// Roots that are read first name what is listed after.
	m := newMarks()
	kept, err := f.roots(ctx, m)
	if err != nil {
		return f.Survey, err
	}
	if err := f.objects(ctx, m); err != nil {
		return f.Survey, err
	}
	f.complete(kept)
	return f.Survey, f.failed
}

type fsck struct {
	*Store
	check     Check
	condemned map[string]bool // keys

	mu sync.Mutex
	Survey
	tags   []uint64 // of blobs that are there
	failed error    // why an object could not be read, which says nothing about its bytes
}

// A holding is a root and what it names.
type holding struct {
	key   string
	names []digest.Digest
}

func (f *fsck) roots(ctx context.Context, m *marks) (all []holding, err error) {
	newest, err := f.newestRoots(ctx, roots)
	if err != nil {
		return nil, err
	}
	for _, next := range ahead(newest, func(key string) kept { return f.readKept(ctx, key) }) {
		r := next()
		if r.none {
			continue
		}
		f.Roots++
		if errors.Is(r.err, blob.ErrCorrupt) {
			f.problem(r.key, r.err)
			continue
		}
		if r.err != nil {
			return nil, r.err
		}
		ds, err := f.listOf(ctx, r.Root)
		if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrNotFound) {
			return nil, err
		}
		if err != nil {
			f.Incomplete = append(f.Incomplete, Problem{r.key, fmt.Sprintf("its list can't be read: %v", err)})
			continue
		}
		h := holding{r.key, ds.List()}
		if r.List != (digest.Digest{}) {
			h.names = append(slices.Clone(h.names), r.List)
		}
		for _, d := range h.names {
			m.add(keyOf(d))
		}
		all = append(all, h)
	}
	m.sort()
	return all, nil
}

// objects looks at all blobs and records.
func (f *fsck) objects(ctx context.Context, m *marks) error {
	var group sync.WaitGroup
	defer group.Wait()
	nobody := &life{door: make(chan struct{}, 1)}
	for _, prefix := range []string{blobs, records} {
		if err := f.listAll(ctx, nobody, prefix, func(_ uint64, page []bucket.Object) (bool, error) {
			var last ledger.Key
			for _, o := range page {
				i, ok := parseName(o.Key)
				f.note(o, i, ok, i.key == last, m)
				if last = i.key; !ok || !f.check.Bytes {
					continue
				}
				f.slots <- struct{}{}
				group.Go(func() {
					defer func() { <-f.slots }()
					f.verify(ctx, o, i)
				})
			}
			if f.check.Progress != nil {
				f.mu.Lock()
				now := f.Survey
				f.mu.Unlock()
				f.check.Progress(now)
			}
			return false, ctx.Err()
		}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fsck) note(o bucket.Object, i incarnation, ok, again bool, m *marks) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !ok:
		f.Strange = append(f.Strange, o.Key)
		return
	case f.condemned[o.Key]:
		f.Condemned++
		return
	case again:
		f.SecondCopies++
	case i.key.Kind != ledger.Record && !m.has(i.key):
		f.Unkept++
	}
	f.Objects++
	f.Bytes += o.Size
	if i.key.Kind != ledger.Record {
		f.tags = append(f.tags, i.key.Tag())
	}
}

func (f *fsck) problem(key string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Problems = append(f.Problems, Problem{key, err.Error()})
}

// complete sees that all that roots name is there.
func (f *fsck) complete(all []holding) {
	have := marks{tags: f.tags}
	have.sort()
	for _, h := range all {
		missing := 0
		var first digest.Digest
		for _, d := range h.names {
			if !d.IsEmpty() && !have.has(keyOf(d)) {
				if missing++; missing == 1 {
					first = d
				}
			}
		}
		if missing > 0 {
			f.Incomplete = append(f.Incomplete, Problem{h.key, fmt.Sprintf("%d of %d blobs are missing, the first is %v", missing, len(h.names), first)})
		}
	}
}

// verifyPart is how much of an object is read at once, in bytes.
const verifyPart = 16 << 20

// verify reads an object and compares its bytes with its frame and its name.
func (f *fsck) verify(ctx context.Context, o bucket.Object, i incarnation) {
	err := f.read(ctx, o, i)
	if errors.Is(err, bucket.ErrNotFound) {
		return // it was collected meanwhile
	}
	if err != nil && !errors.Is(err, blob.ErrCorrupt) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failed = cmp.Or(f.failed, err)
		return
	}
	if err != nil {
		f.problem(o.Key, err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Verified++
}

func (f *fsck) read(ctx context.Context, o bucket.Object, i incarnation) error {
	stored, _, err := f.bucket.Get(ctx, o.Key, 0, verifyPart)
	if err != nil {
		return err
	}
	fr, err := decodeFrame(stored)
	if err != nil {
		return err
	}
	if fr.key != i.key || i.key.Kind != ledger.Record && fr.size != i.size || fr.stored() != o.Size {
		return fmt.Errorf("%w: it holds something else than its name says", blob.ErrCorrupt)
	}
	var h hash.Hash
	if i.key.Kind != ledger.Record {
		h = digest.Function(i.key.Kind).NewHash()
	}
	off := int64(0)
	for b := range fr.blocks {
		e := fr.blocks[b]
		if e.off+int64(e.length) > off+int64(len(stored)) {
			off = e.off
			if stored, _, err = f.bucket.Get(ctx, o.Key, off, max(verifyPart, int64(e.length))); err != nil {
				return err
			}
		}
		raw, err := fr.unpack(nil, int64(b), stored, off)
		if err != nil {
			return err
		}
		if h != nil {
			_, _ = h.Write(raw) // hashes never fail
		}
	}
	if h != nil && [32]byte(h.Sum(nil)) != i.key.Hash {
		return fmt.Errorf("%w: its bytes have another hash than its name", blob.ErrCorrupt)
	}
	return nil
}
