package tier_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/tier"
)

// A troubled store counts what is opened, can be away, and can hang.
type troubled struct {
	*part
	opens, gets atomic.Int64
	away        atomic.Bool
	hung        chan struct{} // if not nil, reads of the first Reader behind 5 MiB, and commits, wait until it is closed
	gate        chan struct{} // if not nil, records wait to be read until it is closed
}

func (t *troubled) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	first := t.opens.Add(1) == 1
	if t.away.Load() {
		return nil, errAway
	}
	r, err := t.part.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	return hungReader{r, t, first}, nil
}

type hungReader struct {
	blob.Reader
	t     *troubled
	hangs bool
}

func (r hungReader) ReadAt(p []byte, off int64) (int, error) {
	if r.hangs && r.t.hung != nil && off >= 5<<20 {
		<-r.t.hung
	}
	return r.Reader.ReadAt(p, off)
}

func (t *troubled) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	w, err := t.part.Create(ctx, d)
	if err != nil {
		return nil, err
	}
	return hungWriter{w, t}, nil
}

type hungWriter struct {
	blob.Writer
	t *troubled
}

func (w hungWriter) Commit() error {
	if w.t.hung != nil {
		<-w.t.hung
	}
	return w.Writer.Commit()
}

func (t *troubled) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	t.gets.Add(1)
	data, errs := t.part.GetAll(ctx, ds)
	if err := ctx.Err(); err != nil {
		for i := range errs {
			data[i], errs[i] = nil, err
		}
	}
	return data, errs
}

func (t *troubled) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	if t.away.Load() {
		return []error{errAway}
	}
	return t.part.PutAll(ctx, ds, data)
}

func (t *troubled) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	rec, err := t.part.Store.Get(ctx, key)
	if t.gate != nil {
		<-t.gate
	}
	return rec, err
}

func (t *troubled) Put(ctx context.Context, key [32]byte, value []byte) error {
	if t.away.Load() {
		return errAway
	}
	return t.part.Put(ctx, key, value)
}

// TestOneOpen: any number of readers of one absent blob open it in the far store once, which costs a request, whether
// they know its size or not.
func TestOneOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart()}
		s := tier.New(near, far, tier.Options{})
		data := storetest.Bytes(1, 5000)
		d := mustPut(t, far.Store, data)
		gate := make(chan struct{})
		far.part.gate = gate
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				asked := d
				if i%2 == 0 {
					asked.Size = digest.AnySize
				}
				got, err := blob.Get(ctx, s, asked)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("Get = %d bytes, %v", len(got), err)
				}
			})
		}
		other := d
		other.Size++
		all.Go(func() {
			if _, err := s.Open(ctx, other); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("Open with another size = %v, want ErrNotFound", err)
			}
		})
		synctest.Wait()
		close(gate)
		all.Wait()
		if got := far.opens.Load(); got != 1 {
			t.Errorf("it was opened %d times in the far store, want 1", got)
		}
		if got := s.Stats(); got.Fetched != 1 || got.Unfilled != 0 {
			t.Errorf("Stats = %+v, want one that was fetched", got)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := near.Pins() + far.Pins(); n > 0 {
			t.Errorf("%d pins are held", n)
		}
	})
}

// TestLeaderLeaves: when the caller goes that reads for all others, one of these reads for the others.
func TestLeaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart()}
		s := tier.New(near, far, tier.Options{})
		data := storetest.Bytes(1, 5000)
		d := mustPut(t, far.Store, data)
		gate := make(chan struct{})
		far.part.gate = gate
		leader, leave := context.WithCancel(ctx)
		var all sync.WaitGroup
		for i := range 10 {
			mine := ctx
			if i == 0 {
				mine = leader
			}
			all.Go(func() {
				got, errs := s.GetAll(mine, []digest.Digest{d})
				if i > 0 && (errs[0] != nil || !bytes.Equal(got[0], data)) {
					t.Errorf("GetAll = %d bytes, %v", len(got[0]), errs[0])
				}
			})
			synctest.Wait()
		}
		leave()
		close(gate)
		all.Wait()
		if got := far.gets.Load(); got != 2 {
			t.Errorf("it was read %d times, want twice: by who left, and for all others", got)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestBackAway: what was written back while the far store is away stays pinned, and climbs when that is back.
func TestBackAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, plain := forgetful()
		far := &troubled{part: plain}
		far.away.Store(true)
		s := tier.New(near, far, tier.Options{WriteBack: true, Uploads: 1})
		d := mustPut(t, s, storetest.Bytes(1, 5000))
		key := [32]byte{1}
		if err := s.Put(ctx, key, []byte("value")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		near.Evict()
		if !has(t, near.Store, d) {
			t.Error("it was evicted before it climbed")
		}
		if got := s.Stats(); got.Waiting != 2 || got.WaitBytes != 5005 || got.Failed < 20 {
			t.Errorf("Stats = %+v, want 2 that wait, and 20 tries at least", got)
		}
		// A root needs it far now, and says at once that this can't be.
		if err := s.Keep(ctx, "root", nil, digest.SetOf(d)); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("Keep = %v, want that the store is unavailable", err)
		}
		far.away.Store(false)
		time.Sleep(time.Minute)
		if !has(t, far.Store, d) {
			t.Error("it did not climb when the far store was back")
		}
		if rec, err := far.Get(ctx, key); err == nil && string(rec.Value) != "value" {
			t.Errorf("the record is %q", rec.Value)
		}
		if got := s.Stats(); got.Waiting != 0 || got.WaitBytes != 0 || got.Climbed == 0 {
			t.Errorf("Stats = %+v, want none that waits", got)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := near.Pins() + far.Pins(); n > 0 {
			t.Errorf("%d pins are held", n)
		}
	})
}

// TestQueueFull: while the far store is away and the queue is full, a write is refused, and does not wait for ever.
func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart()}
		far.away.Store(true)
		s := tier.New(near, far, tier.Options{WriteBack: true, Queue: 6000})
		mustPut(t, s, storetest.Bytes(1, 5000))
		data := storetest.Bytes(2, 5000)
		if err := blob.Put(ctx, s, digest.SHA256.Of(data), data); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("Put = %v, want that the store is unavailable", err)
		}
		if err := s.Close(ctx); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("Close = %v, want that one blob did not climb", err)
		}
	})
}

// TestCloseHung: a far store that never answers does not keep Close.
func TestCloseHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart(), hung: make(chan struct{})}
		s := tier.New(near, far, tier.Options{WriteBack: true})
		mustPut(t, s, storetest.Bytes(1, 400<<10))
		large := mustPut(t, far.Store, storetest.Bytes(2, 6<<20))
		r, err := s.Open(ctx, large)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // both hang
		soon, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := s.Close(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close = %v, want that one blob did not climb", err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("Close took %v", took)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		close(far.hung)
		synctest.Wait()
		if n := near.Pins() + far.Pins(); n > 0 {
			t.Errorf("%d pins are held", n)
		}
	})
}

// TestNearSlow: readers of a small blob do not wait until the near store has room for it.
func TestNearSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), newPart()
		near.gate = make(chan struct{})
		s := tier.New(near, far, tier.Options{})
		data := storetest.Bytes(1, 400<<10)
		d := mustPut(t, far.Store, data)
		began := time.Now()
		if got, err := blob.Get(ctx, s, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("Get = %d bytes, %v", len(got), err)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited for %v", waited)
		}
		close(near.gate)
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestSlowReader: a reader that the shared read has left behind, or that waits for it in vain, goes on by itself.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart(), hung: make(chan struct{})}
		s := tier.New(near, far, tier.Options{})
		large := storetest.Bytes(2, 6<<20)
		d := mustPut(t, far.Store, large)
		r, err := s.Open(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it hangs after 5 MiB, and remembers 4 of these
		got := make([]byte, 1000)
		for _, off := range []int64{0, 5<<20 + 1000} {
			if _, err := r.ReadAt(got, off); err != nil || !bytes.Equal(got, large[off:off+1000]) {
				t.Errorf("ReadAt of %d = %v", off, err)
			}
		}
		close(far.hung)
		if err := errors.Join(r.Close(), s.Close(ctx)); err != nil {
			t.Error(err)
		}
		if n := near.Pins() + far.Pins(); n > 0 {
			t.Errorf("%d pins are held", n)
		}
	})
}

// TestFillOvertakes: a record that is put while an older one comes from the far store stays.
func TestFillOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart(), gate: make(chan struct{})}
		key := [32]byte{7}
		if err := far.Store.Put(ctx, key, []byte("older")); err != nil {
			t.Fatal(err)
		}
		s := tier.New(near, far, tier.Options{})
		read := make(chan error)
		go func() {
			_, err := s.Get(ctx, key)
			read <- err
		}()
		synctest.Wait() // it has read the older one
		if err := s.Put(ctx, key, []byte("newer")); err != nil {
			t.Fatal(err)
		}
		close(far.gate)
		if err := <-read; err != nil {
			t.Error(err)
		}
		if rec, err := s.Get(ctx, key); err != nil || string(rec.Value) != "newer" {
			t.Errorf("after a newer one was acknowledged: %q, %v", rec.Value, err)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestFarHidden: a record that the near store has no room for is not acknowledged while an older one is near.
func TestFarHidden(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{})
	key := [32]byte{7}
	if err := s.Put(ctx, key, []byte("older")); err != nil {
		t.Fatal(err)
	}
	near.set(func() { near.full = true })
	err := s.Put(ctx, key, []byte("newer"))
	rec, err2 := s.Get(ctx, key)
	if err2 != nil {
		t.Fatal(err2)
	}
	if err == nil && string(rec.Value) != "newer" {
		t.Errorf("newer was acknowledged, and %s is there", rec.Value)
	} else if err != nil && !errors.Is(err, blob.ErrFull) {
		t.Errorf("Put = %v, want ErrFull", err)
	}
}

// TestDropped: a record that is dropped as often as it is found is found once in each store.
func TestDropped(t *testing.T) {
	near, far := newPart(), newPart()
	s := tier.New(near, far, tier.Options{})
	for i := range 5 { // so that numbers differ
		if err := near.Store.Put(ctx, [32]byte{byte(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	key := [32]byte{7}
	if err := far.Store.Put(ctx, key, []byte("value")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rec, err := s.Get(ctx, key)
		if err == nil {
			err = s.Drop(ctx, key, rec.Incarnation)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(ctx, key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get of what was dropped = %v, want ErrNotFound", err)
	}
}
