package s3

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// aged returns a store that has n blobs, written an hour from one to the next, and none leased; the youngest is an hour old.
func aged(t *testing.T, b *bucket.Memory, n int) *Store {
	o := small
	o.uncompressed, o.Lease, o.Heartbeat = true, time.Second, 1000*time.Hour
	s := openStore(t, b, o)
	for i := range n {
		value := storetest.Bytes(uint64(i), 900)
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(value), value); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
	}
	return s
}

// has reports which of the first n blobs that aged wrote are there, oldest first.
func has(b *bucket.Memory, n int) string {
	var there strings.Builder
	for i := range n {
		there.WriteByte(".x"[min(1, len(b.Keys(blobPrefix(keyOf(digest.SHA256.Of(storetest.Bytes(uint64(i), 900)))))))])
	}
	return there.String()
}

// TestGrace: what is younger stays, also where everything else goes, and where the bucket is too large.
func TestGrace(t *testing.T) {
	for want, policy := range map[string]Policy{
		"....xx": {All: true, Grace: 150 * time.Minute},
		"......": {All: true},
		"xxxxxx": {All: true, Grace: 7 * time.Hour},
		"...xxx": {MaxSize: 1, Grace: 210 * time.Minute},
		".xxxxx": {MaxSize: 5200},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &bucket.Memory{}
			s := aged(t, b, 6)
			for range 2 { // what was used has a second chance
				if _, err := s.Collect(t.Context(), policy); err != nil {
					t.Errorf("Collect = %v", err)
				}
			}
			if got := has(b, 6); got != want {
				t.Errorf("%+v leaves %s, want %s", policy, got, want)
			}
			closeStore(t, s)
		})
	}
}

// TestLimit: so many go at once, the oldest first, and More says whether there is more to do.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{PageSize: 2}
		s := aged(t, b, 5)
		for _, want := range []struct {
			left string
			more bool
		}{{"..xxx", true}, {"....x", true}, {".....", false}} {
			r, err := s.Collect(t.Context(), Policy{All: true, Limit: 2})
			if got := has(b, 5); err != nil || r.More != want.more || got != want.left {
				t.Errorf("left %s, more %v, %v, want %s, %v", got, r.More, err, want.left, want.more)
			}
		}
		closeStore(t, s)
	})
}

// TestSecondsBounded: second copies beyond what goes at once wait for the next collection, and are not held until then.
func TestSecondsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		s := aged(t, b, 1)
		for range 20 {
			if err := s.Put(t.Context(), [32]byte{1}, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		c := &choice{policy: Policy{Limit: 2}, marks: newMarks(), life: s.now.Load(), second: map[string][]found{}}
		var group []found
		for _, key := range b.Keys(records) {
			i, _ := parseName(key)
			group = append(group, found{incarnation: i})
		}
		if c.judge(group); len(group) != 20 || c.secondCopies != 8 {
			t.Errorf("of %d incarnations of one record %d are held as superfluous, want 8 of 20", len(group), c.secondCopies)
		}
		for i := range 5 {
			r, err := s.Collect(t.Context(), Policy{Limit: 2})
			if want := min(4, 19-4*i); err != nil || r.Deleted != want {
				t.Errorf("collection %d deletes %d, %v, want %d", i, r.Deleted, err, want)
			}
		}
		if got := len(b.Keys(records)); got != 1 {
			t.Errorf("%d incarnations of one record are left, want the last", got)
		}
		closeStore(t, s)
	})
}

// TestLocked: an object that can't be removed does not keep others from being removed, and is not forgotten.
func TestLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		s := aged(t, b, 2)
		locked := b.Keys(blobs)[0]
		b.Fault = func(op, key string) bucket.Fault {
			if op == "delete" && strings.Contains(key, locked) {
				return bucket.Refuse
			}
			return bucket.None
		}
		if _, err := s.Collect(t.Context(), Policy{All: true}); err == nil {
			t.Error("Collect = nil, though nothing could be removed")
		}
		value := storetest.Bytes(9, 900)
		if err := blob.Put(t.Context(), s, digest.SHA256.Of(value), value); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := s.Collect(t.Context(), Policy{All: true}); err != nil {
			t.Errorf("the next Collect = %v", err)
		}
		if keys := b.Keys(blobs); len(keys) != 2 {
			t.Errorf("left: %v, want what was locked", keys)
		}
		b.Fault = nil
		if _, err := s.Collect(t.Context(), Policy{All: true}); err != nil || len(b.Keys(blobs)) > 0 {
			t.Errorf("when it is unlocked: %v, %v is left", err, b.Keys(blobs))
		}
		closeStore(t, s)
	})
}

// TestRecordLeased: a record that was got stays for its lease, whoever collects.
func TestRecordLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		o := small
		o.uncompressed = true
		s := openStore(t, b, o)
		if err := s.Put(t.Context(), [32]byte{1}, []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * small.Lease)
		if _, err := s.Get(t.Context(), [32]byte{1}); err != nil {
			t.Fatal(err)
		}
		s.evictAll(t)
		if _, err := s.Get(t.Context(), [32]byte{1}); err != nil {
			t.Errorf("in its lease, after a collection: Get = %v", err)
		}
		time.Sleep(2 * small.Lease)
		s.evictAll(t)
		if _, err := s.Get(t.Context(), [32]byte{1}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("after its lease and a collection: Get = %v, want ErrNotFound", err)
		}
		closeStore(t, s)
	})
}

// An unswept bucket does not let anybody list uploads.
type unswept struct{ *bucket.Memory }

func (unswept) Sweep(context.Context, string, time.Time) (int, error) {
	return 0, bucket.ErrCredentials
}

// TestUnswept: who may not end others' uploads can collect nevertheless.
func TestUnswept(t *testing.T) {
	s := openStore(t, unswept{&bucket.Memory{}}, small)
	if _, err := s.Collect(t.Context(), Policy{All: true}); err != nil {
		t.Errorf("Collect = %v", err)
	}
	closeStore(t, s)
}
