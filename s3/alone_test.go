package s3

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestCollectAlone: a collection without a store asks the server that there is, and leaves nobody to wait for.
func TestCollectAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemory()
		o := small
		o.Lease, o.Heartbeat, o.manual, o.uncompressed = time.Hour, time.Minute, false, true
		s := openStore(t, b, o)
		data := storetest.Bytes(1, 100)
		d := digest.SHA256.Of(data)
		if err := blob.Put(t.Context(), s, d, data); err != nil {
			t.Fatal(err)
		}
		policy := Policy{All: true, Patience: 2 * time.Minute}
		r, err := CollectAlone(t.Context(), b, o, policy)
		if err != nil || r.Objects != 1 || r.Refused != 1 || r.Deleted != 0 || len(r.Sessions) != 2 {
			t.Errorf("while it is leased: got %+v, %v, want one object, refused", r, err)
		}
		time.Sleep(2 * time.Hour)
		for i, deleted := range []int{1, 0} { // the second one need not wait for the first
			r, err := CollectAlone(t.Context(), b, o, policy)
			if err != nil || r.Deleted != deleted {
				t.Errorf("collection %d: got %+v, %v, want %d deleted", i, r, err, deleted)
			}
		}
		if got := objectsBelow(t, b, blobs); got != 0 {
			t.Errorf("%d blobs are left", got)
		}
		if got := objectsBelow(t, b, sessions); got != 1 {
			t.Errorf("%d sessions are left, want the server's", got)
		}
		if last, now, err := s.Collected(t.Context()); err != nil || now.Sub(last) > time.Hour {
			t.Errorf("collected at %v, and it is %v, %v", last, now, err)
		}
		if s.Knows(d) {
			t.Error("the server names what was deleted")
		}
		closeStore(t, s)
	})
}

func objectsBelow(t *testing.T, b bucket.Bucket, prefix string) (n int) {
	t.Helper()
	if _, err := bucket.All(t.Context(), b, prefix, func(page []bucket.Object) error { n += len(page); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}
