package segment

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// An inspection is what Inspect found.
type inspection struct {
	survey  Survey
	damages []Damage
	records map[[32]byte]string
	whole   map[digest.Digest]bool
}

func inspect(t *testing.T, fsys vfs.FS, ds ...digest.Digest) inspection {
	t.Helper()
	got := inspection{records: map[[32]byte]string{}, whole: map[digest.Digest]bool{}}
	var err error
	got.survey, err = Inspect(t.Context(), fsys, "ring", func(d Damage) { got.damages = append(got.damages, d) }, func(v *View) error {
		for _, d := range ds {
			rd, err := v.Open(t.Context(), d)
			if err != nil && !errors.Is(err, blob.ErrNotFound) {
				return err
			}
			if err == nil {
				data := make([]byte, d.Size+1)
				n, _ := rd.ReadAt(data, 0) // the digest tells
				got.whole[d] = d.Function.Of(data[:n]) == d
			}
		}
		return v.EachRecord(t.Context(), func(key [32]byte, value []byte) error {
			got.records[key] = string(value)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// turn turns over a bit of a file that has data, off bytes into that, or into the file if data is nil.
func turn(t *testing.T, fsys vfs.FS, data []byte, off int) {
	t.Helper()
	infos, err := fsys.List("ring")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if filepath.Ext(info.Name) != segmentExt {
			continue
		}
		f, err := fsys.Open(filepath.Join("ring", info.Name))
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, info.Size)
		if _, err := f.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(all, data); at >= 0 {
			at += off
			if _, err := f.WriteAt([]byte{all[at] ^ 1}, int64(at)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no segment has it")
}

// TestInspect looks at a ring that is whole, at one with a damaged blob, after that was quarantined, with
// damaged records, and with a segment that can't be read at all.
func TestInspect(t *testing.T) {
	fsys, key := &vfs.Mem{}, [32]byte{1}
	r := openRing(t, fsys, small)
	one, two := storetest.Bytes(1, 500), storetest.Bytes(2, 500)
	a, b := mustPut(t, r, one), mustPut(t, r, two)
	for _, v := range []string{"the old value", "the new value"} {
		if err := r.Put(t.Context(), key, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	closeRing(t, r)
	got := inspect(t, fsys, a, b)
	if len(got.damages) != 0 || got.survey.Damaged != 0 || !got.whole[a] || !got.whole[b] || len(got.records) != 1 || got.records[key] != "the new value" {
		t.Errorf("whole: got %+v", got)
	}

	turn(t, fsys, one, 250)
	for range 2 { // it changes nothing
		got = inspect(t, fsys, a, b)
		if got.survey.Damaged != 1 || len(got.damages) != 1 || got.damages[0].Digest != a || got.damages[0].IsRecord() || got.damages[0].IsSegment() || got.whole[a] || !got.whole[b] {
			t.Errorf("with a damaged blob: got %+v", got)
		}
	}
	r = openRing(t, fsys, small)
	if _, err := blob.Get(t.Context(), r, a); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("Get of the damaged blob: got %v", err)
	}
	closeRing(t, r)
	if got = inspect(t, fsys, a, b); len(got.damages) != 0 || got.whole[a] || !got.whole[b] {
		t.Errorf("after the quarantine: got %+v", got)
	}

	turn(t, fsys, []byte("the old value"), 3) // which nobody can read any more
	if got = inspect(t, fsys); len(got.damages) != 0 || got.survey.Damaged != 0 || got.records[key] != "the new value" {
		t.Errorf("with a damaged record that was superseded: got %+v", got)
	}
	turn(t, fsys, []byte("the new value"), 3)
	if got = inspect(t, fsys); len(got.damages) != 1 || !got.damages[0].IsRecord() || got.damages[0].Record != key || len(got.records) != 0 {
		t.Errorf("with a damaged record: got %+v", got)
	}
	turn(t, fsys, nil, 20)
	if got = inspect(t, fsys, b); len(got.damages) == 0 || !got.damages[0].IsSegment() || got.whole[b] {
		t.Errorf("with a damaged first block: got %+v", got)
	}
}
