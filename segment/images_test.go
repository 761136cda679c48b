package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestEveryCrashImage crashes each scenario before each file operation that changes something, by a
// kill and by power cuts that leave nothing unsynced, all of it, and 16 random parts of it
// (SARSEN_IMAGES changes how many). A new process then finds what must stand: after a kill all that
// was acknowledged, after a power cut the results that were, and the blobs that those name.
func TestEveryCrashImage(t *testing.T) {
	var total atomic.Int64
	t.Cleanup(func() { t.Logf("%d crash images", total.Load()) })
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			x := newCrasher(t, s.name)
			synctest.Test(t, func(t *testing.T) {
				c := &client{T: t, fsys: &vfs.Mem{}, full: s.full, once: &vfs.FailOnce{K: -1}}
				x.client, x.turn = c, make(chan struct{}, 1)
				c.fsys.SetBefore(x.before)
				c.open()
				s.run(c)
				x.before("end", "of the scenario")
				c.fsys.SetBefore(nil)
				c.rest()
				_ = c.ring.Close()
			})
			total.Add(int64(x.images))
		})
	}
}

// A crasher crashes a client's process at each of its operations.
type crasher struct {
	*client
	turn             chan struct{} // held by whoever takes images
	scenario         string
	random           int // images of each instant
	k, images        int // so far
	onlyK, onlyImage int // or -1
}

func newCrasher(t *testing.T, scenario string) *crasher {
	random := 2
	if allFaults() {
		random = 16
	}
	return &crasher{
		scenario: scenario, random: number(t, "SARSEN_IMAGES", random), k: -1,
		onlyK: number(t, "SARSEN_K", -1), onlyImage: number(t, "SARSEN_SEED", -1),
	}
}

// before is the file system's Before. An operation that only looks is passed over: the next that does
// more finds the same files, and a client that was told at least as much.
func (x *crasher) before(op, name string) {
	switch op {
	case "lock", "unlock", "mkdir", "list", "free", "open", "read":
		return
	}
	x.turn <- struct{}{} // the client and the cleaner may come at once
	defer func() { <-x.turn }()
	x.k++
	if x.Failed() || x.onlyK >= 0 && x.k != x.onlyK {
		return
	}
	for image := -1; image < 2+x.random; image++ {
		if image >= 0 && x.onlyImage >= 0 && image != x.onlyImage {
			continue
		}
		x.images++
		if err := x.crash(image); err != nil {
			x.Errorf("crash before operation %d, %s %s, image %d (-1 is a kill, 0 nothing, 1 all): %v", x.k, op, name, image, err)
			x.Logf("replay: SARSEN_FAULTS=all SARSEN_K=%d SARSEN_SEED=%d go test ./segment -run '^TestEveryCrashImage$/^%s$'", x.k, max(image, 0), x.scenario)
			return
		}
	}
}

// number returns the number in an environment variable.
func number(t *testing.T, name string, otherwise int) int {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, v)
	}
	return n
}

// crash says what a new process misses if this one ends now: by a kill if image is negative, else by a
// power cut that leaves the image of that number.
func (c *client) crash(image int) error {
	told := c.toldNow()
	if image < 0 {
		return told.stand(c.fsys.Clone(), c.lost(), false)
	}
	return told.stand(c.fsys.Image(imageOf(image)), true, image%2 == 1)
}

// imageOf returns the image of a number: 0 leaves nothing unsynced, 1 all of it, others some.
func imageOf(number int) vfs.Image {
	switch number {
	case 0:
		return vfs.None
	case 1:
		return vfs.All
	}
	return vfs.Random(uint64(number))
}

// told is what a client was told so far.
type told struct {
	yes     map[digest.Digest]time.Time // until when the blob must be readable
	durable map[digest.Digest]bool      // and after a power cut too: a result that was acknowledged names it
	results map[byte]version
	sent    map[digest.Digest]bool // with or without an answer
	roots   map[string]rootTold
}

// A version is what is known of a result.
type version struct {
	acknowledged, tried byte // the newest
	until               time.Time
	dropped             bool
}

func (p told) clone() told {
	return told{maps.Clone(p.yes), maps.Clone(p.durable), maps.Clone(p.results), maps.Clone(p.sent), maps.Clone(p.roots)}
}

// without returns what still stands when all that no result vouches for may be gone.
func (p told) without() told {
	maps.DeleteFunc(p.yes, func(d digest.Digest, _ time.Time) bool { return !p.durable[d] })
	return p
}

// stand opens what a process left and says what is missing of that which it was told. If unsynced is
// set, what no result vouches for may be lost. Leases must be known to the new process by itself: with
// evict, it evicts what it can before anybody asks.
func (p told) stand(fsys *vfs.Mem, unsynced, evict bool) error {
	if unsynced {
		p = p.without()
	}
	r, err := Open(context.Background(), fsys, "ring", tight)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if evict {
		r.evictAll()
	}
	errs := []error{p.read(r)}
	if !evict {
		r.evictAll()
		errs = append(errs, p.read(r))
	}
	errs = append(errs, goOn(r, fsys))
	if err := r.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return fsckClean(fsys)
}

// goOn sees that the ring takes and gives blobs and results, if there is room for them, and leaks
// nothing.
func goOn(r *Ring, fsys *vfs.Mem) error {
	ctx := context.Background()
	for _, n := range []int{250, 2500} {
		d, data := blobOf(n)
		err := blob.Put(ctx, r, d, data)
		for errors.Is(err, blob.ErrAborted) { // a small ring turns round fast
			err = blob.Put(ctx, r, d, data)
		}
		if errors.Is(err, blob.ErrFull) {
			return nil
		} else if err != nil {
			return fmt.Errorf("a new blob: %w", err)
		}
		if err := same(r, d); err != nil {
			return fmt.Errorf("a new blob: %w", err)
		}
	}
	if err := r.Put(ctx, [32]byte{99}, []byte("new")); errors.Is(err, blob.ErrFull) {
		return nil
	} else if err != nil {
		return fmt.Errorf("a new result: %w", err)
	}
	return atRest(r, fsys)
}

// atRest says what the ring leaks. One that start-up found full may keep an empty file, which had the
// highest name, until the next start.
func atRest(r *Ring, fsys *vfs.Mem) error {
	time.Sleep(time.Millisecond) // which passes when the cleaner has nothing to do
	if err := r.leaks(fsys); err != nil {
		return fmt.Errorf("at rest: %w", err)
	}
	return nil
}

// fsckClean checks what a ring that was closed left on the disk: it opens, goes on, and closes.
func fsckClean(fsys *vfs.Mem) error {
	r, err := Open(context.Background(), fsys, "ring", tight)
	if err != nil {
		return fmt.Errorf("fsck: open: %w", err)
	}
	if err := errors.Join(goOn(r, fsys), r.Close()); err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	var damage []error
	survey, err := Check(context.Background(), fsys, "ring", func(d Damage) { damage = append(damage, d.Err) })
	if err != nil || survey.Damaged > 0 {
		return fmt.Errorf("fsck: %+v, %w", survey, errors.Join(append(damage, err)...))
	}
	return nil
}

// read reads everything that was ever sent. What was promised is there, and what is there is whole.
func (p told) read(r *Ring) error {
	var errs []error
	for d := range p.sent {
		if err := p.readBlob(r, d); err != nil {
			errs = append(errs, err)
		}
	}
	for key, v := range p.results {
		if err := v.check(r, key); err != nil {
			errs = append(errs, err)
		}
	}
	for name, root := range p.roots {
		errs = append(errs, root.check(r, name))
	}
	return errors.Join(errs...)
}

// readBlob reads a blob, and sees that Missing says the same.
func (p told) readBlob(r *Ring, d digest.Digest) error {
	err := same(r, d)
	if errors.Is(err, blob.ErrNotFound) && !time.Now().Before(p.yes[d]) {
		missing, missingErr := r.Missing(context.Background(), digest.SetOf(d))
		if missingErr != nil || missing.Len() == 0 {
			return fmt.Errorf("%w, and Missing = %v, %v", err, missing.List(), missingErr)
		}
		return nil
	}
	return err
}

// same reads a blob and compares each byte.
func same(r *Ring, d digest.Digest) error {
	got, err := blob.Get(context.Background(), r, d)
	if err != nil {
		return err
	}
	if _, want := blobOf(int(d.Size)); !bytes.Equal(got, want) {
		return fmt.Errorf("%v: %d bytes that are not the blob's", d, len(got))
	}
	return nil
}

func (v version) check(r *Ring, key byte) error {
	rec, err := r.Get(context.Background(), [32]byte{key})
	if errors.Is(err, blob.ErrNotFound) && (v.dropped || !time.Now().Before(v.until)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("result %d: %w; version %d was acknowledged", key, err, v.acknowledged)
	}
	if got := rec.Value[0]; got < v.acknowledged || got > v.tried {
		return fmt.Errorf("result %d is version %d; %d was acknowledged, and %d the last tried", key, got, v.acknowledged, v.tried)
	}
	return nil
}

var blobs sync.Map // of int to []byte, for blobOf

// blobOf returns the blob of n bytes that n stands for.
func blobOf(n int) (digest.Digest, []byte) {
	type whole struct {
		d    digest.Digest
		data []byte
	}
	b, ok := blobs.Load(n)
	if !ok {
		data := storetest.Bytes(uint64(n), n)
		b, _ = blobs.LoadOrStore(n, whole{digest.SHA256.Of(data), data})
	}
	w := b.(whole)
	return w.d, w.data
}
