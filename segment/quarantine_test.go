package segment

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestVoidTakesOlderOpen is TestVoidTakesOlder, where the upload before was under way when its
// segment got its footer, which so calls it open.
func TestVoidTakesOlderOpen(t *testing.T) {
	for _, end := range []string{"close", "kill"} {
		t.Run(end, func(t *testing.T) {
			fsys := &vfs.Mem{}
			r := openRing(t, fsys, small)
			data := storetest.Bytes(1, 3000)
			before, d := create(t, r, data)
			r.turn <- struct{}{}
			err := r.rotate(0, false)
			<-r.turn
			if err != nil {
				t.Fatal(err)
			}
			behind, _ := create(t, r, data)
			if err := behind.Commit(); err != nil {
				t.Fatal(err)
			}
			rot(t, r, d)
			if _, err := blob.Get(t.Context(), r, d); !errors.Is(err, blob.ErrCorrupt) {
				t.Fatalf("Get of the damaged blob = %v", err)
			}
			if err := before.Commit(); err != nil {
				t.Fatal(err)
			}
			checkBlob(t, r, d, data)
			image := fsys
			if end == "kill" {
				image = fsys.Clone()
			} else {
				closeRing(t, r)
			}
			r = openRing(t, image, small)
			checkBlob(t, r, d, data)
		})
	}
}

// TestAllInUse: all that is cold are big blobs, which somebody reads for a moment. One refusal is
// right, but not until the next quarter.
func TestAllInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		var ds []digest.Digest
		for i := uint64(0); ; i++ {
			data := storetest.Bytes(i, 100000)
			d := digest.SHA256.Of(data)
			if blob.Put(t.Context(), r, d, data) != nil {
				break
			}
			ds = append(ds, d)
		}
		time.Sleep(2*small.Lease + time.Minute)
		var readers []blob.Reader
		for _, d := range ds {
			if rd, err := r.Open(t.Context(), d); err == nil {
				readers = append(readers, rd)
			}
		}
		put := func(seed uint64) error {
			data := storetest.Bytes(1000+seed, 100000)
			return blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
		}
		t.Logf("%d big blobs, %d read; Put meanwhile: %v", len(ds), len(readers), put(0))
		for _, rd := range readers {
			rd.Close()
		}
		refused := 0
		var last error
		for i := range uint64(5) {
			time.Sleep(30 * time.Second)
			if err := put(1 + i); err != nil {
				refused++
				last = err
			}
		}
		if refused > 0 {
			t.Errorf("%d of 5 writes, 30 s apart, refused although all that is there is cold and nobody reads: %v", refused, last)
		}
	})
}

// TestRescueBig: a leased big blob could not be synced. There is less room than it takes, but for
// what is cold. Results are refused until it lies elsewhere, so it must come to that.
func TestRescueBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &faulty{FS: &vfs.Mem{}}
		r := openRing(t, fsys, small)
		defer closeRing(t, r)
		for i := range uint64(70) {
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		time.Sleep(2*small.Lease + time.Minute)
		big := mustPut(t, r, storetest.Bytes(999, 300000))
		s, _ := where(t, r, big)
		failed := 0
		fsys.set(func(op, name string, _ int64, _ int) error {
			if op == "sync" && name == filepath.Base(s.name) && failed == 0 {
				failed++
				return errDisk
			}
			return nil
		})
		if err := r.Put(context.Background(), [32]byte{1}, []byte("x")); err == nil || failed != 1 {
			t.Fatalf("Put = %v, %d syncs failed", err, failed)
		}
		refused := 0
		var last error
		for range 20 {
			time.Sleep(time.Minute)
			mustLease(t, r, big)
			if last = r.Put(context.Background(), [32]byte{1}, []byte("x")); last != nil {
				refused++
			}
		}
		st := r.Stats()
		if refused > 1 {
			t.Errorf("%d of 20 results, a minute apart, refused after one failed sync; %d of %d bytes leased: %v", refused, st.LeasedBytes, st.MaxBytes, last)
		}
	})
}

// TestAllPinned is TestAllInUse with small blobs, which the cleaner moves round and round.
func TestAllPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		var readers []blob.Reader
		for i := range uint64(70) {
			d := mustPut(t, r, storetest.Bytes(i, 10000))
			rd, err := r.Open(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, rd)
		}
		time.Sleep(2*small.Lease + time.Minute)
		put := func(seed uint64) error {
			data := storetest.Bytes(1000+seed, 10000)
			return blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
		}
		var err error
		for i := uint64(0); i < 20 && err == nil; i++ {
			err = put(i)
		}
		t.Log("Put meanwhile: ", err)
		for _, rd := range readers {
			rd.Close()
		}
		time.Sleep(time.Minute)
		refused := 0
		var last error
		for i := range uint64(60) {
			time.Sleep(time.Second)
			if err := put(100 + i); err != nil {
				refused++
				last = err
			}
		}
		if refused > 1 {
			t.Errorf("%d of 60 writes refused although all that is there is cold and nobody reads: %v", refused, last)
		}
	})
}

// TestViewTakesOlder: what start-up finds, Inspect shows.
func TestViewTakesOlder(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 3000)
	before, d := create(t, r, data)
	behind, _ := create(t, r, data)
	if err := behind.Commit(); err != nil {
		t.Fatal(err)
	}
	rot(t, r, d)
	_, _ = blob.Get(t.Context(), r, d)
	if err := before.Commit(); err != nil {
		t.Fatal(err)
	}
	closeRing(t, r)
	_, err := Inspect(t.Context(), fsys, "ring", func(Damage) {}, func(v *View) error {
		rd, err := v.Open(t.Context(), d)
		if err == nil {
			rd.Close()
		}
		return err
	})
	if err != nil {
		t.Errorf("Open in a View of what a ring has = %v", err)
	}
}

// TestVoidUnwritten: the void record can't be written. Another incarnation is acknowledged, and is
// there after a restart.
func TestVoidUnwritten(t *testing.T) {
	mem := &vfs.Mem{}
	fsys := &faulty{FS: mem}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 3000)
	before, d := create(t, r, data)
	behind, _ := create(t, r, data)
	if err := behind.Commit(); err != nil {
		t.Fatal(err)
	}
	rot(t, r, d)
	failed := 0
	fsys.set(func(op, name string, _ int64, _ int) error {
		if op == "write" && failed == 0 {
			failed++
			return errDisk
		}
		return nil
	})
	_, _ = blob.Get(t.Context(), r, d)
	if failed != 1 {
		t.Fatal("nothing failed")
	}
	fsys.set(nil)
	if err := before.Commit(); err != nil {
		t.Fatal(err)
	}
	checkBlob(t, r, d, data)
	closeRing(t, r) // its footer calls the damaged one complete
	r = openRing(t, mem, small)
	checkBlob(t, r, d, data)
}

// TestQuota: the system gives no room though it says that there is some. What is cold makes room.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		for i := range uint64(40) {
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		time.Sleep(2 * small.Lease)
		synctest.Wait()
		limit := r.Stats().UsedBytes
		fsys.SetFault(func(op, name string) error {
			if op == "create" && filepath.Ext(name) == segmentExt && r.used() > limit-small.segmentSize {
				return syscall.EDQUOT
			}
			return nil
		})
		refused := 0
		for i := range uint64(60) {
			data := storetest.Bytes(1000+i, 10000)
			err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
			if errors.Is(err, blob.ErrFull) {
				refused++
				synctest.Wait()
				err = blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
			}
			if i < 20 && err != nil {
				t.Fatalf("put %d, after the cleaner had been there: %v", i, err)
			}
		}
		if refused == 0 {
			t.Error("the quota was never met")
		}
		fsys.SetFault(nil)
	})
}

// TestCopyInVain: there is no room for a copy of what is leased. The cleaner waits, and doesn't wake himself
// for the next attempt.
func TestCopyInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		for i := range uint64(60) {
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		var attempts atomic.Int64
		fsys.SetFault(func(op, name string) error {
			if op == "create" && filepath.Ext(name) == segmentExt {
				attempts.Add(1)
				return syscall.EDQUOT
			}
			return nil
		})
		if err := r.SetMaxSize(minSegments * small.segmentSize); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := attempts.Load(); n == 0 || n > 100 {
			t.Errorf("%d segments were tried, want some and then a pause", n)
		}
		fsys.SetFault(nil)
		closeRing(t, r)
	})
}
