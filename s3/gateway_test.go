package s3

import (
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// gateway returns a client of a real S3 server's bucket.
func gateway(t *testing.T, prefix string) *bucket.S3 {
	t.Helper()
	s := versitygw.Start(t)
	b, err := bucket.Open(t.Context(), bucket.Options{Endpoint: s.Endpoint, Bucket: s.Bucket, Prefix: prefix, PathStyle: true, AccessKey: s.AccessKey, SecretKey: s.SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGateway: the contract, on a real S3 server.
func TestGateway(t *testing.T) {
	open := func(t *testing.T) storetest.Fixture {
		o := small
		o.blockSize, o.chunk = 0, 1
		o.Lease = 50 * time.Millisecond // the tests' clock is the machine's
		s := openStore(t, gateway(t, "p/"), o)
		return storetest.Fixture{
			Store: s,
			Lease: o.Lease,
			Sizes: []int{1, 1024, 40000, 6 << 20},
			Evict: func() { s.evictAll(t) },
			Leaks: func() error { return nil },
			Close: func() { closeStore(t, s) },
		}
	}
	t.Run("Store", func(t *testing.T) { storetest.Run(t, open) })
	t.Run("Keeper", func(t *testing.T) { storetest.Keeper(t, open) })
}

// TestGatewayCollects: on a real S3 server two sessions agree on what goes.
func TestGatewayCollects(t *testing.T) {
	b := gateway(t, "p/")
	ctx := t.Context()
	open := func() *Store {
		s, err := Open(ctx, b, Options{Lease: time.Millisecond, Heartbeat: 4 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeStore(t, s) })
		return s
	}
	one, two := open(), open()
	d := digest.SHA256.Of([]byte("garbage"))
	if err := blob.Put(ctx, two, d, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if err := one.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond) // the lease
	if r, err := one.Collect(ctx, Policy{All: true, Patience: time.Minute}); err != nil || r.Candidates != 1 || len(r.Sessions) != 2 {
		t.Errorf("Collect = %+v, %v, want that two sessions said whether they let go of one blob", r, err)
	}
	open() // while answers lie there
}
