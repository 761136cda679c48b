package s3

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A mute bucket does not answer those who put below a prefix until they give up.
type mute struct {
	*bucket.Memory
	prefix string
}

func (m *mute) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
	if m.prefix != "" && strings.HasPrefix(key, m.prefix) {
		<-ctx.Done()
		return bucket.Object{}, ctx.Err()
	}
	return m.Memory.Put(ctx, key, body, size, when)
}

// TestCloseMute: an upload that the bucket does not answer holds no Close up.
func TestCloseMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &mute{Memory: &bucket.Memory{}, prefix: blobs}
		o := small
		o.Heartbeat, o.manual, o.uncompressed = time.Minute, false, true
		s := openStore(t, b, o)
		put := make(chan error)
		go func() { put <- blob.Put(t.Context(), s, digest.SHA256.Of(data(1)), data(1)) }()
		synctest.Wait()
		began := time.Now()
		go func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close = %v", err)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("Close took %v", took)
			}
			put <- nil
		}()
		if err := <-put; !errors.Is(err, context.Canceled) {
			t.Errorf("Put = %v, want that it was given up", err)
		}
		<-put
	})
}

// TestWithdrawMute: a collection that is given up while the bucket does not answer ends.
func TestWithdrawMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &mute{Memory: &bucket.Memory{}}
		o := small
		o.Heartbeat, o.Lease, o.uncompressed = time.Minute, time.Second, true
		s := openStore(t, b, o)
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(data(1)), data(1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		ctx, stop := context.WithCancel(t.Context())
		b.Before = func(op, key string) {
			if op == "list" && strings.HasPrefix(key, proposals) && key != proposals { // for answers
				b.prefix = registerKey
				stop()
			}
		}
		began := time.Now()
		if _, err := s.Collect(ctx, Policy{All: true}); !errors.Is(err, context.Canceled) {
			t.Errorf("Collect = %v", err)
		}
		if took := time.Since(began); took == 0 || took > 2*time.Minute {
			t.Errorf("it took %v to withdraw what was proposed", took)
		}
		b.prefix = ""
		closeStore(t, s)
	})
}
