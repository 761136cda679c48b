package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A keep is what a ring holds before it is damaged.
type keep struct {
	fsys    *vfs.Mem
	samples []sample
	place   map[digest.Digest]string // the file of each sample
	values  [3][]string              // of each record, the newest last
}

// tiny has several segments, and a small part of them is bytes of blobs.
var tiny = Options{MaxSize: 1 << 20, Lease: small.Lease, segmentSize: 4 << 10, smallSize: 256}

// keeping fills a ring: blobs that are appended, that stream, and that have a segment of their own,
// records that were superseded in their segment and from a later one, an upload that was given up, and
// one that is under way. It ends by Close, which writes footers, or as a kill leaves it.
func keeping(t *testing.T, clean bool) keep {
	k := keep{fsys: &vfs.Mem{}, place: map[digest.Digest]string{}}
	r := openRing(t, k.fsys, tiny)
	put := func(seed uint64, n int) {
		data := storetest.Bytes(seed, n)
		k.samples = append(k.samples, sample{mustPut(t, r, data), data})
	}
	for version := range 3 {
		for key := range k.values[version:] {
			value := fmt.Sprintf("version %d of %d", version, key)
			k.values[key] = append(k.values[key], value)
			if err := r.Put(t.Context(), [32]byte{byte(key)}, []byte(value)); err != nil {
				t.Fatal(err)
			}
		}
		for i, n := range []int{20, 100, 600, 1500} {
			put(uint64(10*version+i), n)
		}
		w, _ := create(t, r, storetest.Bytes(uint64(100+version), 700))
		if version == 0 {
			w.Close() // given up
		} else {
			defer w.Close()
		}
	}
	if clean {
		closeRing(t, r)
		return k
	}
	k.fsys = k.fsys.Clone()
	return k
}

// damaged opens a copy of what is kept in which one file was changed, and sees that nothing false is
// served, and that what lies in other files is there. A record's older value may come back where the
// newer one is lost.
func (k keep) damaged(t *testing.T, what, name string, change func(*vfs.Mem)) {
	fsys := k.fsys.Clone()
	change(fsys)
	r, err := Open(t.Context(), fsys, "ring", tiny)
	if errors.Is(err, errVersion) {
		return // refused
	}
	if err != nil {
		t.Errorf("%s: Open = %v", what, err)
		return
	}
	for _, s := range k.samples {
		got, err := blob.Get(context.Background(), r, s.d)
		switch {
		case err == nil && !bytes.Equal(got, s.data):
			t.Errorf("%s: blob of %d bytes: other bytes are served", what, len(s.data))
		case err != nil && (k.place[s.d] != name || !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrCorrupt)):
			t.Errorf("%s: blob of %d bytes in %s: %v", what, len(s.data), k.place[s.d], err)
		}
	}
	for key, values := range k.values {
		rec, err := r.Get(context.Background(), [32]byte{byte(key)})
		switch {
		case err == nil && !slices.Contains(values, string(rec.Value)):
			t.Errorf("%s: record %d: %q is served, which was never put", what, key, rec.Value)
		case err != nil && (name == "" || !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrCorrupt)):
			t.Errorf("%s: record %d: %v", what, key, err)
		}
	}
	closeRing(t, r)
}

// A kept is the content of one file, without the zeros at its end, and which of it are blobs' bytes.
type kept struct {
	name  string
	b     []byte
	bytes []bool
}

func (k keep) files(t *testing.T) (files []kept) {
	infos, err := k.fsys.List("ring")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		f := kept{name: filepath.Join("ring", info.Name), b: make([]byte, info.Size)}
		readFile(t, k.fsys, f.name, f.b)
		f.b = bytes.TrimRight(f.b, "\x00")
		f.bytes = make([]bool, len(f.b))
		for _, s := range k.samples {
			if at := bytes.Index(f.b, s.data); at >= 0 {
				k.place[s.d] = f.name
				for i := range s.data {
					f.bytes[at+i] = true
				}
			}
		}
		files = append(files, f)
	}
	return files
}

func readFile(t *testing.T, fsys vfs.FS, name string, b []byte) {
	file, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.ReadAt(b, 0); err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
}

// each runs do on a ring that was closed and on one that was killed.
func each(t *testing.T, do func(t *testing.T, k keep, f kept)) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", clean), func(t *testing.T) {
			k := keeping(t, clean)
			files := k.files(t)
			if len(k.place) != len(k.samples) {
				t.Fatalf("%d of %d blobs lie in a file", len(k.place), len(k.samples))
			}
			k.damaged(t, "no change", "", func(*vfs.Mem) {})
			for _, f := range files {
				do(t, k, f)
			}
		})
	}
}

// flip flips one bit.
func (k keep) flip(t *testing.T, f kept, at, bit int) {
	k.damaged(t, fmt.Sprintf("bit %d of byte %d of %s", bit, at, f.name), f.name, func(fsys *vfs.Mem) {
		change(t, fsys, f.name, func(file vfs.File) error {
			_, err := file.WriteAt([]byte{f.b[at] ^ 1<<bit}, int64(at))
			return err
		})
	})
}

// all says that each flip and each cut is to be tried, which takes minutes; else a sample is.
var all = os.Getenv("SARSEN_ALL") != ""

// TestFlips flips bits of every structure: headers, padding, footers, the leases, and what is neither.
// The ring starts, or says why not, and serves nothing false.
func TestFlips(t *testing.T) {
	r, flips := rand.New(rand.NewPCG(1, 1)), 0
	each(t, func(t *testing.T, k keep, f kept) {
		for at := range f.b {
			for bit := range 8 {
				if !f.bytes[at] && (all || r.IntN(64) == 0) {
					k.flip(t, f, at, bit)
					flips++
				}
			}
		}
	})
	t.Logf("%d bits were flipped", flips)
}

// TestFlippedBytes flips bits inside blobs. Their digests tell.
func TestFlippedBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	each(t, func(t *testing.T, k keep, f kept) {
		for at := 0; at < len(f.b); at += 1 + r.IntN(50) {
			if f.bytes[at] && !t.Failed() {
				k.flip(t, f, at, r.IntN(8))
			}
		}
	})
}

// TestCuts ends every file early.
func TestCuts(t *testing.T) {
	r, cuts := rand.New(rand.NewPCG(1, 3)), 0
	each(t, func(t *testing.T, k keep, f kept) {
		for size := range f.b {
			if !all && r.IntN(32) > 0 {
				continue
			}
			k.damaged(t, fmt.Sprintf("%s cut to %d bytes", f.name, size), f.name, func(fsys *vfs.Mem) {
				change(t, fsys, f.name, func(file vfs.File) error { return file.Truncate(int64(size)) })
			})
			cuts++
		}
	})
	t.Logf("%d cuts were made", cuts)
}

func change(t *testing.T, fsys vfs.FS, name string, do func(vfs.File) error) {
	file, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(do(file), file.Sync(), file.Close()); err != nil {
		t.Fatal(err)
	}
}
