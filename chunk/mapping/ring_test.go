package mapping

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// TestRing keeps mappings in a ring: they are found again after a restart, with their chunks, and whoever walks the
// results meets no mapping.
func TestRing(t *testing.T) {
	disk := new(vfs.Mem)
	open := func() *segment.Ring {
		ring, err := segment.Open(t.Context(), disk, "store", segment.Options{MaxSize: segment.MinSize, Lease: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return ring
	}
	ring := open()
	data, other := random(300_000, 10), random(50_000, 11)
	d := put(t, ring, data)
	x := New(ring, ring, small(t))
	split, err := x.Split(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	spliced := pieces(t, ring, other, 7)
	if err := x.Splice(t.Context(), digest.SHA256.Of(other), spliced); err != nil {
		t.Fatal(err)
	}
	if err := ring.Close(); err != nil {
		t.Fatal(err)
	}

	ring = open()
	defer ring.Close()
	x = New(ring, ring, small(t))
	for _, want := range []struct {
		data   []byte
		chunks []digest.Digest
	}{{data, split.Chunks}, {other, spliced.Chunks}} {
		got, err := x.find(t.Context(), digest.SHA256.Of(want.data))
		if err != nil || !slices.Equal(got.Chunks, want.chunks) || !bytes.Equal(content(t, ring, got), want.data) {
			t.Errorf("after a restart: %d chunks, %v, want %d", len(got.Chunks), err, len(want.chunks))
		}
		if back, err := blob.Get(t.Context(), ring, digest.SHA256.Of(want.data)); err != nil || !bytes.Equal(back, want.data) {
			t.Errorf("the blob has %d bytes, %v", len(back), err)
		}
	}
	err = action.Affected(t.Context(), ring, func(digest.Digest) bool { return true }, func(k action.Key, _ []digest.Digest) {
		t.Errorf("the mapping was taken for the result of %s", k.Action)
	})
	if err != nil {
		t.Error(err)
	}
}
