package segment

import (
	"errors"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A once is a file system in which write number n from now on fails, and no other.
type once struct {
	vfs.FS
	writes int
}

func (f *once) Create(name string, size int64) (vfs.File, error) {
	file, err := f.FS.Create(name, size)
	return onceFile{file, f}, err
}

type onceFile struct {
	vfs.File
	f *once
}

func (f onceFile) WriteAt(p []byte, off int64) (int, error) {
	if f.f.writes--; f.f.writes == 0 {
		return 0, errDisk
	}
	return f.File.WriteAt(p, off)
}

// TestCopyOfWhichAWriteFailed: the cleaner streams a large leased blob forward, and one write of the copy
// fails. The ledger must not name that copy.
func TestCopyOfWhichAWriteFailed(t *testing.T) {
	o := Options{MaxSize: 64 << 20, Lease: time.Hour, segmentSize: 8 << 20, smallSize: 512, tick: -1}
	for n := 1; n <= 8; n++ {
		fsys := &once{FS: &vfs.Mem{}}
		r := openRing(t, fsys, o)
		data := storetest.Bytes(1, 1500<<10)
		d := mustPut(t, r, data)
		r.sealActive(t)
		fsys.writes = n
		r.evictOldest()
		fsys.writes = 0
		if got, err := blob.Get(t.Context(), r, d); err != nil || len(got) != len(data) {
			t.Errorf("write %d failed: a leased blob after its segment was cleaned: %v", n, err)
		}
	}
}

// TestDamagedWinner: an upload of a blob that was there at Create is told yes only if it still is.
func TestDamagedWinner(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	data := storetest.Bytes(1, 3000)
	d := mustPut(t, r, data)
	w, err := r.Create(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := r.active.file.WriteAt([]byte{^data[7]}, firstSize+headerSize+7); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.Get(t.Context(), r, d); !errors.Is(err, blob.ErrCorrupt) {
		t.Fatalf("Get of a damaged blob = %v, want ErrCorrupt", err)
	}
	if err := w.Commit(); err == nil {
		if missing, _ := r.Missing(t.Context(), digest.SetOf(d)); missing.Len() > 0 {
			t.Error("NoFalseYes: Commit = nil, and the blob is missing")
		}
	}
	w.Close()
}

// TestSyncAllSyncsAll: copies lie in two segments, and the sync of the first fails. The ledger will name
// those in the second, so they must be on the disk.
func TestSyncAllSyncsAll(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	var moves []*move
	for i := range byte(2) {
		req := &request{key: recordKey([32]byte{i}), size: 1, data: []byte{i}, by: mover, moved: true}
		if err := r.append(req); err != nil {
			t.Fatal(err)
		}
		moves = append(moves, &move{extent: req.extent})
		r.sealActive(t)
		req.extent.seg.writes.Add(1) // not synced any more
	}
	moves[0].extent.seg.bad.Store(true)
	if err := syncAll(moves); !errors.Is(err, errAgain) {
		t.Errorf("syncAll = %v, want %v", err, errAgain)
	}
	if moves[1].extent.seg.dirty() {
		t.Error("the second segment was not synced")
	}
}
