package tier_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/tier"
)

var ctx = context.Background()

var errAway = errors.New("the bucket is away")

// A part is a store that can be made to fail and to wait, and counts what is read of it.
type part struct {
	*model.Store
	mu       sync.Mutex
	read     int64         // bytes by ReadAt and GetAll
	failures int           // reads and writes that fail, the next ones
	full     bool          // takes nothing
	gate     chan struct{} // if not nil, reads and writes wait until it is closed
}

func newPart() *part { return &part{Store: model.New(time.Hour)} }

func (p *part) pass(n int64) error {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	if gate != nil {
		<-gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures > 0 {
		p.failures--
		return errAway
	}
	p.read += n
	return nil
}

func (p *part) set(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

func (p *part) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := p.Store.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	return partReader{r, p}, nil
}

type partReader struct {
	blob.Reader
	p *part
}

func (r partReader) ReadAt(b []byte, off int64) (int, error) {
	if err := r.p.pass(int64(len(b))); err != nil {
		return 0, err
	}
	return r.Reader.ReadAt(b, off)
}

func (p *part) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	for i, d := range ds {
		if errs[i] = p.pass(0); errs[i] == nil {
			data[i], errs[i] = blob.Get(ctx, p.Store, d)
			p.set(func() { p.read += int64(len(data[i])) })
		}
	}
	return data, errs
}

func (p *part) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	if err := p.admit(); err != nil {
		return nil, err
	}
	return p.Store.Create(ctx, d)
}

func (p *part) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	for i, d := range ds {
		if errs[i] = p.admit(); errs[i] == nil {
			errs[i] = blob.Put(ctx, p.Store, d, data[i])
		}
	}
	return errs
}

func (p *part) admit() error {
	if err := p.pass(0); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full {
		return blob.ErrFull
	}
	return nil
}

func (p *part) Put(ctx context.Context, key [32]byte, value []byte) error {
	if err := p.admit(); err != nil {
		return err
	}
	return p.Store.Put(ctx, key, value)
}

func has(t *testing.T, s blob.Store, d digest.Digest) bool {
	t.Helper()
	missing, err := s.Missing(ctx, digest.SetOf(d))
	if err != nil {
		t.Fatal(err)
	}
	return missing.Len() == 0
}

func mustPut(t *testing.T, s blob.Store, data []byte) digest.Digest {
	t.Helper()
	d := digest.SHA256.Of(data)
	if err := blob.Put(ctx, s, d, data); err != nil {
		t.Fatal(err)
	}
	return d
}

// forgetful returns a near store whose leases are over at once.
func forgetful() (near, far *part) {
	return &part{Store: model.New(0)}, newPart()
}

// TestOneRead: any number of readers of one absent blob read it from the far store once.
func TestOneRead(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{})
	large, small := storetest.Bytes(1, 3<<20), storetest.Bytes(2, 1000)
	d, e := mustPut(t, far.Store, large), mustPut(t, far.Store, small)
	gate := make(chan struct{})
	far.set(func() { far.gate = gate })
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			got, err := blob.Get(ctx, s, d)
			if err != nil || !bytes.Equal(got, large) {
				t.Errorf("Get = %d bytes, %v", len(got), err)
			}
		})
		all.Go(func() {
			got, errs := s.GetAll(ctx, []digest.Digest{e})
			if errs[0] != nil || !bytes.Equal(got[0], small) {
				t.Errorf("GetAll = %d bytes, %v", len(got[0]), errs[0])
			}
		})
	}
	close(gate)
	all.Wait()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if got, want := far.read, int64(len(large)+len(small)); got != want {
		t.Errorf("%d bytes were read from the far store, want %d", got, want)
	}
	if !has(t, near.Store, d) || !has(t, near.Store, e) {
		t.Error("the near store was not filled")
	}
}

// TestHandOver: the reader that reads for all others fails, and none of the others does.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), newPart()
		s := tier.New(near, far, tier.Options{})
		small := storetest.Bytes(2, 1000)
		d := mustPut(t, far.Store, small)
		gate := make(chan struct{})
		far.gate, far.failures = gate, 1
		results := make(chan error)
		for range 3 {
			go func() {
				data, errs := s.GetAll(ctx, []digest.Digest{d})
				if errs[0] == nil && !bytes.Equal(data[0], small) {
					errs[0] = blob.ErrCorrupt
				}
				results <- errs[0]
			}()
			synctest.Wait() // the first one leads
		}
		close(gate)
		failed := 0
		for range 3 {
			if err := <-results; errors.Is(err, errAway) {
				failed++
			} else if err != nil {
				t.Error(err)
			}
		}
		if failed != 1 {
			t.Errorf("%d readers failed, want the one that met the failure", failed)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestFetchFails: readers of a large blob go on by themselves when the read that they share fails in the middle.
func TestFetchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), newPart()
		s := tier.New(near, far, tier.Options{})
		large := storetest.Bytes(1, 3<<20)
		d := mustPut(t, far.Store, large)
		gate := make(chan struct{})
		far.gate, far.failures = gate, 1
		results := make(chan error)
		for range 3 {
			go func() {
				got, err := blob.Get(ctx, s, d)
				if err == nil && !bytes.Equal(got, large) {
					err = blob.ErrCorrupt
				}
				results <- err
			}()
		}
		synctest.Wait() // all wait for the fetch
		close(gate)
		for range 3 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestAcknowledged: a write is acknowledged when the far store has it, not earlier.
func TestAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), newPart()
		far.gate = make(chan struct{})
		s := tier.New(near, far, tier.Options{})
		said := make(chan error, 3)
		for i, n := range []int{100, 400 << 10} {
			data := storetest.Bytes(uint64(i), n)
			go func() { said <- blob.Put(ctx, s, digest.SHA256.Of(data), data) }()
		}
		go func() { said <- s.Put(ctx, [32]byte{1}, []byte("x")) }()
		synctest.Wait()
		if n := len(said); n > 0 {
			t.Errorf("%d writes were acknowledged before they are far", n)
		}
		close(far.gate)
		for range 3 {
			if err := <-said; err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestThrough: a write fails when the far store does, and the next one may succeed.
func TestThrough(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{})
	lost := storetest.Bytes(2, 400<<10)
	far.set(func() { far.failures = 2 })
	if err := blob.Put(ctx, s, digest.SHA256.Of(lost), lost); !errors.Is(err, errAway) {
		t.Errorf("Put while the far store is away = %v, want %v", err, errAway)
	}
	if again := mustPut(t, s, lost); !has(t, far.Store, again) {
		t.Error("the second try did not bring it there")
	}
	key := [32]byte{1}
	far.set(func() { far.failures = 1 })
	if err := s.Put(ctx, key, []byte("x")); !errors.Is(err, errAway) {
		t.Errorf("Put of a record = %v, want %v", err, errAway)
	}
}

// TestNearFull: what the near store has no room for goes to the far one.
func TestNearFull(t *testing.T) {
	near, far := newPart(), newPart()
	near.full = true
	s := tier.New(near, far, tier.Options{})
	d := mustPut(t, s, storetest.Bytes(1, 400<<10))
	small := storetest.Bytes(2, 10)
	e := digest.SHA256.Of(small)
	if errs := s.PutAll(ctx, []digest.Digest{e}, [][]byte{small}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	key := [32]byte{1}
	if err := s.Put(ctx, key, []byte("value")); err != nil {
		t.Fatal(err)
	}
	if !has(t, s, d) || !has(t, s, e) {
		t.Error("not there")
	}
	if got, err := blob.Get(ctx, s, d); err != nil || digest.SHA256.Of(got) != d {
		t.Errorf("Get = %d bytes, %v", len(got), err)
	}
	if rec, err := s.Get(ctx, key); err != nil || string(rec.Value) != "value" {
		t.Errorf("record = %q, %v", rec.Value, err)
	}
}

// TestBack: what waits to climb is pinned, as much as there may be waits, and Close waits for it.
func TestBack(t *testing.T) {
	near, far := forgetful()
	gate := make(chan struct{})
	far.gate = gate
	s := tier.New(near, far, tier.Options{WriteBack: true, Queue: 1 << 20, Uploads: 1})
	var ds []digest.Digest
	for i := range 2 {
		ds = append(ds, mustPut(t, s, storetest.Bytes(uint64(i), 400<<10)))
	}
	near.Evict()
	for _, d := range ds {
		if !has(t, near.Store, d) {
			t.Errorf("%v was evicted before it climbed", d)
		}
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	third := storetest.Bytes(9, 400<<10)
	if errs := s.PutAll(short, []digest.Digest{digest.SHA256.Of(third)}, [][]byte{third}); !errors.Is(errs[0], context.DeadlineExceeded) {
		t.Errorf("a full queue: %v, want to wait", errs[0])
	}
	if got := s.Stats(); got.Waiting != 2 || got.WaitBytes != 800<<10 {
		t.Errorf("Stats = %+v, want 2 that wait", got)
	}
	stop, cancelStop := context.WithCancel(ctx)
	closed := make(chan error)
	go func() { closed <- s.Close(stop) }()
	close(gate)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	cancelStop()
	for _, d := range ds {
		if !has(t, far.Store, d) {
			t.Errorf("%v did not climb", d)
		}
	}
}

// TestGivenUp: Close says what did not climb, and the near store has it still.
func TestGivenUp(t *testing.T) {
	near, far := newPart(), newPart()
	far.gate = make(chan struct{})
	s := tier.New(near, far, tier.Options{WriteBack: true, Uploads: 1})
	d := mustPut(t, s, storetest.Bytes(1, 400<<10))
	e := mustPut(t, s, storetest.Bytes(2, 400<<10))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	closed := make(chan error)
	go func() { closed <- s.Close(gone) }()
	close(far.gate)
	if err := <-closed; err != nil && !strings.Contains(err.Error(), "did not reach the far store") {
		t.Errorf("Close = %v", err)
	}
	if !has(t, near.Store, d) || !has(t, near.Store, e) {
		t.Error("the near store lost them")
	}
}

// TestAskedFor: what is only near climbs when somebody is told that it is there.
func TestAskedFor(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{})
	d := mustPut(t, near.Store, storetest.Bytes(1, 5000))
	if !has(t, s, d) {
		t.Error("not there")
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if !has(t, far.Store, d) {
		t.Error("it did not climb")
	}
}

// TestNewestRecord: of records that are put one after the other the last one is far in the end.
func TestNewestRecord(t *testing.T) {
	for _, back := range []bool{false, true} {
		near, far := newPart(), newPart()
		s := tier.New(near, far, tier.Options{WriteBack: back})
		key := [32]byte{7}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				if err := s.Put(ctx, key, []byte{byte(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := s.Put(ctx, key, []byte("last")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if rec, err := far.Store.Get(ctx, key); err != nil || string(rec.Value) != "last" {
			t.Errorf("written back %v: the far store has %q, %v", back, rec.Value, err)
		}
	}
}

// TestOvertaken: a record that is put while an older one climbs is far in the end.
func TestOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), newPart()
		far.gate = make(chan struct{})
		s := tier.New(near, far, tier.Options{WriteBack: true})
		key := [32]byte{7}
		for _, value := range []string{"older", "newer"} {
			if err := s.Put(ctx, key, []byte(value)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		close(far.gate)
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if rec, err := far.Store.Get(ctx, key); err != nil || string(rec.Value) != "newer" {
			t.Errorf("the far store has %q, %v, want newer", rec.Value, err)
		}
	})
}

// TestEvictedAgain: a reader goes on when the near store evicts what was fetched for it.
func TestEvictedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := forgetful()
		s := tier.New(near, far, tier.Options{})
		data := storetest.Bytes(1, 5<<20)
		d := mustPut(t, far.Store, data)
		r, err := s.Open(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		synctest.Wait() // it was fetched
		if !has(t, near.Store, d) {
			t.Fatal("the near store was not filled")
		}
		time.Sleep(time.Second)
		near.Evict()
		far.Evict()
		got := make([]byte, len(data))
		if n, err := r.ReadAt(got, 0); n < len(got) || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", n, err)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestRecords: a record that is only far comes near, and one that is dropped is gone.
func TestRecords(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{})
	key := [32]byte{7}
	if err := far.Store.Put(ctx, key, []byte("value")); err != nil {
		t.Fatal(err)
	}
	rec, err := s.Get(ctx, key)
	if err != nil || string(rec.Value) != "value" {
		t.Fatalf("Get = %q, %v", rec.Value, err)
	}
	if rec, err := near.Store.Get(ctx, key); err != nil || string(rec.Value) != "value" {
		t.Errorf("the near store has %q, %v", rec.Value, err)
	}
	for range 2 { // the near one, then the far one
		if rec, err = s.Get(ctx, key); err == nil {
			err = s.Drop(ctx, key, rec.Incarnation)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err = s.Get(ctx, key); errors.Is(err, blob.ErrNotFound) {
			break
		}
	}
	if !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get of a dropped record = %v, want ErrNotFound", err)
	}
}

// TestKeepClimbs: what is kept is far before the root is, also what was written back and not asked for since.
func TestKeepClimbs(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{WriteBack: true})
	d := mustPut(t, near.Store, storetest.Bytes(1, 400<<10))
	if err := s.Keep(ctx, "root", nil, digest.SetOf(d)); err != nil {
		t.Fatal(err)
	}
	if !has(t, far.Store, d) {
		t.Error("the root is far, and what it holds is not")
	}
	gone := digest.SHA256.Of([]byte("gone"))
	var missing *blob.MissingError
	if err := s.Keep(ctx, "hole", nil, digest.SetOf(d, gone)); !errors.As(err, &missing) || len(missing.Blobs) != 1 || missing.Blobs[0] != gone {
		t.Errorf("Keep of a hole = %v, want a MissingError of %v", err, gone)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}
