package pxar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/sarsen-build/sarsen/backup/pbs/pxar"
	"github.com/sarsen-build/sarsen/internal/pbstest"
)

func archive() []byte {
	return pbstest.NewPxar(func(m *pbstest.Pxar) {
		m.Dir("etc", func() {
			m.File("passwd", "root:x:0")
			m.Dir("empty", func() {})
			m.Add("pipe", pxar.ModePipe|0o600, func() {
				m.Item(0x0dab0229b57dcd03, []byte("user.x\x00value")) // an extended attribute
			})
		})
		m.Link("link", "etc/passwd")
		m.Twin("twin", "passwd")
		m.Add("null", pxar.ModeChar|0o666, func() { m.Item(pxar.TypeDevice, uint64(1), uint64(3)) })
	})
}

func TestArchive(t *testing.T) {
	b := archive()
	a, root, err := pxar.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := a.Walk(root, func(path string, e *pxar.Entry) error { names = append(names, path); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{"etc", "etc/passwd", "etc/empty", "etc/pipe", "link", "twin", "null"}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("names = %q, want %q", names, want)
	}
	for _, path := range []string{"/etc/passwd", "twin"} {
		e, err := a.Lookup(root, path)
		if err != nil {
			t.Fatal(err)
		}
		if e, err = a.Follow(e); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Contents(e))
		if err != nil || string(got) != "root:x:0" || e.Mode != pxar.ModeFile|0o644 || e.UID != 7 || e.GID != 8 || e.Mtime.UnixNano() != 1700000000_000000005 {
			t.Errorf("%s: %q, %v, %+v", path, got, err, e)
		}
	}
	if e, err := a.Lookup(root, "link"); err != nil || e.Link != "etc/passwd" || !e.Is(pxar.ModeSymlink) {
		t.Errorf("link = %+v, %v", e, err)
	}
	if e, err := a.Lookup(root, "null"); err != nil || e.Major != 1 || e.Minor != 3 {
		t.Errorf("null = %+v, %v", e, err)
	}
	for _, path := range []string{"none", "etc/none", "etc/empty/none", "etc/passwd/none", "../etc"} {
		if _, err := a.Lookup(root, path); !errors.Is(err, pxar.ErrNotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
	split := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, pxar.TypeVersion), 24)
	split = append(split, make([]byte, 8)...)
	if _, _, err := pxar.Open(bytes.NewReader(split), int64(len(split))); !errors.Is(err, pxar.ErrSplit) {
		t.Errorf("a split archive: %v", err)
	}
}

// TestNamesThatLeadOut: nobody who unpacks an archive writes outside of where it should go.
func TestNamesThatLeadOut(t *testing.T) {
	for _, name := range []string{"..", ".", "a/b", "/etc"} {
		b := pbstest.NewPxar(func(m *pbstest.Pxar) { m.File(name, "x") })
		a, root, err := pxar.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Walk(root, func(string, *pxar.Entry) error { return nil }); !errors.Is(err, pxar.ErrFormat) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(archive())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, root, err := pxar.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		n := 0
		_ = a.Walk(root, func(path string, e *pxar.Entry) error {
			if n++; n > len(b) {
				t.Fatal("more entries than bytes")
			}
			if to, err := a.Follow(e); err == nil && to.Is(pxar.ModeFile) {
				_, _ = io.Copy(io.Discard, a.Contents(to))
			}
			_, _ = a.Lookup(root, path)
			return nil
		})
	})
}
