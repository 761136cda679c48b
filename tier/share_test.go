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

// TestCameSince: what was not in the far store when somebody else asked for it, and was stored and promised while that one
// waits for the answer, is found.
func TestCameSince(t *testing.T) {
	for name, get := range map[string]func(*tier.Store, digest.Digest) error{
		"Open": func(s *tier.Store, d digest.Digest) error {
			_, err := blob.Get(ctx, s, d)
			return err
		},
		"GetAll": func(s *tier.Store, d digest.Digest) error {
			_, errs := s.GetAll(ctx, []digest.Digest{d})
			return errs[0]
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			far := &lagging{part: newPart(), answer: make(chan struct{})}
			s := tier.New(newPart(), far, tier.Options{})
			data := storetest.Bytes(1, 5000)
			d := digest.SHA256.Of(data)
			var all sync.WaitGroup
			all.Go(func() {
				// It may find what the other reader brought near meanwhile.
				if err := get(s, d); err != nil && !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s before it was stored = %v", name, err)
				}
			})
			synctest.Wait()
			mustPut(t, far.Store, data) // by another server
			if missing, err := s.Missing(ctx, digest.SetOf(d)); err != nil || missing.Len() > 0 {
				t.Errorf("Missing = %v, %v", missing, err)
			}
			all.Go(func() {
				if err := get(s, d); err != nil {
					t.Errorf("YesStands: %s of what is not missing = %v", name, err)
				}
			})
			synctest.Wait()
			close(far.answer)
			all.Wait()
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// A lagging store knows at once whether it has a blob, and says so late.
type lagging struct {
	*part
	answer chan struct{}
}

func (l *lagging) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := l.part.Open(ctx, d)
	<-l.answer
	return r, err
}

func (l *lagging) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := l.part.GetAll(ctx, ds)
	<-l.answer
	return data, errs
}

// TestTurn: a reader of a large blob whose turn does not come goes on by itself.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &stuck{part: newPart(), hung: make(chan struct{})}
		s := tier.New(near, far, tier.Options{})
		var ds []digest.Digest
		var readers []blob.Reader
		for i := range 17 {
			ds = append(ds, mustPut(t, far.Store, storetest.Bytes(uint64(i), 1<<20+1)))
			r, err := s.Open(ctx, ds[i])
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, r)
			synctest.Wait()
		}
		began := time.Now()
		got := make([]byte, 1000)
		if _, err := readers[16].ReadAt(got, 0); err != nil || !bytes.Equal(got, storetest.Bytes(16, 1<<20+1)[:1000]) {
			t.Errorf("ReadAt = %v", err)
		}
		if waited := time.Since(began); waited > time.Minute {
			t.Errorf("it waited for %v", waited)
		}
		close(far.hung)
		for _, r := range readers {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := near.Pins() + far.Pins(); n > 0 {
			t.Errorf("%d pins are held", n)
		}
	})
}

// A stuck store's first 16 Readers give nothing for a day.
type stuck struct {
	*part
	opens atomic.Int64
	hung  chan struct{}
}

func (s *stuck) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := s.part.Open(ctx, d)
	if err == nil && s.opens.Add(1) <= 16 {
		r = stuckReader{r, s}
	}
	return r, err
}

type stuckReader struct {
	blob.Reader
	s *stuck
}

func (r stuckReader) ReadAt(p []byte, off int64) (int, error) {
	select {
	case <-r.s.hung:
	case <-time.After(24 * time.Hour):
	}
	return r.Reader.ReadAt(p, off)
}

// TestQueueFullBatch: many blobs in one call wait for room once, and not one after the other.
func TestQueueFullBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPart(), &troubled{part: newPart()}
		far.away.Store(true)
		s := tier.New(near, far, tier.Options{WriteBack: true, Queue: 6000})
		mustPut(t, s, storetest.Bytes(1, 5000))
		var ds []digest.Digest
		var data [][]byte
		for i := range 100 {
			data = append(data, storetest.Bytes(uint64(i+2), 5000))
			ds = append(ds, digest.SHA256.Of(data[i]))
		}
		began := time.Now()
		for _, err := range s.PutAll(ctx, ds, data) {
			if !errors.Is(err, blob.ErrUnavailable) {
				t.Errorf("PutAll = %v, want that the store is unavailable", err)
			}
		}
		if waited := time.Since(began); waited > time.Minute {
			t.Errorf("it waited for %v", waited)
		}
		if err := s.Close(ctx); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("Close = %v, want that one blob did not climb", err)
		}
	})
}
