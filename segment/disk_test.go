package segment

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A faulty is a file system in which an operation fails when fail says so.
type faulty struct {
	vfs.FS
	mu   sync.Mutex
	fail func(op, name string, off int64, n int) error
}

func (f *faulty) ask(op, name string, off int64, n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return nil
	}
	return f.fail(op, filepath.Base(name), off, n)
}

func (f *faulty) set(fail func(op, name string, off int64, n int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *faulty) Create(name string, size int64) (vfs.File, error) {
	if err := f.ask("create", name, 0, int(size)); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, size)
	return faultyFile{file, f, name}, err
}

func (f *faulty) Open(name string) (vfs.File, error) {
	file, err := f.FS.Open(name)
	return faultyFile{file, f, name}, err
}

func (f *faulty) Remove(name string) error {
	if err := f.ask("remove", name, 0, 0); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

type faultyFile struct {
	vfs.File
	f    *faulty
	name string
}

func (f faultyFile) Sync() error {
	if err := f.f.ask("sync", f.name, 0, 0); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.f.ask("write", f.name, off, len(p)); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.f.ask("read", f.name, off, len(p)); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// where returns the segment and offset of a blob.
func where(t *testing.T, r *Ring, d digest.Digest) (s *segment, off int64) {
	t.Helper()
	rd, err := r.open(keyOf(d), d.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	return rd.seg, rd.off
}

// rot damages a blob's first bytes on the disk.
func rot(t *testing.T, r *Ring, d digest.Digest) {
	t.Helper()
	s, off := where(t, r, d)
	if _, err := s.file.WriteAt([]byte("rotten bytes"), off); err != nil {
		t.Fatal(err)
	}
}

// TestStreamedCopyFails: one write fails while the cleaner streams a leased blob.
func TestStreamedCopyFails(t *testing.T) {
	for _, op := range []string{"write", "read"} {
		t.Run(op, func(t *testing.T) {
			fsys := &faulty{FS: &vfs.Mem{}}
			o := small
			o.segmentSize, o.MaxSize = 8<<20, 64<<20
			r := openRing(t, fsys, o)
			data := storetest.Bytes(1, 3<<19)
			d := mustPut(t, r, data)
			failed := 0
			fsys.set(func(what, name string, _ int64, n int) error {
				if what == op && n == appendSize && failed == 0 {
					failed++
					return errDisk
				}
				return nil
			})
			r.evictAll()
			if failed != 1 {
				t.Fatal("nothing failed")
			}
			checkBlob(t, r, d, data)
		})
	}
}

// TestKillInClose: a kill at any instant of Close takes no lease.
func TestKillInClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		data := storetest.Bytes(1, 3000)
		d := mustPut(t, r, data)
		var images []*vfs.Mem
		var at []string
		var mu sync.Mutex
		synctest.Wait() // for the cleaner's first look
		fsys.SetBefore(func(op, name string) {
			mu.Lock()
			defer mu.Unlock()
			if op == "free" || strings.Contains(op, "read") {
				return
			}
			images, at = append(images, fsys.Clone()), append(at, op+" "+name)
		})
		closeRing(t, r)
		fsys.SetBefore(nil)
		for i, image := range images {
			r := openRing(t, image, small)
			r.evictAll()
			if _, err := blob.Get(t.Context(), r, d); err != nil {
				t.Errorf("killed before %q: %v", at[i], err)
			}
			closeRing(t, r)
		}
	})
}

// TestWinnerQuarantined: the blob that was there at Create turns out to be damaged before Commit.
func TestWinnerQuarantined(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	data := storetest.Bytes(1, 3000)
	d := mustPut(t, r, data)
	w, _ := create(t, r, data)
	defer w.Close()
	rot(t, r, d)
	if _, err := blob.Get(t.Context(), r, d); !errors.Is(err, blob.ErrCorrupt) {
		t.Fatalf("Get of the damaged blob = %v", err)
	}
	if err := w.Commit(); err == nil {
		checkBlob(t, r, d, data) // Commit said yes
	}
}

// TestNoLeaseLog: the disk has no room for a lease log at start-up. What is said then holds.
func TestNoLeaseLog(t *testing.T) {
	mem := &vfs.Mem{}
	r := openRing(t, mem, small)
	mustPut(t, r, storetest.Bytes(2, 100))
	closeRing(t, r)
	fsys := &faulty{FS: mem}
	fsys.set(func(op, name string, _ int64, _ int) error {
		if op == "create" && strings.HasSuffix(name, leaseExt) {
			return syscall.ENOSPC
		}
		return nil
	})
	r = openRing(t, fsys, small)
	data := storetest.Bytes(1, 3000)
	d := digest.SHA256.Of(data)
	if err := blob.Put(t.Context(), r, d, data); err != nil {
		t.Skip("refused, which keeps the promise:", err)
	}
	image := mem.Clone()
	r = openRing(t, image, small)
	checkBlob(t, r, d, data)
	r.evictAll()
	checkBlob(t, r, d, data)
}

// TestVoidTakesOlder: of two uploads of one blob the one behind commits first, is damaged and
// quarantined; then the one before it commits. A restart finds it.
func TestVoidTakesOlder(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 3000)
	before, d := create(t, r, data)
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
	closeRing(t, r)
	r = openRing(t, fsys, small)
	checkBlob(t, r, d, data)
}

// TestUnsyncedTwice: with durability none a power cut takes some bytes, but not the footer. The
// start after that finds out, and the one after that must know it still.
func TestUnsyncedTwice(t *testing.T) {
	fsys := &vfs.Mem{}
	o := small
	o.Durability = None
	r := openRing(t, fsys, o)
	data := storetest.Bytes(1, 3000)
	d := mustPut(t, r, data)
	mustPut(t, r, storetest.Bytes(2, 3000))
	s, off := where(t, r, d)
	name := s.name
	closeRing(t, r)
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Sync() // the kernel wrote all of it back
	f.Close()
	image := fsys.PowerCut()
	if f, err = image.Open(name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 3000), off); err != nil { // but for this
		t.Fatal(err)
	}
	_ = f.Sync()
	f.Close()
	for start := range 3 {
		r = openRing(t, image, o)
		missing, err := r.Missing(t.Context(), digest.SetOf(d))
		if err != nil || missing.Len() == 0 {
			t.Errorf("start %d: Missing = %v, %v, want the blob that the power cut took", start+1, missing.List(), err)
		}
		closeRing(t, r)
	}
}

// TestListRaces: the cleaner looks at a big blob's own segment, not sealed yet, while a writer
// rotates. Run with -race.
func TestListRaces(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	for i := range 200 {
		d := mustPut(t, r, storetest.Bytes(uint64(i%4), 20000))
		mustPut(t, r, storetest.Bytes(uint64(1000+i), 300))
		s, _ := where(t, r, d)
		var wg sync.WaitGroup
		wg.Go(func() {
			r.turn <- struct{}{}
			_ = r.rotate(0, false)
			<-r.turn
		})
		wg.Go(func() {
			r.broom <- struct{}{}
			r.evict(s)
			<-r.broom
		})
		wg.Wait()
		if _, ok := r.ledger.SizeOf(keyOf(d)); !ok {
			t.Fatal("a leased blob has gone")
		}
		r.ledger.Drop(keyOf(d), placeOf(s.generation, firstSize))
		r.evictAll()
	}
}

// TestUnreadable: the disk gives errors, not wrong bytes, where a blob lies. It must not be called
// present for ever, nor must an upload of it be thrown away.
func TestUnreadable(t *testing.T) {
	fsys := &faulty{FS: &vfs.Mem{}}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 3000)
	d := mustPut(t, r, data)
	s, off := where(t, r, d)
	bad := filepath.Base(s.name)
	fsys.set(func(op, name string, at int64, n int) error {
		if op == "read" && name == bad && at < off+3000 && at+int64(n) > off {
			return syscall.EIO
		}
		return nil
	})
	for range 3 {
		_, err := blob.Get(t.Context(), r, d)
		t.Log("Get =", err)
	}
	w, _ := create(t, r, data)
	defer w.Close()
	if err := w.Commit(); err != nil {
		t.Skip("refused, which keeps the promise:", err)
	}
	checkBlob(t, r, d, data)
}

// TestOneFailureThenFull: one removal fails in a ring full of cold blobs.
func TestOneFailureThenFull(t *testing.T) {
	for _, faults := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			fsys := &faulty{FS: &vfs.Mem{}}
			r := openRing(t, fsys, small)
			defer closeRing(t, r)
			for i := range uint64(70) {
				mustPut(t, r, storetest.Bytes(i, 10000))
			}
			time.Sleep(2*small.Lease + time.Minute)
			left := faults
			fsys.set(func(op, name string, _ int64, _ int) error {
				if op == "remove" && strings.HasSuffix(name, segmentExt) && left > 0 {
					left--
					return errDisk
				}
				return nil
			})
			refused := 0
			for i := range uint64(60) {
				data := storetest.Bytes(1000+i, 10000)
				if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); err != nil {
					if refused++; refused == 1 {
						t.Logf("Put %d: %v", i, err)
					}
				}
				time.Sleep(time.Second)
			}
			if refused > 1 {
				t.Errorf("%d faults: %d of 60 writes refused although all that was there is cold", faults, refused)
			}
		})
	}
}

// TestStuckReader: somebody reads a blob very slowly; its segment was removed.
func TestStuckReader(t *testing.T) {
	for _, stuck := range []int{0, 1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			r := openRing(t, &vfs.Mem{}, small)
			defer closeRing(t, r)
			var ds []digest.Digest
			for i := range uint64(70) {
				ds = append(ds, mustPut(t, r, storetest.Bytes(i, 10000)))
			}
			time.Sleep(2 * small.Lease)
			for i := range stuck {
				rd, err := r.Open(t.Context(), ds[i*6])
				if err != nil {
					t.Fatal(err)
				}
				defer rd.Close()
			}
			refused := 0
			for i := range uint64(60) {
				data := storetest.Bytes(1000+i, 10000)
				start := time.Now()
				if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); err != nil {
					if refused++; refused == 1 {
						t.Logf("Put %d: after %v: %v", i, time.Since(start), err)
					}
				}
			}
			if refused > 0 {
				t.Errorf("%d stuck readers: %d of 60 writes refused although all that was there is cold", stuck, refused)
			}
		})
	}
}

// TestBadBigBlob: a big blob whose segment could not be synced, and no room to copy it.
func TestBadBigBlob(t *testing.T) {
	for _, faults := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			fsys := &faulty{FS: &vfs.Mem{}}
			r := openRing(t, fsys, small)
			defer closeRing(t, r)
			for i := range uint64(45) {
				mustPut(t, r, storetest.Bytes(i, 10000))
			}
			big := mustPut(t, r, storetest.Bytes(99, 300000))
			s, _ := where(t, r, big)
			fsys.set(func(op, name string, _ int64, _ int) error {
				if faults && op == "sync" && name == filepath.Base(s.name) {
					return errDisk
				}
				return nil
			})
			_ = r.sync()
			fsys.set(nil)
			refused := 0
			for i := range uint64(60) {
				time.Sleep(small.Lease)
				data := storetest.Bytes(1000+i, 10000)
				if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); err != nil {
					if refused++; refused == 1 {
						t.Logf("Put %d: %v", i, err)
					}
				}
			}
			if refused > 0 {
				t.Errorf("faults=%v: %d of 60 writes, an hour apart, refused although nearly all is cold", faults, refused)
			}
		})
	}
}

// TestLowerLimit: the limit is lowered; three quarters of the new one are leased, and as much is cold.
func TestLowerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		for i := range uint64(45) {
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		time.Sleep(2 * small.Lease)
		for i := range uint64(30) {
			mustPut(t, r, storetest.Bytes(100+i, 10000))
		}
		if err := r.SetMaxSize(6 * small.segmentSize); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, leased := r.ledger.Leased()
		if s := r.Stats(); s.UsedBytes > s.MaxBytes+small.segmentSize {
			t.Errorf("%d bytes used of %d, of which only %d are leased", s.UsedBytes, s.MaxBytes, leased)
		}
	})
}

// TestLateMissing: a call after Close writes nothing into a directory that another process may have.
func TestLateMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		d := mustPut(t, r, storetest.Bytes(1, 3000))
		closeRing(t, r)
		before, _ := fsys.List("ring")
		time.Sleep(small.Lease)
		_, _ = r.Missing(t.Context(), digest.SetOf(d))
		if after, _ := fsys.List("ring"); len(after) != len(before) {
			t.Errorf("after Close: %v, after Missing: %v", before, after)
		}
	})
}

// TestUnsyncedLog: a clean stop, a start that makes no segment, a yes, a power cut.
func TestUnsyncedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		var ds []digest.Digest
		for i := uint64(0); ; i++ {
			data := storetest.Bytes(i, 10000)
			d := digest.SHA256.Of(data)
			if blob.Put(t.Context(), r, d, data) != nil {
				break
			}
			ds = append(ds, d)
		}
		if err := r.Put(t.Context(), [32]byte{1}, nil); err != nil && !errors.Is(err, blob.ErrFull) {
			t.Fatal(err)
		}
		time.Sleep(2 * small.Lease)
		closeRing(t, r)
		parked := make(chan struct{})
		fsys.SetBefore(func(op, name string) {
			if op == "remove" && strings.HasSuffix(name, segmentExt) {
				<-parked
			}
		})
		o := small
		o.MaxSize = 12 * small.segmentSize
		r = openRing(t, fsys, o)
		synctest.Wait()
		d := ds[len(ds)-1]
		mustLease(t, r, d)
		image := fsys.PowerCut()
		close(parked)
		synctest.Wait()
		fsys.SetBefore(nil)
		closeRing(t, r)
		r = openRing(t, image, small)
		r.evictAll()
		if _, err := r.Open(t.Context(), d); err != nil {
			t.Errorf("Open of what was leased before the power cut = %v", err)
		}
		closeRing(t, r)
	})
}
