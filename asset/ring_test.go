package asset

import (
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// TestRing keeps assets and results in one ring: both are found again after a restart, and whoever walks the
// results meets no asset.
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
	d := put(t, ring, "pushed")
	key := action.Key{Instance: "main", Action: digest.SHA256.Of([]byte("action"))}
	push(t, New(ring, ring), aName("q", "v"), Asset{Digest: d}, "urn:a")
	if err := action.New(ring, ring).Put(t.Context(), key, &repb.ActionResult{StdoutDigest: &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}}); err != nil {
		t.Fatal(err)
	}
	if err := ring.Close(); err != nil {
		t.Fatal(err)
	}

	ring = open()
	defer ring.Close()
	wantFetch(t, New(ring, ring), aName("q", "v"), "urn:a", d, "urn:a")
	if got, want := ring.Stats().Records, int64(2); int64(got) != want {
		t.Errorf("got %d records, want %d", got, want)
	}
	var got []action.Key
	err := action.Affected(t.Context(), ring, func(digest.Digest) bool { return true }, func(k action.Key, _ []digest.Digest) { got = append(got, k) })
	if err != nil || len(got) != 1 || got[0].Instance != key.Instance || got[0].Action.Key() != key.Action.Key() {
		t.Errorf("results that name a blob: got %v, %v, want %v", got, err, key)
	}
}
