package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// TestDir holds both file systems to the same contract.
func TestDir(t *testing.T) {
	for name, fsys := range map[string]LinkFS{"OS": OS{}, "Mem": &Mem{}} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			d, err := fsys.OpenDir(root)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.MakeDir("sub"); err != nil {
				t.Fatal(err)
			}
			sub, err := d.Sub("sub")
			if err != nil {
				t.Fatal(err)
			}
			d.Spread()
			testDir(t, d, sub)
			if err := errors.Join(sub.Close(), d.Close()); err != nil {
				t.Errorf("Close = %v", err)
			}
		})
	}
}

func testDir(t *testing.T, d, sub Dir) {
	f, err := d.Create("private", 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create("private", 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create = %v, want ErrExist", err)
	}
	if _, err := f.WriteAt([]byte("sarsen"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Chmod(0o444), f.Close(), d.Rename("private", "named")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Link("named", sub, "one"), d.Link("named", d, filepath.Join("sub", "two"))); err != nil {
		t.Fatal(err)
	}
	if err := d.Link("named", sub, "one"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Link at a name that is there = %v, want ErrExist", err)
	}
	if err := d.Link("private", sub, "three"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Link of what was renamed = %v, want ErrNotExist", err)
	}
	if err := d.Remove("named"); err != nil {
		t.Fatal(err)
	}
	entries, err := sub.List()
	if err != nil || len(entries) != 2 || entries[0].Name != "one" || entries[1].Name != "two" || entries[0].Mode != 0o444 || entries[0].Size != 6 {
		t.Errorf("List = %v, %v, want one and two of 6 bytes and mode 0444", entries, err)
	}
	from, err := sub.OpenRead("two")
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Create("clone", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CloneFrom(from, 6); err != nil {
		t.Errorf("CloneFrom = %v", err)
	}
	got := make([]byte, 6)
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, []byte("sarsen")) {
		t.Errorf("the clone has %q, %v", got, err)
	}
	if err := errors.Join(c.Close(), from.Close(), d.RemoveAll("sub"), d.RemoveAll("nothing")); err != nil {
		t.Error(err)
	}
	if _, err := sub.OpenRead("two"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenRead of what was removed = %v, want ErrNotExist", err)
	}
}
