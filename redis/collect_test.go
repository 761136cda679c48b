package redis_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/boottime"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestCollected: two servers adopt what the other one wrote, by what Redis says, while a third one collects all that
// nobody promised. What a server said yes to is read from it within the lease.
func TestCollected(t *testing.T) {
	node := redisserver.Start(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SARSEN_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("SARSEN_SEED=%d go test ./redis -run TestCollected", seed)
	const lease = time.Second
	b := &bucket.Memory{}
	inner := s3.Options{Lease: lease, Heartbeat: 2 * time.Second}
	servers := []*server{joinWith(t, b, at(node), inner), joinWith(t, b, at(node), inner)}
	collector := joinWith(t, b, at(node), inner)
	// So many that most are promised by nobody at a time.
	ds, data := some(1, 6000, 200)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for n := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		group.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
				i := r.IntN(len(ds))
				if err := promised(t.Context(), servers[n%2], ds[i], data[i], n < 2, lease); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rounds := 0
	for until := time.Now().Add(time.Minute); (rounds < 3 || servers[0].client.Stats().Stale < 20) && time.Now().Before(until); rounds++ {
		if _, err := collector.inner.Collect(t.Context(), s3.Policy{All: true, Patience: 20 * time.Second}); err != nil {
			t.Errorf("Collect = %v", err)
		}
	}
	stop()
	group.Wait()
	t.Logf("%d collections, %d deleted; %+v", rounds, collector.inner.Stats().Deleted, servers[0].client.Stats())
	if collector.inner.Stats().Deleted == 0 || servers[0].client.Stats().Adopted == 0 || servers[0].client.Stats().Stale == 0 {
		t.Errorf("nothing was deleted, adopted, or named in vain: %+v, %+v", collector.inner.Stats(), servers[0].client.Stats())
	}
}

// TestCollectedMeanwhile: what another server stored was there when it was looked for, and is collected before that is
// known. It is missing.
func TestCollectedMeanwhile(t *testing.T) {
	b := &bucket.Memory{}
	o := at(redisserver.Start(t))
	inner := s3.Options{Lease: time.Second, Heartbeat: 2 * time.Second}
	here, there, collector := joinWith(t, b, o, inner), joinWith(t, b, o, inner), joinWith(t, b, o, inner)
	ds, data := some(1, 1, 100)
	putAll(t, here, ds, data)
	time.Sleep(2 * inner.Lease) // until the promise of the put has ended
	var once sync.Once
	there.bucket.meanwhile = func() {
		once.Do(func() {
			if _, err := collector.inner.Collect(t.Context(), s3.Policy{All: true, Patience: time.Minute}); err != nil {
				t.Errorf("Collect = %v", err)
			}
		})
	}
	missing, err := there.Missing(t.Context(), digest.SetOf(ds...))
	if left := b.Keys("c/"); err != nil || missing.Len() != 1 || len(left) != 0 {
		t.Errorf("YesStands: %d missing, %v, want the one; there is %v", missing.Len(), err, left)
	}
}

// promised puts a blob or asks for it, and reads it if the answer was yes and its lease has not ended.
func promised(ctx context.Context, s *server, d digest.Digest, data []byte, puts bool, lease time.Duration) error {
	began := boottime.Now()
	if puts {
		if err := blob.Put(ctx, s, d, data); err != nil {
			return fmt.Errorf("put: %w", err)
		}
	} else if missing, err := s.Missing(ctx, digest.SetOf(d)); err != nil || missing.Len() > 0 {
		if errors.Is(err, s3.ErrSuspended) {
			err = nil
		}
		return err
	}
	got, err := blob.Get(ctx, s, d)
	if boottime.Now()-began > lease {
		return nil
	}
	if err != nil || string(got) != string(data) {
		return fmt.Errorf("YesStands: put %v: %d bytes, %w", puts, len(got), err)
	}
	return nil
}
