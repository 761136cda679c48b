package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

var ctx = context.Background()

// small has room for 64 blocks.
var small = Options{MaxSize: 256 << 10, Lease: time.Hour}

// sizes of blobs: written with one call, and streamed.
var sizes = []int{1, 500, 5000, 70000}

func openStore(t *testing.T, fsys vfs.LinkFS, dir string, o Options) *Store {
	t.Helper()
	s, err := open(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// leaks says what is wrong with a store at rest: pins, files that are not in the ledger, or not in the
// clock once, and bytes that are counted wrong.
func (s *Store) leaks() error {
	s.broom <- struct{}{} // between a pass's steps, what it evicts is partly gone
	defer func() { <-s.broom }()
	if pins := s.Stats().Pins; pins != 0 {
		return fmt.Errorf("%d pins are held", pins)
	}
	entries, err := s.dir.List()
	if err != nil {
		return err
	}
	listed := map[string]int64{}
	for _, e := range entries {
		if e.Name != formatName {
			listed[e.Name] = e.Size
		}
	}
	clock := map[ledger.Place]int{}
	for _, n := range s.room.clock[s.room.hand:] {
		clock[n.place]++
	}
	var used int64
	var wrong error
	s.ledger.Each(func(k ledger.Key, size int64, p ledger.Place, _ bool) {
		n := incarnation{k, size, p}
		if have, ok := listed[n.name()]; !ok || have != size {
			wrong = fmt.Errorf("%s has %d bytes on the disk (%v)", n.name(), have, ok)
		}
		if clock[p] != 1 {
			wrong = fmt.Errorf("%s is in the clock %d times", n.name(), clock[p])
		}
		delete(listed, n.name())
		used += charge(size)
	})
	if len(listed) > 0 {
		return fmt.Errorf("orphans %v", listed)
	}
	if got := s.room.inUse(); got != used {
		return fmt.Errorf("%d bytes are counted, want %d", got, used)
	}
	return wrong
}

func fixture(t *testing.T) storetest.Fixture {
	fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
	return fixtureOn(t, fsys, "files")
}

func fixtureOn(t *testing.T, fsys vfs.LinkFS, dir string) storetest.Fixture {
	s := openStore(t, fsys, dir, small)
	return storetest.Fixture{
		Store: s,
		Lease: small.Lease,
		Sizes: sizes,
		Evict: func() { s.sweep(true) },
		Leaks: s.leaks,
		Close: func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close = %v", err)
			}
		},
	}
}

func TestStore(t *testing.T) { storetest.Run(t, fixture) }

func TestStoreOnDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture { return fixtureOn(t, vfs.OS{}, t.TempDir()) })
}

func TestSeeded(t *testing.T) { storetest.Seeded(t, fixture) }

// put stores bytes that only seed gives.
func put(t *testing.T, s *Store, seed uint64, n int) (digest.Digest, []byte) {
	t.Helper()
	data := storetest.Bytes(seed, n)
	d := digest.SHA256.Of(data)
	if err := blob.Put(ctx, s, d, data); err != nil {
		t.Fatal(err)
	}
	return d, data
}

func wantFile(t *testing.T, name string, data []byte, mode fs.FileMode) fs.FileInfo {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s has %d bytes (%v), want the blob's %d", name, len(got), err, len(data))
	}
	fi, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != mode {
		t.Errorf("%s has mode %v, want %v", name, fi.Mode(), mode)
	}
	return fi
}

// TestLink: plain and executable links are of two inodes, each shared by all links of its kind.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, vfs.OS{}, filepath.Join(dir, "files"), small)
	for i, n := range []int{3, 70000} {
		d, data := put(t, s, uint64(i), n)
		var infos []fs.FileInfo
		for j, executable := range []bool{false, false, true, true} {
			name := filepath.Join(dir, fmt.Sprint(i, j))
			if err := s.Link(ctx, d, executable, name); err != nil {
				t.Fatal(err)
			}
			infos = append(infos, wantFile(t, name, data, modeOf(executable)))
			if err := s.Link(ctx, d, executable, name); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Link at a name that is there = %v, want ErrExist", err)
			}
		}
		if !os.SameFile(infos[0], infos[1]) || !os.SameFile(infos[2], infos[3]) || os.SameFile(infos[0], infos[2]) {
			t.Error("want one inode for plain links, and another one for executable ones")
		}
	}
	if got := s.Stats(); got.Linked != 8 || got.Copied != 0 || got.Blobs != 4 {
		t.Errorf("Stats = %+v, want 8 linked, 4 blobs", got)
	}
	if err := s.leaks(); err != nil {
		t.Error(err)
	}
}

// TestLinkEmpty: the empty blob, which is stored nowhere, is a real empty file of its own each time.
func TestLinkEmpty(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, vfs.OS{}, filepath.Join(dir, "files"), small)
	for i, executable := range []bool{false, true} {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := s.Link(ctx, digest.BLAKE3.Empty(), executable, name); err != nil {
			t.Fatal(err)
		}
		wantFile(t, name, nil, modeOf(executable))
	}
}

func TestLinkErrors(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, vfs.OS{}, filepath.Join(dir, "files"), small)
	d, _ := put(t, s, 1, 100)
	none := digest.SHA256.Of([]byte("none"))
	for _, executable := range []bool{false, true} {
		if err := s.Link(ctx, none, executable, filepath.Join(dir, "x")); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Link of an absent blob = %v, want ErrNotFound", err)
		}
		at, err := vfs.OS{}.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = s.LinkAt(ctx, d, executable, at, "no/where")
		if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Link into a directory that is not there = %v, want ErrNotExist and no ErrNotFound", err)
		}
		at.Close()
	}
	if got := s.Stats().Corrupt; got != 0 {
		t.Errorf("%d corrupt, want 0: the blob is there", got)
	}
}

// TestDamage: a file that is gone, or has other bytes, is dropped, counted and not found; then it can be
// stored again.
func TestDamage(t *testing.T) {
	for what, use := range map[string]func(*Store, digest.Digest, string) error{
		"link":       func(s *Store, d digest.Digest, dir string) error { return s.Link(ctx, d, false, dir+"/1") },
		"executable": func(s *Store, d digest.Digest, dir string) error { return s.Link(ctx, d, true, dir+"/2") },
		"open": func(s *Store, d digest.Digest, _ string) error {
			_, err := s.Open(ctx, d)
			return err
		},
		"get": func(s *Store, d digest.Digest, _ string) error {
			_, errs := s.GetAll(ctx, []digest.Digest{d})
			return errs[0]
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, vfs.OS{}, filepath.Join(dir, "files"), small)
			d, data := put(t, s, 1, 100)
			h, _ := s.pin(d, false)
			h.pin.Release()
			if err := os.Remove(filepath.Join(dir, "files", h.name())); err != nil {
				t.Fatal(err)
			}
			if what == "get" { // it looks at the bytes too
				if err := os.WriteFile(filepath.Join(dir, "files", h.name()), bytes.ToUpper(data), 0o444); err != nil {
					t.Fatal(err)
				}
			}
			if err := use(s, d, dir); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("%s of a damaged file = %v, want ErrNotFound", what, err)
			}
			if got := s.Stats(); got.Corrupt != 1 || got.Blobs != 0 || got.Bytes != 0 {
				t.Errorf("Stats = %+v, want 1 corrupt and nothing left", got)
			}
			if d2, _ := put(t, s, 1, 100); d2 != d {
				t.Fatal("another digest")
			}
			if err := use(s, d, dir); err != nil {
				t.Errorf("%s after it was stored again = %v", what, err)
			}
		})
	}
}

// refusing is a file system on which names can't be linked.
type refusing struct {
	vfs.OS
	err error
}

type refusingDir struct {
	vfs.Dir
	err error
}

func (r refusing) OpenDir(dir string) (vfs.Dir, error) {
	d, err := r.OS.OpenDir(dir)
	return refusingDir{d, r.err}, err
}

func (r refusingDir) Link(name string, into vfs.Dir, as string) error {
	return &fs.PathError{Op: "link", Path: name, Err: r.err}
}
