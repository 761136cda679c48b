package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
)

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

// must makes a test's own steps short.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// put writes c over each block in blocks, of a file that it opens or makes with two blocks.
func put(t *testing.T, m *Mem, name string, c byte, blocks ...int64) File {
	t.Helper()
	f, err := m.Open("d/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = m.Create("d/"+name, 2*blockSize)
	}
	must(t, err)
	for _, b := range blocks {
		_, err := f.WriteAt(bytes.Repeat([]byte{c}, blockSize), b*blockSize)
		must(t, err)
	}
	return f
}

// content returns one character for each block of a file, '-' for zeros and '#' where they differ.
func content(m *Mem, name string) string {
	f, err := m.Open("d/" + name)
	if err != nil {
		return "none"
	}
	defer f.Close()
	var s strings.Builder
	for b := make([]byte, blockSize); ; {
		n, err := f.ReadAt(b, int64(s.Len()*blockSize))
		if n == 0 {
			return s.String()
		}
		switch c := b[0]; {
		case bytes.Count(b[:n], b[:1]) < n:
			s.WriteByte('#')
		case c == 0:
			s.WriteByte('-')
		default:
			s.WriteByte(c)
		}
		if err == io.EOF {
			return s.String()
		}
	}
}

// TestMemPowerCut: a kill loses nothing, the worst power cut all that was not synced.
func TestMemPowerCut(t *testing.T) {
	m := &Mem{}
	check := func(when, name, running, killed, cut string) {
		t.Helper()
		got := []string{content(m, name), content(m.Clone(), name), content(m.PowerCut(), name), content(m.Clone().PowerCut(), name)}
		if want := []string{running, killed, cut, cut}; !slices.Equal(got, want) {
			t.Errorf("%s: running, killed, cut, killed and cut: %q, want %q", when, got, want)
		}
		if got := content(m.Image(All), name); got != killed {
			t.Errorf("%s: all that is unsynced: %q, want %q", when, got, killed)
		}
	}
	a := put(t, m, "a", 'x', 0)
	check("unsynced name", "a", "x-", "x-", "none")
	must(t, m.SyncDir("d"))
	check("unsynced size", "a", "x-", "x-", "")
	must(t, a.Sync())
	check("synced", "a", "x-", "x-", "x-")
	put(t, m, "a", 'y', 1)
	check("half synced", "a", "xy", "xy", "x-")
	must(t, a.Truncate(3*blockSize), a.Punch(0, blockSize))
	check("longer, punched", "a", "-y-", "-y-", "x-")
	must(t, a.Sync(), a.Truncate(1), m.Remove("d/a"))
	check("removed", "a", "none", "none", "-y-") // Image(All) is the killed one's
	must(t, m.SyncDir("d"))
	check("removed and synced", "a", "none", "none", "none")
}

// TestMemFailedSync: bytes whose sync failed are read, until the cache is dropped, and never written.
func TestMemFailedSync(t *testing.T) {
	m := &Mem{}
	a := put(t, m, "a", 'x', 0, 1)
	must(t, a.Sync(), m.SyncDir("d"))
	put(t, m, "a", 'y', 1)
	m.SetFault((&FailOnce{Err: syscall.EIO, Op: "sync"}).Fault)
	if err := a.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync = %v, want EIO", err)
	}
	put(t, m, "a", 'z', 2)
	must(t, a.Sync())
	if got, want := []string{content(m, "a"), content(m.PowerCut(), "a"), content(m.Image(All), "a")}, []string{"xyz", "xxz", "xxz"}; !slices.Equal(got, want) {
		t.Errorf("running, cut, cut: %q, want %q", got, want)
	}
	must(t, a.DropCache())
	if got, want := content(m, "a"), "xxz"; got != want {
		t.Errorf("after DropCache: %q, want %q", got, want)
	}
}

// images returns what random images leave of a file.
func images(m *Mem, name string, anyNames bool) []string {
	seen := map[string]bool{}
	for seed := range uint64(300) {
		if image := Random(seed); image.AnyNames == anyNames {
			seen[content(m.Image(image), name)] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// TestMemImageBlocks: each block alone is one of those that it was since the last sync.
func TestMemImageBlocks(t *testing.T) {
	m := &Mem{}
	a := put(t, m, "a", 'o', 0, 1)
	must(t, a.Sync(), m.SyncDir("d"))
	put(t, m, "a", 'x', 0, 1)
	put(t, m, "a", 'y', 0)
	if got, want := images(m, "a", false), []string{"oo", "ox", "xo", "xx", "yo", "yx"}; !slices.Equal(got, want) {
		t.Errorf("images %q, want %q", got, want)
	}
	must(t, a.Sync())
	if got, want := images(m, "a", false), []string{"yx"}; !slices.Equal(got, want) {
		t.Errorf("images after a sync %q, want %q", got, want)
	}
	must(t, a.Truncate(blockSize/2))
	put(t, m, "a", 'z', 1)
	if got, want := images(m, "a", false), []string{"#-", "#x", "#z", "y", "y-", "yx", "yz"}; !slices.Equal(got, want) {
		t.Errorf("images of a file cut and made longer %q, want %q", got, want)
	}
}

// TestMemImageNames: a journal keeps the first of the unsynced names, the stricter kind any.
func TestMemImageNames(t *testing.T) {
	m := &Mem{}
	put(t, m, "a", 'x')
	must(t, m.SyncDir("d"), m.Remove("d/a"))
	put(t, m, "b", 'x')
	put(t, m, "c", 'x')
	names := func(anyNames bool) []string {
		seen := map[string]bool{}
		for seed := range uint64(300) {
			if image := Random(seed); image.AnyNames == anyNames {
				infos, err := m.Image(image).List("d")
				must(t, err)
				var s string
				for _, i := range infos {
					s += i.Name
				}
				seen[s] = true
			}
		}
		return slices.Sorted(maps.Keys(seen))
	}
	if got, want := names(false), []string{"", "a", "b", "bc"}; !slices.Equal(got, want) {
		t.Errorf("in the journal's order: %q, want %q", got, want)
	}
	if got, want := names(true), []string{"", "a", "ab", "abc", "ac", "b", "bc", "c"}; !slices.Equal(got, want) {
		t.Errorf("in any order: %q, want %q", got, want)
	}
}

// TestMemApart: what happens to a copy does not happen to the original.
func TestMemApart(t *testing.T) {
	m := &Mem{}
	a := put(t, m, "a", 'x', 0)
	killed, cut := m.Clone(), m.Image(All)
	for _, c := range []*Mem{killed, cut} {
		must(t, put(t, c, "a", 'y', 0, 1).Sync(), c.SyncDir("d"))
	}
	put(t, m, "a", 'z', 1)
	must(t, a.Sync(), m.SyncDir("d"))
	got := []string{content(m.PowerCut(), "a"), content(killed.PowerCut(), "a"), content(cut.PowerCut(), "a")}
	if want := []string{"xz", "yy", "yy"}; !slices.Equal(got, want) {
		t.Errorf("original, killed, cut: %q, want %q", got, want)
	}
}

// TestMemBoot: a power cut ends a run of the machine, a kill does not.
func TestMemBoot(t *testing.T) {
	m := &Mem{}
	if m.Clone().Boot() != m.Boot() {
		t.Errorf("Boot of a killed process's files = %q, want %q", m.Clone().Boot(), m.Boot())
	}
	if m.PowerCut().Boot() == m.Boot() {
		t.Errorf("Boot after a power cut = %q, as before", m.Boot())
	}
}

// life calls everything once and returns the errors.
func life(m *Mem) error {
	errs := []error{m.MakeDir("d")}
	lock, err := m.Lock("d")
	if errs = append(errs, err); err == nil {
		errs = append(errs, lock.Close())
	}
	f, err := m.Create("d/a", blockSize)
	if errs = append(errs, err); err == nil {
		_, writeErr := f.WriteAt([]byte("sarsen"), 0)
		_, readErr := f.ReadAt(make([]byte, 1), 0)
		errs = append(errs, writeErr, readErr, f.Sync(), f.DropCache(), f.Truncate(2*blockSize), f.Punch(0, 1), f.Close())
		if f, err = m.Open("d/a"); err == nil {
			err = f.Close()
		}
	}
	_, listErr := m.List("d")
	_, freeErr := m.Free("d")
	return errors.Join(append(errs, err, m.SyncDir("d"), listErr, freeErr, m.Remove("d/a"))...)
}

// TestMemFault fails each operation once. A lock and a file are let go all the same.
func TestMemFault(t *testing.T) {
	want := []string{"mkdir d", "lock d", "unlock d", "create a", "write a", "read a", "sync a", "dropcache a", "truncate a", "punch a",
		"close a", "open a", "close a", "syncdir d", "list d", "free d", "remove a"}
	var got []string
	for k := 0; ; k++ {
		once := &FailOnce{K: k, Err: syscall.EDQUOT}
		m := &Mem{Fault: once.Fault, Room: 1 << 20}
		err := life(m)
		if once.At() == "" {
			break
		}
		if got = append(got, once.At()); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("%s = %v, want EDQUOT", once.At(), err)
		}
		_ = m.Remove("d/a")
		if free, _ := m.Free("d"); free != m.Room {
			t.Errorf("%s failed, and %d bytes of a file that was closed and removed are used", once.At(), m.Room-free)
		}
		if _, err := m.Lock("d"); err != nil {
			t.Errorf("%s failed, and then Lock = %v", once.At(), err)
		}
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("failed %q, want %q", got, want)
	}
}

// TestMemShortWrite: half of the bytes are there, and the error says how many.
func TestMemShortWrite(t *testing.T) {
	m := &Mem{}
	f := put(t, m, "a", 'x')
	m.SetFault((&FailOnce{Err: ErrShort, Op: "write"}).Fault)
	n, err := f.WriteAt(bytes.Repeat([]byte{'y'}, 4*blockSize), 0)
	if n != 2*blockSize || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteAt = %d, %v, want half of %d and ENOSPC", n, err, 4*blockSize)
	}
	if got, want := content(m, "a"), "yy"; got != want {
		t.Errorf("after it: %q, want %q", got, want)
	}
}

func BenchmarkImage(b *testing.B) {
	m := &Mem{}
	for i := range 16 {
		f, err := m.Create(fmt.Sprint("d/", i), 64<<10)
		if err != nil {
			b.Fatal(err)
		}
		for at := int64(0); at < 64<<10; at += 1000 {
			_, _ = f.WriteAt(make([]byte, 1000), at)
		}
	}
	for seed := uint64(0); b.Loop(); seed++ {
		m.Image(Random(seed))
	}
}
