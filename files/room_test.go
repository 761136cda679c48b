package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// TestLinkFallsBack: where no hard link can be made there is a file of its own with the same bytes and
// mode; another error is the answer.
func TestLinkFallsBack(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMLINK, syscall.EXDEV, syscall.EPERM, syscall.EIO} {
		dir := t.TempDir()
		s := openStore(t, refusing{err: errno}, filepath.Join(dir, "files"), small)
		for i, executable := range []bool{false, true} {
			d, data := put(t, s, 1, 70000)
			name := filepath.Join(dir, fmt.Sprint(i))
			err := s.Link(ctx, d, executable, name)
			if errno == syscall.EIO {
				if !errors.Is(err, syscall.EIO) {
					t.Errorf("Link = %v, want EIO", err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("Link with %v = %v", errno, err)
			}
			wantFile(t, name, data, modeOf(executable))
		}
		want := int64(2)
		if errno == syscall.EIO {
			want = 0
		}
		if got := s.Stats(); got.Cloned+got.Copied != want || got.Linked != 0 {
			t.Errorf("with %v: Stats = %+v, want %d cloned or copied", errno, got, want)
		}
	}
}

// TestEviction: the least recently used goes first, what is pinned or leased stays, and the store never has
// more than its size.
func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, &vfs.Mem{}, "files", Options{MaxSize: 16 * block, Lease: time.Minute})
		var ds []digest.Digest
		for i := range 14 {
			d, _ := put(t, s, uint64(i), 100)
			ds = append(ds, d)
		}
		time.Sleep(2 * time.Minute) // the leases are over
		pinned, err := s.Open(ctx, ds[0])
		if err != nil {
			t.Fatal(err)
		}
		defer pinned.Close()
		for _, d := range []digest.Digest{ds[1], ds[2]} { // used
			if err := s.Link(ctx, d, false, "work/"+d.Hex()); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 6 {
			put(t, s, uint64(100+i), 100)
			synctest.Wait()
		}
		for i, d := range ds[:6] {
			h, ok := s.pin(d, false)
			if ok {
				h.pin.Release()
			}
			if want := i < 3; ok != want {
				t.Errorf("blob %d is there: %v, want %v", i, ok, want)
			}
		}
		if got := s.Stats(); got.Bytes > 16*block || got.Evicted < 4 {
			t.Errorf("Stats = %+v, want at most %d bytes and at least 4 evicted", got, 16*block)
		}
		pinned.Close()
		if err := s.leaks(); err != nil {
			t.Error(err)
		}
	})
}

// TestFull: when all is leased, Create fails, and says what it is that is full; when the leases are over, it
// succeeds.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, &vfs.Mem{}, "files", Options{MaxSize: 4 * block, Lease: time.Minute})
		for i := range 4 {
			put(t, s, uint64(i), 100)
		}
		data := storetest.Bytes(9, 2*block)
		d := digest.SHA256.Of(data)
		if err := blob.Put(ctx, s, d, data); !errors.Is(err, blob.ErrFull) {
			t.Errorf("Put into a store that is leased whole = %v, want ErrFull", err)
		}
		time.Sleep(2 * time.Minute)
		if err := blob.Put(ctx, s, d, data); err != nil {
			t.Errorf("Put when leases are over = %v", err)
		}
		big := storetest.Bytes(10, 4*block+1)
		if err := blob.Put(ctx, s, digest.SHA256.Of(big), big); !errors.Is(err, blob.ErrTooLarge) {
			t.Errorf("Put of more than fits = %v, want ErrTooLarge", err)
		}
		if err := s.leaks(); err != nil {
			t.Error(err)
		}
	})
}

// TestSeededLink: what Link found stays until it is linked, whatever is evicted and stored meanwhile.
func TestSeededLink(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, sched *explore.Schedule) {
		f := fixture(t)
		defer f.Close()
		s := f.Store.(*Store)
		d, data := put(t, s, sched.Seed, 500)
		time.Sleep(2 * f.Lease)
		for i, executable := range []bool{false, true, true} {
			sched.Go(fmt.Sprint("linker ", i), func() {
				err := s.Link(ctx, d, executable, fmt.Sprint("work/", i))
				// That the blob is absent is an answer; that its file is gone under a pin is not.
				if err != nil && !errors.Is(err, blob.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("OpenHolds: Link = %v", err)
				}
			})
		}
		sched.Go("evictor", func() {
			f.Evict()
			time.Sleep(2 * f.Lease)
			f.Evict()
		})
		sched.Go("writer", func() {
			if err := blob.Put(ctx, s, d, data); err != nil {
				t.Errorf("Put = %v", err)
			}
		})
		sched.Run()
		if got := s.Stats().Corrupt; got != 0 {
			t.Errorf("OpenHolds: %d files were gone under a pin", got)
		}
		if err := s.leaks(); err != nil {
			t.Error(err)
		}
	})
}

// TestRestart: what was stored is there after a kill, with its executable twin; private files go, and all
// goes after a power cut or in another format.
func TestRestart(t *testing.T) {
	mem := &vfs.Mem{}
	s := openStore(t, mem, "files", small)
	d, _ := put(t, s, 1, 70000)
	b := digest.BLAKE3.Of([]byte("three"))
	if err := errors.Join(blob.Put(ctx, s, b, []byte("three")), s.Link(ctx, d, true, "work/1")); err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(ctx, digest.SHA256.Of(storetest.Bytes(2, 70001)))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for what, test := range map[string]struct {
		fsys *vfs.Mem
		want int
	}{
		"kill":      {mem.Clone(), 3},
		"power cut": {mem.Image(vfs.All), 0},
	} {
		again := openStore(t, test.fsys, "files", small)
		if got := again.Stats(); got.Blobs != test.want {
			t.Errorf("after a %s: Stats = %+v, want %d blobs", what, got, test.want)
		}
		if err := again.leaks(); err != nil {
			t.Errorf("after a %s: %v", what, err)
		}
		if again.incarnation.Load() <= s.incarnation.Load() {
			t.Errorf("after a %s incarnations begin at %d, which was used", what, again.incarnation.Load())
		}
		put(t, again, 5, 10)
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOtherFormat(t *testing.T) {
	dir := t.TempDir()
	for _, change := range []func() error{
		func() error { return os.Remove(filepath.Join(dir, formatName)) },
		func() error { return os.WriteFile(filepath.Join(dir, formatName), []byte("sarsen files 999\n"), 0o600) },
	} {
		s := openStore(t, vfs.OS{}, dir, small)
		put(t, s, 1, 100)
		if err := errors.Join(s.Close(), change()); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, vfs.OS{}, dir, small)
		if got := s.Stats(); got.Blobs != 0 || got.Bytes != 0 {
			t.Errorf("Stats = %+v, want an empty store", got)
		}
		if err := errors.Join(s.leaks(), s.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestLitter: files that the store did not write so are removed at start, and what is not its own is let be.
func TestLitter(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, vfs.OS{}, dir, small)
	d, data := put(t, s, 1, 100)
	h, _ := s.pin(d, false)
	h.pin.Release()
	twin := h.incarnation
	twin.place = 1 // the store's own has a greater one
	short := incarnation{keyOf(digest.SHA256.Of([]byte("short")), false), 100, 2}
	writable := incarnation{keyOf(digest.SHA256.Of([]byte("writable")), false), 100, 3}
	for name, mode := range map[string]os.FileMode{short.name(): 0o444, writable.name(): 0o644, twin.name(): 0o444, "part.7": 0o600} {
		content := data
		if name == short.name() {
			content = data[1:]
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Close(), os.WriteFile(filepath.Join(dir, "README"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, vfs.OS{}, dir, small)
	if _, err := os.Stat(filepath.Join(dir, "README")); err != nil {
		t.Error("what is not the store's was removed")
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "README")), s.leaks()); err != nil {
		t.Error(err)
	}
	if got := s.Stats().Blobs; got != 1 {
		t.Errorf("%d blobs, want 1", got)
	}
}

// TestBoundedAtStart: a store that is opened with less room than it has keeps what was used last.
func TestBoundedAtStart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, vfs.OS{}, filepath.Join(dir, "files"), small)
	var ds []digest.Digest
	for i := range 20 {
		d, _ := put(t, s, uint64(i), 100)
		ds = append(ds, d)
	}
	time.Sleep(20 * time.Millisecond) // file systems count time in ticks
	if err := errors.Join(s.Link(ctx, ds[3], false, filepath.Join(dir, "x")), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, vfs.OS{}, filepath.Join(dir, "files"), Options{MaxSize: 8 * block})
	if got := s.Stats(); got.Bytes > 8*block || got.Blobs < 7 {
		t.Errorf("Stats = %+v, want 7 or 8 blobs", got)
	}
	if missing, err := s.Missing(ctx, digest.SetOf(ds[3])); err != nil || missing.Len() > 0 {
		t.Errorf("the blob that was linked last is gone: %v", err)
	}
	if err := s.leaks(); err != nil {
		t.Error(err)
	}
}

// TestFaults fails each file operation once: no promise is broken and nothing leaks.
func TestFaults(t *testing.T) {
	for _, errno := range []error{syscall.EIO, vfs.ErrShort} {
		for k := 0; ; k++ {
			fault := &vfs.FailOnce{K: k, Err: errno}
			mem := &vfs.Mem{}
			s := openStore(t, mem, "files", small)
			mem.SetFault(fault.Fault)
			var stored []digest.Digest
			for i, n := range sizes {
				data := storetest.Bytes(uint64(i), n)
				d := digest.SHA256.Of(data)
				if err := blob.Put(ctx, s, d, data); err == nil {
					stored = append(stored, d)
				}
				_ = s.Link(ctx, d, true, fmt.Sprint("work/", i))
			}
			mem.SetFault(nil)
			for _, d := range stored {
				if _, errs := s.GetAll(ctx, []digest.Digest{d}); errs[0] != nil {
					t.Errorf("%v at %s: %v", errno, fault.At(), errs[0])
				}
			}
			if pins := s.Stats().Pins; pins != 0 {
				t.Errorf("%v at %s: %d pins are held", errno, fault.At(), pins)
			}
			_ = s.Close()
			again := openStore(t, mem.Clone(), "files", small)
			if err := again.leaks(); err != nil {
				t.Errorf("%v at %s: after a restart: %v", errno, fault.At(), err)
			}
			_ = again.Close()
			if fault.At() == "" {
				break
			}
		}
	}
}

// TestModel compares a store with a map, over random calls, restarts included.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := &vfs.Mem{}
		o := Options{MaxSize: 1 << 20, Lease: time.Hour}
		s, err := open(mem, "files", o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		model := map[digest.Digest]bool{}
		links := 0
		draw := func(t *rapid.T) (digest.Digest, []byte) {
			n := rapid.IntRange(0, 9).Draw(t, "blob")
			data := storetest.Bytes(uint64(n), 1+n*997)
			return digest.Functions[n%2].Of(data), data
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				d, data := draw(t)
				if err := blob.Put(ctx, s, d, data); err != nil {
					t.Fatal(err)
				}
				model[d] = true
			},
			"link": func(t *rapid.T) {
				d, _ := draw(t)
				links++
				err := s.Link(ctx, d, rapid.Bool().Draw(t, "executable"), fmt.Sprint("work/", links))
				if (err == nil) != model[d] {
					t.Fatalf("Link = %v, want success: %v", err, model[d])
				}
			},
			"get": func(t *rapid.T) {
				d, _ := draw(t)
				if _, errs := s.GetAll(ctx, []digest.Digest{d}); (errs[0] == nil) != model[d] {
					t.Fatalf("GetAll = %v, want success: %v", errs[0], model[d])
				}
			},
			"kill": func(t *rapid.T) {
				next := mem.Clone()
				_ = s.Close()
				mem = next
				if s, err = open(mem, "files", o); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if err := s.leaks(); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}
