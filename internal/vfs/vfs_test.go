package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"testing"
)

// TestFS holds both file systems to the same contract, so that what passes in memory is meant for the
// disk.
func TestFS(t *testing.T) {
	for name, fsys := range map[string]FS{"OS": OS{}, "Mem": &Mem{}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			if err := errors.Join(fsys.MakeDir(dir), fsys.MakeDir(dir)); err != nil {
				t.Fatal(err)
			}
			testFiles(t, fsys, dir)
			testSizes(t, fsys, filepath.Join(dir, "sizes"))
			testLock(t, fsys, dir)
			if free, err := fsys.Free(dir); err != nil || free <= 0 {
				t.Errorf("Free = %d, %v", free, err)
			}
			if one, two := fsys.Boot(), fsys.Boot(); one != two {
				t.Errorf("Boot = %q, then %q in the same run", one, two)
			}
		})
	}
}

func testFiles(t *testing.T, fsys FS, dir string) {
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	f, err := fsys.Create(two, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Create(two, 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create = %v, want ErrExist", err)
	}
	if _, err := fsys.Open(one); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing = %v, want ErrNotExist", err)
	}
	if _, err := f.WriteAt([]byte("sarsen"), 90); err != nil {
		t.Fatal(err)
	}
	want := append(make([]byte, 90), "sarsen\x00\x00\x00\x00"...)
	got := make([]byte, 101)
	if n, err := f.ReadAt(got, 0); n != 100 || err != io.EOF || !bytes.Equal(got[:n], want) {
		t.Errorf("ReadAt = %d bytes %q, %v, want the 100 of the file and EOF", n, got[:n], err)
	}
	if err := errors.Join(f.Punch(92, 2), f.Truncate(96), f.Sync(), fsys.SyncDir(dir)); err != nil {
		t.Errorf("Punch, Truncate, Sync, SyncDir = %v", err)
	}
	if n, err := f.ReadAt(got[:6], 90); n != 6 || err != nil || string(got[:6]) != "sa\x00\x00en" {
		t.Errorf("after Punch: %q, %v", got[:n], err)
	}
	if _, err := fsys.Create(one, 7); err != nil {
		t.Fatal(err)
	}
	infos, err := fsys.List(dir)
	if err != nil || len(infos) != 2 || infos[0] != (Info{"1", 7}) || infos[1] != (Info{"2", 96}) {
		t.Errorf("List = %v, %v", infos, err)
	}
	if err := fsys.Remove(two); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Remove(two); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Remove = %v, want ErrNotExist", err)
	}
	if n, err := f.ReadAt(got[:2], 90); n != 2 || err != nil {
		t.Errorf("reading a removed file that is open = %d, %v", n, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(got[:2], 90); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading a closed file = %v, want ErrClosed", err)
	}
}

func testLock(t *testing.T, fsys FS, dir string) {
	lock, err := fsys.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second Lock = %v, want ErrLocked", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = fsys.Lock(dir); err != nil {
		t.Fatalf("Lock after Close = %v", err)
	}
	lock.Close()
}

// testSizes writes across blocks and past the end, and makes the file shorter and longer.
func testSizes(t *testing.T, fsys FS, name string) {
	f, err := fsys.Create(name, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := bytes.Repeat([]byte("sarsen"), 2000)
	want := append(make([]byte, 5000), b...)
	check := func(when string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		if n, err := f.ReadAt(got, 0); err != io.EOF || !bytes.Equal(got[:n], want) {
			t.Errorf("%s: ReadAt = %d bytes, %v, want %d and EOF", when, n, err, len(want))
		}
	}
	if n, err := f.WriteAt(b, 5000); n != len(b) || err != nil {
		t.Fatalf("WriteAt = %d, %v, want %d", n, err, len(b))
	}
	check("after a write past the end")
	if err := f.DropCache(); err != nil {
		t.Fatal(err)
	}
	check("after DropCache of unsynced bytes")
	if err := errors.Join(f.Punch(6000, 5000), f.Sync(), f.DropCache()); err != nil {
		t.Fatal(err)
	}
	clear(want[6000:11000])
	check("after Punch and Sync")
	if err := errors.Join(f.Truncate(7000), f.Truncate(9000)); err != nil {
		t.Fatal(err)
	}
	want = append(want[:7000], make([]byte, 2000)...)
	check("cut and made longer")
	if n, err := f.ReadAt(make([]byte, 1), 9000); n != 0 || err != io.EOF {
		t.Errorf("ReadAt at the end = %d, %v, want EOF", n, err)
	}
	if n, err := f.WriteAt(nil, 20000); n != 0 || err != nil {
		t.Errorf("WriteAt of nothing = %d, %v", n, err)
	}
	check("after a write of nothing past the end")
}
