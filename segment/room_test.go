package segment

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestSecondTurn: the first turn only uses uses up; the second must get as far as the first.
func TestSecondTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		var ds []digest.Digest
		for i := range uint64(72) {
			ds = append(ds, mustPut(t, r, storetest.Bytes(i, 10000)))
		}
		time.Sleep(2 * small.Lease)
		for i, d := range ds {
			if i < 24 || i%2 == 0 {
				mustLease(t, r, d)
			} else {
				checkBlob(t, r, d, storetest.Bytes(uint64(i), 10000)) // used
			}
		}
		refused := 0
		for i := range uint64(24) {
			data := storetest.Bytes(1000+i, 10000)
			if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); err != nil {
				if refused++; refused == 1 {
					entries, bytes := r.ledger.Leased()
					t.Logf("Put %d: %v; %d blobs are there, %d leased with %d bytes of %d", i, err, r.Stats().Blobs, entries, bytes, small.MaxSize)
				}
			}
		}
		_, leased := r.ledger.Leased()
		if refused > 0 {
			t.Errorf("%d of 24 writes refused with %d of %d bytes leased", refused, leased, small.MaxSize)
		}
	})
}

// TestSumsReadBadly: one read of the checksums goes wrong on the way, once.
func TestSumsReadBadly(t *testing.T) {
	mem := &vfs.Mem{}
	fsys := &flipping{FS: mem}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 10000)
	d := mustPut(t, r, data)
	rd, err := r.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	fsys.n = 1
	if _, err := rd.ReadAt(make([]byte, 100), 0); err != nil {
		t.Errorf("ReadAt = %v", err)
	}
	checkBlob(t, r, d, data)
}

// A flipping is a file system in which the first n reads of 8 bytes come out wrong.
type flipping struct {
	vfs.FS
	n int
}

func (f *flipping) Create(name string, size int64) (vfs.File, error) {
	file, err := f.FS.Create(name, size)
	return flippingFile{file, f}, err
}

type flippingFile struct {
	vfs.File
	f *flipping
}

func (f flippingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if len(p) == 8 && f.f.n > 0 {
		f.f.n--
		p[0] ^= 1
	}
	return n, err
}

// TestNoLogNoCleaning: the lease log can't be written, the segments can.
func TestNoLogNoCleaning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &faulty{FS: &vfs.Mem{}}
		r := openRing(t, fsys, small)
		defer closeRing(t, r)
		var ds []digest.Digest
		for i := range uint64(70) {
			ds = append(ds, mustPut(t, r, storetest.Bytes(i, 10000)))
		}
		time.Sleep(2 * small.Lease)
		mustLease(t, r, ds[0])
		fsys.set(func(op, name string, _ int64, _ int) error {
			if strings.HasSuffix(name, leaseExt) {
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
		}
		if refused > 0 {
			t.Errorf("%d of 60 writes refused", refused)
		}
		fsys.set(nil)
	})
}

// TestBigStarves: one big upload among many small ones, all cold.
func TestBigStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := small
		o.Lease = time.Second
		fsys := &faulty{FS: &vfs.Mem{Before: func(op, _ string) {
			if op == "remove" {
				time.Sleep(time.Millisecond)
			}
		}}}
		r := openRing(t, fsys, o)
		defer closeRing(t, r)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for w := range uint64(8) {
			wg.Go(func() {
				for i := uint64(0); ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					data := storetest.Bytes(w<<32+i+10, 10000)
					_ = blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
					time.Sleep(200 * time.Millisecond)
				}
			})
		}
		time.Sleep(20 * time.Second)
		refused := 0
		for i := range uint64(3) {
			data := storetest.Bytes(1<<60+i, 500000)
			start := time.Now()
			if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); err != nil {
				refused++
				t.Logf("after %v: %v", time.Since(start), err)
			}
			time.Sleep(5 * time.Second)
		}
		close(stop)
		wg.Wait()
		if refused > 0 {
			t.Errorf("%d of 3 big uploads refused", refused)
		}
	})
}

// TestHopelessBlob: a blob that the disk can't hold costs nothing that is there.
func TestHopelessBlob(t *testing.T) {
	for _, disk := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := small
			fsys := &vfs.Mem{}
			if disk {
				o.MaxSize, fsys.Room = 4<<20, 1<<20
			}
			r := openRing(t, fsys, o)
			defer closeRing(t, r)
			for i := range uint64(40) {
				mustPut(t, r, storetest.Bytes(i, 10000))
			}
			time.Sleep(2 * small.Lease)
			n := 2 << 20
			if !disk {
				n = 700000
				for i := range uint64(38) {
					mustPut(t, r, storetest.Bytes(100+i, 10000))
				}
			}
			before := r.Stats().Blobs
			data := storetest.Bytes(1<<60, n)
			err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data)
			if after := r.Stats().Blobs; err != nil && after < before {
				t.Errorf("disk=%v: %v: and %d of %d blobs are left", disk, err, after, before)
			}
		})
	}
}

// TestOneBadSector: one sector of one segment can't be read at start-up.
func TestOneBadSector(t *testing.T) {
	for _, where := range []string{"footer", "blob"} {
		mem := &vfs.Mem{}
		r := openRing(t, mem, small)
		mustPut(t, r, storetest.Bytes(1, 3000))
		r.sealActive(t)
		d := mustPut(t, r, storetest.Bytes(2, 3000))
		fsys := &faulty{FS: mem.Clone()}
		bad := "0000000001.seg"
		if where == "blob" {
			bad = "0000000003.seg"
		}
		hit := 0
		fsys.set(func(op, file string, off int64, n int) error {
			if op == "read" && file == bad && off > 1000 {
				hit++
				return errDisk
			}
			return nil
		})
		r2, err := Open(t.Context(), fsys, "ring", small)
		if err != nil {
			t.Errorf("%s (%d reads failed): Open = %v", where, hit, err)
			continue
		}
		_, _ = r2.Missing(t.Context(), digest.SetOf(d))
		closeRing(t, r2)
	}
}
