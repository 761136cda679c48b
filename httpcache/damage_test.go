package httpcache

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// newRing returns a fixture over a small ring on files in memory.
func newRing(t *testing.T) (*fixture, *segment.Ring, *vfs.Mem) {
	t.Helper()
	files := new(vfs.Mem)
	ring, err := segment.Open(t.Context(), files, "ring", segment.Options{MaxSize: segment.MinSize, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	// Cleanups run in reverse order: the server stops first.
	t.Cleanup(func() {
		if err := ring.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	f := newFixture(t, func(o *Options) { o.Store, o.Actions = ring, action.New(ring, ring) })
	return f, ring, files
}

// flip turns over a bit in the middle of data, wherever a segment has it.
func flip(t *testing.T, files *vfs.Mem, data []byte) {
	t.Helper()
	infos, err := files.List("ring")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		f, err := files.Open("ring/" + info.Name)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, info.Size)
		if _, err := f.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(all, data); at >= 0 {
			at += len(data) / 2
			if _, err := f.WriteAt([]byte{all[at] ^ 1}, int64(at)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no file has the %d bytes", len(data))
}

// A blob whose bytes have rotted never looks like a blob: the answer is a 500, or is
// cut where it has begun. After that the blob is
// missing, and a PUT brings it back.
func TestDamagedBlob(t *testing.T) {
	for _, size := range []int{2000, 3_000_000} {
		for _, encoding := range []string{"identity", "zstd"} {
			t.Run(fmt.Sprintf("%d %s", size, encoding), func(t *testing.T) {
				f, _, files := newRing(t)
				data := noise(1, size)
				path := casPath(digest.SHA256.Of(data))
				f.put(path, data).must(t, 200)
				flip(t, files, data)
				got := f.get(path, "Accept-Encoding", encoding)
				switch {
				case got.code == 200 && got.err == nil:
					t.Errorf("got a whole answer of %d bytes", len(got.body))
				case got.code == 200 && encoding == "identity" && !bytes.HasPrefix(data, []byte(got.body)):
					t.Errorf("got %d wrong bytes", len(got.body))
				case got.code == 404: // cut before anything was sent, so net/http's client asked again
				case got.code != 200:
					got.must(t, 500, "stored bytes are corrupt")
				}
				f.get(path).must(t, 404)
				f.put(path, data).must(t, 200)
				if again := f.get(path).must(t, 200); again.body != string(data) {
					t.Errorf("after the PUT: got %d other bytes", len(again.body))
				}
			})
		}
	}
}

// A result with a damaged tree is absent, and a PUT of it is told which blob to bring.
func TestDamagedTree(t *testing.T) {
	f, _, files := newRing(t)
	file := []byte("a file in a tree")
	tree := marshal(t, &repb.Tree{Root: &repb.Directory{Files: []*repb.FileNode{
		{Name: "a file with a name that is long enough to be found", Digest: protoDigest(digest.SHA256.Of(file))},
	}}})
	for _, data := range [][]byte{file, tree} {
		f.put(casPath(digest.SHA256.Of(data)), data).must(t, 200)
	}
	path := acPath("", digest.SHA256, "action")
	result := marshal(t, &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{Path: "out", TreeDigest: protoDigest(digest.SHA256.Of(tree))}}})
	f.put(path, result).must(t, 200)
	flip(t, files, tree)
	f.get(path).must(t, 404)
	f.get(path).must(t, 404)
	f.put(path, result).must(t, 412, digest.SHA256.Of(tree).Hex())
	f.put(casPath(digest.SHA256.Of(tree)), tree).must(t, 200)
	f.put(path, result).must(t, 200)
	f.get(path).must(t, 200)
}

// A ring of which everything is leased refuses what is new with the settings to change, and is read.
func TestFullRing(t *testing.T) {
	f, ring, _ := newRing(t)
	first := noise(1, 900_000)
	err := error(nil)
	for seed := uint64(1); err == nil; seed++ {
		data := noise(seed, 900_000)
		err = blob.Put(t.Context(), ring, digest.SHA256.Of(data), data)
	}
	if !errors.Is(err, blob.ErrFull) {
		t.Fatalf("filling the ring: got %v, want ErrFull", err)
	}
	fresh := noise(1000, 700_000)
	f.put(casPath(digest.SHA256.Of(fresh)), fresh).must(t, 507, "raise --max-size", "shorten --lease")
	result := marshal(t, &repb.ActionResult{StdoutRaw: fresh})
	f.put(acPath("", digest.SHA256, "action"), result).must(t, 507, "raise --max-size", "shorten --lease")
	if got := f.get(casPath(digest.SHA256.Of(first))).must(t, 200); got.body != string(first) {
		t.Errorf("reading from the full ring: got %d other bytes", len(got.body))
	}
}
