package segment

import (
	"errors"
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
	"github.com/sarsen-build/sarsen/ledger"
)

// sealActive seals the active segment and makes the next one.
func (r *Ring) sealActive(t *testing.T) {
	t.Helper()
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	if err := r.rotate(0, false); err != nil {
		t.Fatal(err)
	}
}

// create begins a blob and writes all of its bytes.
func create(t *testing.T, r *Ring, data []byte) (blob.Writer, digest.Digest) {
	t.Helper()
	d := digest.SHA256.Of(data)
	w, err := r.Create(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	return w, d
}

// TestLoserIsNeverComplete: of two writers the second has all its bytes, and a footer is written in the
// section that would have published them. The footer must not vouch for what is then given back.
func TestLoserIsNeverComplete(t *testing.T) {
	fsys := &vfs.Mem{}
	o := small
	o.segmentSize = 1 << 20
	o.MaxSize = 16 << 20
	r := openRing(t, fsys, o)
	data := storetest.Bytes(1, 100<<10) // large enough to be punched
	loser, d := create(t, r, data)
	winner, _ := create(t, r, data)
	if err := winner.Commit(); err != nil {
		t.Fatal(err)
	}
	// The loser's last steps, with the seal between them.
	e := loser.(*writer).extent
	if got, _ := r.ledger.Publish(e.key, e.size, e.place(), e.admit); got != ledger.Lost {
		t.Fatalf("Publish = %v, want Lost", got)
	}
	r.sealActive(t)
	loser.Close()
	checkBlob(t, r, d, data)
	closeRing(t, r)
	r = openRing(t, fsys, o)
	checkBlob(t, r, d, data)
	closeRing(t, r)
}

// TestRefusedByCloseIsNotPunched: an upload that Close refuses may be whole, and then the next process
// finds it. It must not be torn under that one's feet.
func TestRefusedByCloseIsNotPunched(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	mustPut(t, r, storetest.Bytes(2, 100))
	data := storetest.Bytes(1, 15000)
	w, d := create(t, r, data)
	if err := w.(*writer).extent.writeSums(w.(*writer).sums.close()); err != nil { // as Commit does
		t.Fatal(err)
	}
	closeRing(t, r)
	next := openRing(t, fsys, small)
	checkBlob(t, next, d, data)
	if err := w.Commit(); !errors.Is(err, blob.ErrClosed) {
		t.Errorf("Commit after Close = %v, want ErrClosed", err)
	}
	w.Close()
	checkBlob(t, next, d, data)
	closeRing(t, next)
}

// TestResultWaitsForRunningSync: bytes whose sync is under way, as a seal's is, are not yet durable.
func TestResultWaitsForRunningSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, goOn := make(chan struct{}), make(chan struct{})
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		mustPut(t, r, storetest.Bytes(1, 100))
		var first sync.Once
		fsys.SetBefore(func(op, name string) {
			if op == "sync" {
				first.Do(func() {
					close(entered)
					<-goOn
				})
			}
		})
		go func() {
			r.turn <- struct{}{}
			_ = r.rotate(0, false)
			<-r.turn
		}()
		<-entered
		synced := make(chan error, 1)
		go func() { synced <- r.sync() }()
		synctest.Wait()
		select {
		case err := <-synced:
			t.Errorf("sync = %v while the sync of those bytes had not ended", err)
		default:
		}
		close(goOn)
		if err := <-synced; err != nil {
			t.Errorf("sync = %v", err)
		}
		closeRing(t, r)
	})
}

// TestKillThenPowerCut: what start-up finds after a kill may be in memory only. A result that is
// acknowledged then must not rest on that.
func TestKillThenPowerCut(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		data := storetest.Bytes(1, 10000)
		w, d := create(t, r, data)
		if sealed {
			r.sealActive(t) // the footer says open
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		fsys = fsys.Clone()
		r = openRing(t, fsys, small)
		checkBlob(t, r, d, data)
		if err := r.Put(t.Context(), [32]byte{1}, []byte("names d")); err != nil {
			t.Fatal(err)
		}
		r = openRing(t, fsys.PowerCut(), small)
		checkBlob(t, r, d, data)
		if _, err := r.Get(t.Context(), [32]byte{1}); err != nil {
			t.Errorf("sealed=%v: the acknowledged result = %v", sealed, err)
		}
	}
}

func failSyncs(op, _ string) error {
	if op == "sync" {
		return syscall.EIO
	}
	return nil
}

// TestFailedSyncThenRestart: after a failed sync the kernel shows bytes that the disk does not have. A
// restart must not take them for good.
func TestFailedSyncThenRestart(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	data := storetest.Bytes(1, 10000)
	d := mustPut(t, r, data)
	fsys.SetFault(failSyncs)
	if err := r.Put(t.Context(), [32]byte{1}, []byte("names d")); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Put while syncs fail = %v, want EIO", err)
	}
	fsys = fsys.Clone()
	r = openRing(t, fsys, small)
	if missing, err := r.Missing(t.Context(), digest.SetOf(d)); err != nil || missing.Len() == 0 {
		t.Errorf("Missing = %v, %v, want the blob that the disk does not have", missing, err)
	}
	if err := r.Put(t.Context(), [32]byte{1}, []byte("x")); err != nil {
		t.Errorf("Put after the restart = %v", err)
	}
	mustPut(t, r, data)
	closeRing(t, r)
	r = openRing(t, fsys.PowerCut(), small)
	checkBlob(t, r, d, data)
}

// TestCloseIsDurable: after a clean stop a power cut loses nothing.
func TestCloseIsDurable(t *testing.T) {
	fsys := &vfs.Mem{}
	r := openRing(t, fsys, small)
	w, d := create(t, r, storetest.Bytes(9, 10000))
	r.sealActive(t)
	check := putAllSizes(t, r)
	if err := w.Commit(); err != nil { // into a sealed segment
		t.Fatal(err)
	}
	closeRing(t, r)
	r = openRing(t, fsys.PowerCut(), small)
	check(r)
	checkBlob(t, r, d, storetest.Bytes(9, 10000))
}

// TestBigBlobsOnly: a ring in which nothing ever fills the active segment still evicts.
func TestBigBlobsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		for i := uint64(0); ; i++ {
			data := storetest.Bytes(i, 100000)
			if err := blob.Put(t.Context(), r, digest.SHA256.Of(data), data); errors.Is(err, blob.ErrFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * small.Lease)
		mustPut(t, r, storetest.Bytes(999, 100000))
	})
}

// TestHeldBigBlobStays: a leased big blob in the oldest segment keeps nothing else from going.
func TestHeldBigBlobStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		defer closeRing(t, r)
		data := storetest.Bytes(1, 100000)
		d := mustPut(t, r, data)
		for i := uint64(10); r.Stats().EvictedSegments < 40; i++ {
			if i%50 == 0 {
				time.Sleep(2 * small.Lease)
				mustLease(t, r, d)
			}
			mustPut(t, r, storetest.Bytes(i, 10000))
		}
		checkBlob(t, r, d, data)
		if err := r.leaks(fsys); err != nil {
			t.Error(err)
		}
	})
}

// TestBigUploadsLeaveEachOtherAlone: the second of two that don't both fit is refused, the first goes on.
func TestBigUploadsLeaveEachOtherAlone(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	defer closeRing(t, r)
	data := storetest.Bytes(1, 600<<10)
	w, d := create(t, r, data)
	defer w.Close()
	other := digest.SHA256.Of(storetest.Bytes(2, 600<<10))
	if _, err := r.Create(t.Context(), other); !errors.Is(err, blob.ErrFull) {
		t.Errorf("second Create = %v, want ErrFull", err)
	}
	if err := w.Commit(); err != nil {
		t.Errorf("first Commit = %v", err)
	}
	checkBlob(t, r, d, data)
}

// TestCommitLeases: a blob that was there at Create is leased by Commit, however slow the upload was.
func TestCommitLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRing(t, &vfs.Mem{}, small)
		defer closeRing(t, r)
		data := storetest.Bytes(1, 3000)
		d := mustPut(t, r, data)
		w, err := r.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		time.Sleep(2 * small.Lease)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		r.evictAll()
		checkBlob(t, r, d, data)
	})
}

// TestClosed: a yes that Close can't have written down is not given.
func TestClosed(t *testing.T) {
	r := openRing(t, &vfs.Mem{}, small)
	data := storetest.Bytes(1, 3000)
	d := mustPut(t, r, data)
	again, err := r.Create(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := r.Put(t.Context(), [32]byte{1}, nil); err != nil {
		t.Fatal(err)
	}
	closeRing(t, r)
	_, missingErr := r.Missing(t.Context(), digest.SetOf(d))
	_, openErr := r.Open(t.Context(), d)
	_, getErr := r.Get(t.Context(), [32]byte{1})
	for call, err := range map[string]error{
		"Missing":             missingErr,
		"Open":                openErr,
		"Commit":              again.Commit(),
		"PutAll":              r.PutAll(t.Context(), []digest.Digest{d}, [][]byte{data})[0],
		"Get of a record":     getErr,
		"Put of a record":     r.Put(t.Context(), [32]byte{1}, nil),
		"Put of another blob": blob.Put(t.Context(), r, digest.SHA256.Of([]byte("x")), []byte("x")),
	} {
		if !errors.Is(err, blob.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", call, err)
		}
	}
}

// TestLitterFillsDisk: a kill in a big upload leaves the disk full of what nobody will ever read.
func TestLitterFillsDisk(t *testing.T) {
	o := small
	o.MaxSize = 4 << 20
	fsys := &vfs.Mem{Room: 600 << 10}
	r := openRing(t, fsys, o)
	check := putAllSizes(t, r)
	d := digest.SHA256.Of([]byte("big"))
	d.Size = 280 << 10
	if _, err := r.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	fsys = fsys.Clone()
	r = openRing(t, fsys, o)
	check(r)
	if err := r.leaks(fsys); err != nil {
		t.Error(err)
	}
}

// TestGenerationsOnlyGrow: litter with the highest name goes only when there is a higher one, also
// where a full ring makes none.
func TestGenerationsOnlyGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		for i := uint64(0); ; i++ {
			data := storetest.Bytes(i, 10000)
			if blob.Put(t.Context(), r, digest.SHA256.Of(data), data) != nil {
				break
			}
		}
		fsys = fsys.Clone()
		if _, err := fsys.Create(segmentName("ring", 500), 1000); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			fsys = fsys.Clone()
			r = openRing(t, fsys, small)
			time.Sleep(2 * small.Lease)
		}
		if r.generation.Load() < 500 {
			t.Errorf("the next segment is %d, and 500 was used", r.generation.Load()+1)
		}
	})
}

// TestAnotherVersion: what another version wrote is not touched, and nothing starts on it.
func TestAnotherVersion(t *testing.T) {
	fsys := &vfs.Mem{}
	f, err := fsys.Create("ring/0000000007.seg", 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(strings.Replace(firstMagic, "2", "3", 1)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), fsys, "ring", small); !errors.Is(err, errVersion) {
		t.Errorf("Open = %v, want %v", err, errVersion)
	}
	if infos, _ := fsys.List("ring"); len(infos) != 1 || infos[0].Size != 1000 {
		t.Errorf("after the refusal: %v", infos)
	}
}

// TestDamagedFooter: the oldest segment goes in its turn, though its footer can't be read.
func TestDamagedFooter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		d := mustPut(t, r, storetest.Bytes(1, 10000))
		r.sealActive(t)
		oldest := r.order[0]
		if _, err := oldest.file.WriteAt([]byte{1}, oldest.size.Load()-5); err != nil {
			t.Fatal(err)
		}
		r.evictAll()
		checkBlob(t, r, d, storetest.Bytes(1, 10000)) // leased
		time.Sleep(2 * small.Lease)
		r.evictAll()
		if _, err := r.Open(t.Context(), d); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open after eviction = %v, want ErrNotFound", err)
		}
		if err := r.leaks(fsys); err != nil {
			t.Error(err)
		}
		closeRing(t, r)
	})
}
