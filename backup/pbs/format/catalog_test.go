package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"
)

// catalogOf returns a catalog of one archive: a directory "etc" with a file, whose time may be negative, and a link.
func catalogOf(mtime int64) []byte {
	b := bytes.Clone(magicCatalog[:])
	name := func(kind byte, name string) []byte { return append([]byte{kind, byte(len(name))}, name...) }
	block := func(count int, entries ...[]byte) (start int) {
		start = len(b)
		body := append([]byte{byte(count)}, bytes.Join(entries, nil)...)
		b = append(binary.AppendUvarint(b, uint64(len(body))), body...)
		return start
	}
	file := binary.AppendUvarint(name('f', "passwd"), 300)
	magnitude := uint64(mtime)
	if mtime < 0 {
		magnitude = -magnitude
	}
	when := binary.AppendUvarint(nil, magnitude)
	if mtime < 0 {
		when[len(when)-1] |= 0x80
		when = append(when, 0)
	}
	etc := block(1, append(file, when...))
	at := len(b)
	archive := block(2, binary.AppendUvarint(name('d', "etc"), uint64(at-etc)), name('l', "link"))
	at = len(b)
	root := block(1, binary.AppendUvarint(name('d', "root.pxar.didx"), uint64(at-archive)))
	return binary.LittleEndian.AppendUint64(b, uint64(root))
}

func TestCatalog(t *testing.T) {
	for _, mtime := range []int64{0, 1, 127, 128, 1700000000, math.MaxInt64, -1, -127, -128, -5000, math.MinInt64} {
		b := catalogOf(mtime)
		c, err := OpenCatalog(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		at, err := c.Root()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for range 3 {
			all, err := c.List(at)
			if err != nil || len(all) == 0 {
				t.Fatalf("%q: %v, %v", at.Name, all, err)
			}
			for _, e := range all {
				names = append(names, string(e.Type)+string(e.Name))
			}
			at = all[0]
		}
		if want := []string{"droot.pxar.didx", "detc", "llink", "fpasswd"}; !reflect.DeepEqual(names, want) {
			t.Errorf("names = %q, want %q", names, want)
		}
		if at.Size != 300 || at.Mtime != mtime {
			t.Errorf("the file is %+v, want 300 bytes of %d", at, mtime)
		}
		if _, err := c.List(at); !errors.Is(err, ErrFormat) {
			t.Errorf("the list of a file: %v", err)
		}
	}
}

func FuzzCatalog(f *testing.F) {
	f.Add(catalogOf(5))
	f.Add(catalogOf(-5))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := OpenCatalog(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		root, err := c.Root()
		if err != nil {
			return
		}
		open := []CatalogEntry{root}
		for n := 0; len(open) > 0 && n < 1000; n++ {
			dir := open[0]
			open = open[1:]
			all, err := c.List(dir)
			if err != nil {
				continue
			}
			for _, e := range all {
				if e.Type == 'd' && e.start >= dir.start {
					t.Errorf("%q lies at %d, in a directory at %d", e.Name, e.start, dir.start)
				}
				if e.Type == 'd' {
					open = append(open, e)
				}
			}
		}
	})
}
