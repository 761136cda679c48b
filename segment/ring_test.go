package segment

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

func mustPut(t *testing.T, r *Ring, data []byte) digest.Digest {
	t.Helper()
	d := digest.SHA256.Of(data)
	if err := blob.Put(t.Context(), r, d, data); err != nil {
		t.Fatalf("Put of %d bytes = %v", len(data), err)
	}
	return d
}

func mustLease(t *testing.T, r *Ring, d digest.Digest) {
	t.Helper()
	if missing, err := r.Missing(t.Context(), digest.SetOf(d)); err != nil || missing.Len() > 0 {
		t.Errorf("Missing = %v, %v, want none", missing.List(), err)
	}
}

func checkBlob(t *testing.T, r *Ring, d digest.Digest, want []byte) {
	t.Helper()
	got, err := blob.Get(t.Context(), r, d)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Get of %v = %d bytes, %v", d, len(got), err)
	}
}

// putAllSizes puts one blob of each size and returns a check that they are there.
func putAllSizes(t *testing.T, r *Ring) (check func(*Ring)) {
	for i, n := range sizes {
		mustPut(t, r, storetest.Bytes(uint64(i), n))
	}
	return func(r *Ring) {
		t.Helper()
		for i, n := range sizes {
			data := storetest.Bytes(uint64(i), n)
			checkBlob(t, r, digest.SHA256.Of(data), data)
		}
	}
}

func TestRestart(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	check := putAllSizes(t, r)
	key := [32]byte{1}
	for _, v := range []string{"old", "new"} {
		if err := r.Put(t.Context(), key, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		closeRing(t, r)
		r = openRing(t, fsys, small)
		check(r)
		if rec, err := r.Get(t.Context(), key); err != nil || string(rec.Value) != "new" {
			t.Errorf("record = %q, %v, want new", rec.Value, err)
		}
		if err := r.leaks(fsys); err != nil {
			t.Error(err)
		}
	}
	closeRing(t, r)
}

// TestKill opens what a killed process leaves: no footer, no lease file, and an upload half done.
func TestKill(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	check := putAllSizes(t, r)
	var half []digest.Digest
	for _, n := range []int{3000, 40000} {
		data := storetest.Bytes(99, n)
		d := digest.SHA256.Of(data)
		w, err := r.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write(data[:n-1]); err != nil {
			t.Fatal(err)
		}
		half = append(half, d)
	}
	last := storetest.Bytes(7, 200)
	mustPut(t, r, last) // its header is behind the half one's
	if err := r.Put(t.Context(), [32]byte{1}, []byte("result")); err != nil {
		t.Fatal(err)
	}
	image := fsys.Clone()
	for range 2 { // the second time there are footers
		r2 := openRing(t, image, small)
		check(r2)
		checkBlob(t, r2, digest.SHA256.Of(last), last)
		for _, d := range half {
			if _, err := r2.Open(t.Context(), d); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("Open of half an upload = %v, want ErrNotFound", err)
			}
		}
		if rec, err := r2.Get(t.Context(), [32]byte{1}); err != nil || string(rec.Value) != "result" {
			t.Errorf("record = %q, %v", rec.Value, err)
		}
		if err := r2.leaks(image); err != nil {
			t.Error(err)
		}
		image = image.Clone()
	}
}

// TestSealWaitsForNobody rotates while an upload is under way, in whose segment the footer then says
// open, and ends it after that.
func TestSealWaitsForNobody(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 10000)
	d := digest.SHA256.Of(data)
	w, err := r.Create(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(data[:5000]); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		mustPut(t, r, storetest.Bytes(uint64(i+10), 16000)) // four fill a segment
	}
	if _, err := w.Write(data[5000:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r2 := openRing(t, fsys.Clone(), small)
	checkBlob(t, r2, d, data)
	closeRing(t, r)
	r3 := openRing(t, fsys, small)
	checkBlob(t, r3, d, data)
	closeRing(t, r3)
}

func TestRecords(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	defer closeRing(t, r)
	key := [32]byte{9}
	if _, err := r.Get(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get before Put = %v, want ErrNotFound", err)
	}
	for _, want := range []string{"one", "", "three"} {
		if err := r.Put(t.Context(), key, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if rec, err := r.Get(t.Context(), key); err != nil || string(rec.Value) != want {
			t.Errorf("Get = %q, %v, want %q", rec.Value, err, want)
		}
	}
	old, _ := r.Get(t.Context(), key)
	if err := r.Put(t.Context(), key, []byte("four")); err != nil {
		t.Fatal(err)
	}
	if err := r.Drop(t.Context(), key, old.Incarnation); err != nil {
		t.Fatal(err)
	}
	rec, err := r.Get(t.Context(), key)
	if err != nil || string(rec.Value) != "four" {
		t.Errorf("after the Drop of an older incarnation: %q, %v, want four", rec.Value, err)
	}
	if err := r.Drop(t.Context(), key, rec.Incarnation); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get after Drop = %v, want ErrNotFound", err)
	}
	if err := r.Put(t.Context(), key, make([]byte, small.segmentSize/4)); !errors.Is(err, blob.ErrTooLarge) {
		t.Errorf("Put of a large record = %v, want ErrTooLarge", err)
	}
}

// TestFull fills the ring with leased blobs, and goes on when the leases are over.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		defer closeRing(t, r)
		fill := func(seed uint64) (n uint64) {
			for ; n < 1000; n++ {
				data := storetest.Bytes(seed+n, 10000)
				err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
				if errors.Is(err, blob.ErrFull) {
					return n
				}
				if err != nil {
					t.Fatal(err)
				}
				if used := r.Stats().UsedBytes; used > small.MaxSize {
					t.Fatalf("%d bytes used of %d", used, small.MaxSize)
				}
			}
			return n
		}
		full := fill(0)
		if leased := int64(full) * 10000; leased < small.MaxSize/4*3 {
			t.Errorf("refused when %d bytes of %d were leased, want three quarters at least", leased, small.MaxSize)
		}
		for i := range full {
			data := storetest.Bytes(i, 10000)
			checkBlob(t, r, digest.SHA256.Of(data), data)
		}
		time.Sleep(2 * small.Lease)
		second := fill(1000)
		if leased := int64(second) * 10000; leased < small.MaxSize/4*3 {
			t.Errorf("after the leases were over: refused when %d bytes of %d were leased", leased, small.MaxSize)
		}
		for i := range second {
			data := storetest.Bytes(1000+i, 10000)
			checkBlob(t, r, digest.SHA256.Of(data), data)
		}
		if s := r.Stats(); s.EvictedSegments == 0 || s.RefusedWrites == 0 {
			t.Errorf("Stats = %+v, want some evicted and refused", s)
		}
		if err := r.leaks(fsys); err != nil {
			t.Error(err)
		}
	})
}

// TestFailedUploadsTakeNoRoom: whatever fails gives its room back, beside leased blobs too.
func TestFailedUploadsTakeNoRoom(t *testing.T) {
	medium := Options{MaxSize: 16 << 20, Lease: time.Hour, segmentSize: 1 << 20, smallSize: 4096, tick: -1}
	for _, live := range []int{0, 1} {
		for _, n := range []int{200000, 700000} {
			fsys := &vfs.Mem{}
			r := openRing(t, fsys, medium)
			for i := range 300 { // many times what the ring holds
				if live > 0 && i%5 == 0 {
					mustPut(t, r, storetest.Bytes(uint64(1000+i), 100))
				}
				data := storetest.Bytes(uint64(i), n)
				w, err := r.Create(t.Context(), digest.SHA256.Of(data))
				if err != nil {
					t.Fatalf("live=%d: Create number %d of %d bytes = %v", live, i, n, err)
				}
				if _, err := w.Write(data[:n/2]); err != nil {
					t.Fatal(err)
				}
				if i%2 == 0 {
					_ = w.Commit() // half a blob
				}
				w.Close()
			}
			check := putAllSizes(t, r)
			if err := r.leaks(fsys); err != nil {
				t.Error(err)
			}
			used := r.used()
			r = openRing(t, fsys.Clone(), medium)
			check(r)
			if after := r.used(); after > used+medium.segmentSize {
				t.Errorf("%d bytes used before a restart, %d after", used, after)
			}
			closeRing(t, r)
		}
	}
}

// TestLeaseOutlivesRestart: a leased blob is still leased after a restart, one that was not is not.
func TestLeaseOutlivesRestart(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fsys := &vfs.Mem{}
				r := openRing(t, fsys, small)
				cold, warm := storetest.Bytes(1, 10000), storetest.Bytes(2, 10000)
				c := mustPut(t, r, cold)
				r.turn <- struct{}{}
				if err := r.rotate(0, false); err != nil {
					t.Fatal(err)
				}
				<-r.turn
				w := mustPut(t, r, warm)
				time.Sleep(2 * small.Lease)
				mustLease(t, r, w)
				if clean {
					closeRing(t, r)
				} else {
					fsys = fsys.Clone()
				}
				r = openRing(t, fsys, small)
				r.evictAll()
				checkBlob(t, r, w, warm)
				if _, err := r.Open(t.Context(), c); (err == nil) == clean {
					t.Errorf("Open of the blob whose lease was over = %v", err)
				}
			})
		})
	}
}

// TestRecordsStay: a record goes with the blobs that were asked for when it was put, not before them.
func TestRecordsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		var blobs []digest.Digest
		key := func(i int) [32]byte { return [32]byte{byte(i), byte(i >> 8)} }
		for i := range 200 {
			d := mustPut(t, r, storetest.Bytes(uint64(i), int(r.segmentSize/8)))
			mustLease(t, r, d)
			if err := r.Put(t.Context(), key(i), []byte{1}); err != nil {
				t.Fatal(err)
			}
			blobs = append(blobs, d)
			time.Sleep(2 * small.Lease)
		}
		there, gone := 0, 0
		for i, d := range blobs {
			if _, ok := r.ledger.SizeOf(keyOf(d)); !ok {
				gone++
				continue
			}
			there++
			if _, err := r.Get(t.Context(), key(i)); err != nil {
				t.Errorf("blob %d is there and its record is not: %v", i, err)
			}
		}
		if there == 0 || gone == 0 {
			t.Errorf("%d blobs are there and %d are gone, want some of both", there, gone)
		}
	})
}

// TestEachRecordLeasesNothing: whoever looks at all records does not keep them.
func TestEachRecordLeasesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		if err := r.Put(t.Context(), [32]byte{1}, []byte("value")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * small.Lease)
		seen := 0
		if err := r.EachRecord(t.Context(), func([32]byte, []byte) error { seen++; return nil }); err != nil {
			t.Fatal(err)
		}
		if leased, _ := r.ledger.Leased(); seen != 1 || leased != 0 {
			t.Errorf("%d records were seen and %d are leased, want 1 and 0", seen, leased)
		}
	})
}

// TestRecordLeased: a record that was got stays for a lease, also over a restart, however the ring turns.
func TestRecordLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		key := [32]byte{1}
		get := func(when string) {
			t.Helper()
			if rec, err := r.Get(t.Context(), key); err != nil || string(rec.Value) != "value" {
				t.Errorf("%s: got %q, %v, want the value", when, rec.Value, err)
			}
		}
		if err := r.Put(t.Context(), key, []byte("value")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(2 * small.Lease)
			get("its lease was over, but nothing was evicted since")
			time.Sleep(small.Lease * 3 / 4)
			r.evictAll()
			r.evictAll()
			get("after eviction, in its lease")
			closeRing(t, r)
			r = openRing(t, fsys, small)
			r.evictAll()
			r.evictAll()
			get("after a restart")
		}
		closeRing(t, r)
	})
}

func TestTooLarge(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	defer closeRing(t, r)
	d := digest.SHA256.Of(nil)
	d.Hash[0]++
	d.Size = r.MaxBlobSize() + 1
	if _, err := r.Create(t.Context(), d); !errors.Is(err, blob.ErrTooLarge) {
		t.Errorf("Create of %d bytes = %v, want ErrTooLarge", d.Size, err)
	}
	data := storetest.Bytes(1, int(r.MaxBlobSize()))
	checkBlob(t, r, mustPut(t, r, data), data)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{MaxSize: MinSize - 1, Lease: time.Hour},
		{MaxSize: -1, Lease: time.Hour},
		{MaxSize: MinSize, Lease: time.Millisecond},
	} {
		if _, err := Open(t.Context(), &vfs.Mem{}, "ring", o); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("Open with %+v = %v, want ErrInvalid", o, err)
		}
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	r, err := Open(t.Context(), vfs.OS{}, dir, small)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), vfs.OS{}, dir, small); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open = %v, want ErrLocked", err)
	}
	check := putAllSizes(t, r)
	closeRing(t, r)
	if r, err = Open(t.Context(), vfs.OS{}, dir, small); err != nil {
		t.Fatal(err)
	}
	check(r)
	closeRing(t, r)
	if _, err := r.Open(t.Context(), digest.SHA256.Of([]byte("x"))); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open after Close = %v", err)
	}
	if err := blob.Put(t.Context(), r, digest.SHA256.Of([]byte("x")), []byte("x")); !errors.Is(err, blob.ErrClosed) {
		t.Errorf("Put after Close = %v, want ErrClosed", err)
	}
}

// A failing is a file system whose syncs or writes fail while the switch is on.
type failing struct {
	vfs.FS
	syncs, writes bool
}

var errDisk = errors.New("input/output error")

func (f *failing) Create(name string, size int64) (vfs.File, error) {
	file, err := f.FS.Create(name, size)
	return failingFile{file, f}, err
}

type failingFile struct {
	vfs.File
	f *failing
}

func (f failingFile) Sync() error {
	if f.f.syncs {
		return errDisk
	}
	return f.File.Sync()
}

func (f failingFile) WriteAt(p []byte, off int64) (int, error) {
	if f.f.writes {
		return 0, errDisk
	}
	return f.File.WriteAt(p, off)
}

// TestSyncFails: a result is never acknowledged after a sync failed, though a later sync succeeds.
func TestSyncFails(t *testing.T) {
	fsys := &failing{FS: &vfs.Mem{}}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 100)
	d := mustPut(t, r, data)
	r.broom <- struct{}{} // the cleaner would copy the segment elsewhere, and then results are taken again
	fsys.syncs = true
	if err := r.Put(t.Context(), [32]byte{1}, []byte("x")); !errors.Is(err, errDisk) {
		t.Errorf("Put while syncs fail = %v, want %v", err, errDisk)
	}
	fsys.syncs = false
	if err := r.Put(t.Context(), [32]byte{1}, []byte("x")); !errors.Is(err, errBadSegment) {
		t.Errorf("Put after a sync failed = %v, want %v", err, errBadSegment)
	}
	if _, err := r.Get(t.Context(), [32]byte{1}); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get of a result that was refused = %v, want ErrNotFound", err)
	}
	<-r.broom
	checkBlob(t, r, d, data)
	checkBlob(t, r, mustPut(t, r, storetest.Bytes(2, 100)), storetest.Bytes(2, 100))
}

// TestWriteFails: a write that fails is told to all who had a part in it, and the ring goes on, with
// results too: what was written can still be synced.
func TestWriteFails(t *testing.T) {
	mem := &vfs.Mem{}
	fsys := &failing{FS: mem}
	r := openRing(t, fsys, small)
	check := putAllSizes(t, r)
	fsys.writes = true
	for i, n := range sizes {
		data := storetest.Bytes(uint64(i)+50, n)
		if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); !errors.Is(err, errDisk) {
			t.Errorf("Put of %d bytes while writes fail = %v, want %v", n, err, errDisk)
		}
	}
	fsys.writes = false
	if err := r.Put(t.Context(), [32]byte{1}, []byte("result")); err != nil {
		t.Errorf("Put of a result after a write failed = %v", err)
	}
	for i, n := range sizes {
		data := storetest.Bytes(uint64(i)+50, n)
		checkBlob(t, r, mustPut(t, r, data), data)
	}
	for range 2 { // the second time after a restart
		check(r)
		if err := r.leaks(mem); err != nil {
			t.Error(err)
		}
		closeRing(t, r)
		r = openRing(t, mem, small)
	}
	closeRing(t, r)
}

// TestEvictedYoung: what goes younger than two minutes is logged with age, size and reason.
func TestEvictedYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		o := small
		o.Lease = time.Second
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		r := openRing(t, &vfs.Mem{}, o)
		defer closeRing(t, r)
		mustPut(t, r, storetest.Bytes(1, 10000))
		time.Sleep(30 * time.Second)
		r.evictAll()
		for _, want := range []string{"evicted young", "age=30s", "bytes=10000", "reason=", "max-size"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log has no %q: %s", want, log.String())
			}
		}
		log.Reset()
		mustPut(t, r, storetest.Bytes(2, 10000))
		time.Sleep(2 * time.Minute)
		r.evictAll()
		if strings.Contains(log.String(), "young") {
			t.Errorf("logged though it was two minutes old: %s", log.String())
		}
	})
}
