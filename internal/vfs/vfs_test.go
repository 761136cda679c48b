package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
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
			testLock(t, fsys, dir)
			if free, err := fsys.Free(dir); err != nil || free <= 0 {
				t.Errorf("Free = %d, %v", free, err)
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

func TestMemRoom(t *testing.T) {
	m := &Mem{Room: 100}
	f, err := m.Create("d/a", 80)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create("d/b", 30); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Create beyond the room = %v, want ENOSPC", err)
	}
	if err := m.Remove("d/a"); err != nil {
		t.Fatal(err)
	}
	if free, _ := m.Free("d"); free != 20 {
		t.Errorf("Free while the removed file is open = %d, want 20", free)
	}
	f.Close()
	if _, err := m.Create("d/b", 100); err != nil {
		t.Errorf("Create after the last handle was closed = %v", err)
	}
}

// TestMemPowerCut: a kill loses nothing, a power cut what was not synced.
func TestMemPowerCut(t *testing.T) {
	m := &Mem{}
	content := func(m *Mem, name string) string {
		f, err := m.Open("d/" + name)
		if err != nil {
			return "none"
		}
		defer f.Close()
		b := make([]byte, 3)
		if _, err := f.ReadAt(b, 0); err != nil {
			return err.Error()
		}
		return string(bytes.ReplaceAll(b, []byte{0}, []byte{'-'}))
	}
	check := func(when, name, running, killed, cut string) {
		t.Helper()
		got := []string{content(m, name), content(m.Clone(), name), content(m.PowerCut(), name), content(m.Clone().PowerCut(), name)}
		if want := []string{running, killed, cut, cut}; !slices.Equal(got, want) {
			t.Errorf("%s: running, killed, cut, killed and cut: %q, want %q", when, got, want)
		}
	}
	a, err := m.Create("d/a", 3)
	if err != nil {
		t.Fatal(err)
	}
	put := func(s string, off int64) {
		if _, err := a.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	put("x", 0)
	check("unsynced name", "a", "x--", "x--", "none")
	m.SyncDir("d")
	check("unsynced bytes", "a", "x--", "x--", "---")
	a.Sync()
	put("y", 1)
	check("half synced", "a", "xy-", "xy-", "x--")
	m.FailSyncs = true
	if err := a.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync = %v, want EIO", err)
	}
	m.FailSyncs = false
	put("z", 2)
	a.Sync()
	check("after a failed sync", "a", "xyz", "xyz", "x-z")
	a.DropCache()
	check("after DropCache", "a", "x-z", "x-z", "x-z")
	m.Remove("d/a")
	check("removed", "a", "none", "none", "x-z")
	m.SyncDir("d")
	check("removed and synced", "a", "none", "none", "none")
}
