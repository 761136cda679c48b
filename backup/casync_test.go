package backup_test

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/backup"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// chunkPath returns where a chunk of this ID is.
func chunkPath(store string, id [32]byte) string {
	h := hex.EncodeToString(id[:])
	return "/casync/" + store + "/" + h[:4] + "/" + h + ".cacnk"
}

func TestCasync(t *testing.T) {
	r := newRig(t, nil)
	plain := storetest.Bytes(1, 60000)
	data := zstd.Encode(plain)
	for _, id := range [][32]byte{sha512.Sum512_256(plain), sha256.Sum256(plain)} {
		path := chunkPath("s", id)
		r.want(404, "HEAD", path, nil)
		r.want(200, "PUT", path, data)
		r.want(200, "PUT", path, data)
		for _, p := range []string{path, chunkPath("s/default.castr", id)} {
			if got := r.want(200, "GET", p, nil); got != string(data) {
				t.Errorf("GET %s: got %d bytes, which are not the chunk's", p, len(got))
			}
		}
		r.want(200, "HEAD", path, nil)
		r.want(404, "HEAD", chunkPath("another", id), nil)
		r.want(200, "DELETE", path, nil)
		r.want(404, "DELETE", path, nil)
		r.want(404, "HEAD", path, nil)
	}
	index := storetest.Bytes(2, 300000)
	r.want(200, "PUT", "/casync/s/linux/v1.caibx", index)
	if got := r.want(200, "GET", "/casync/s/linux/v1.caibx", nil); got != string(index) {
		t.Errorf("GET of an index: got %d bytes, which are not its", len(got))
	}
	r.want(200, "PUT", "/casync/s/linux/v1.caibx", index[1:])
	if got := r.want(200, "GET", "/casync/s/linux/v1.caibx", nil); got != string(index[1:]) {
		t.Errorf("GET of an index that was replaced: got %d bytes, which are not its", len(got))
	}
	r.want(200, "DELETE", "/casync/s/linux/v1.caibx", nil)
	r.want(404, "GET", "/casync/s/linux/v1.caibx", nil)
}

func TestCasyncRefusals(t *testing.T) {
	r := newRig(t, nil)
	plain := storetest.Bytes(1, 600)
	data := zstd.Encode(plain)
	id := sha512.Sum512_256(plain)
	path := chunkPath("s", id)
	r.want(400, "PUT", path, plain)
	r.want(400, "PUT", path, data[:len(data)-3])
	r.want(400, "PUT", path, zstd.Encode(plain[1:]))
	r.want(400, "PUT", path, nil)
	r.want(413, "PUT", path, make([]byte, 17<<20))
	zeros := make([]byte, 17<<20)
	r.want(413, "PUT", chunkPath("s", sha512.Sum512_256(zeros)), zstd.Encode(zeros))
	h := hex.EncodeToString(id[:])
	for _, p := range []string{"/casync/s/0000/" + h + ".cacnk", "/casync/s/" + h + ".cacnk", "/casync/s/" + h[:4] + "/" + h[:60] + ".cacnk", "/casync/s/", "/casync/s/.hidden", "/casync/s/a/../b", "/casync/s/a//b"} {
		r.want(404, "PUT", p, data)
	}
	r.want(405, "POST", path, data)
	r.want(405, "POST", "/casync/s/x.caibx", data)
	r.want(413, "PUT", "/casync/s/x.caibx", make([]byte, 1<<20+1))
	r.want(404, "HEAD", path, nil)
}

// sameFolder returns chunks whose IDs begin alike, so that they share a root.
func sameFolder(n int) (plain [][]byte) {
	for i := uint64(0); len(plain) < n; i++ {
		b := binary.LittleEndian.AppendUint64(nil, i)
		if id := sha512.Sum512_256(b); id[0] == 0 && id[1] == 0 {
			plain = append(plain, b)
		}
	}
	return plain
}

// TestSharedRoot: chunks of one folder come at once, in one root, and each is there, and kept.
func TestSharedRoot(t *testing.T) {
	s := model.New(time.Hour)
	r := &rig{t, s, backup.New(backup.Options{Store: s, Keeper: s})}
	plain := sameFolder(8)
	var group sync.WaitGroup
	for _, p := range plain {
		group.Go(func() { r.want(200, "PUT", chunkPath("s", sha512.Sum512_256(p)), zstd.Encode(p)) })
	}
	group.Wait()
	roots := 0
	for root, err := range s.Kept(t.Context(), "") {
		if roots++; err != nil || root.Count != 8 || root.Name != "casync/s/chunks/0000" {
			t.Errorf("Kept: got %+v, %v", root, err)
		}
	}
	if roots != 1 {
		t.Errorf("got %d roots, want 1", roots)
	}
	r.want(200, "DELETE", chunkPath("s", sha512.Sum512_256(plain[3])), nil)
	for i, p := range plain {
		want := 200
		if i == 3 {
			want = 404
		}
		r.want(want, "GET", chunkPath("s", sha512.Sum512_256(p)), nil)
	}
	for i, p := range plain {
		if i != 3 {
			r.want(200, "DELETE", chunkPath("s", sha512.Sum512_256(p)), nil)
		}
	}
	for root := range s.Kept(t.Context(), "") {
		t.Errorf("after the last was deleted: got %+v", root)
	}
}

// TestChunkComesTwice: what is there stays, in whatever way it was compressed.
func TestChunkComesTwice(t *testing.T) {
	r := newRig(t, nil)
	plain := storetest.Bytes(1, 60000)
	path := chunkPath("s", sha512.Sum512_256(plain))
	data := zstd.Encode(plain)
	otherwise := append(zstd.Encode(plain[:100]), zstd.Encode(plain[100:])...) // two frames
	r.want(200, "PUT", path, data)
	r.want(200, "PUT", path, otherwise)
	if got := r.want(200, "GET", path, nil); got != string(data) {
		t.Errorf("GET: got %d bytes, want the %d that came first", len(got), len(data))
	}
}

// A holed store lacks one blob.
type holed struct {
	*model.Store
	lacks digest.Digest
}

func (h *holed) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d == h.lacks {
		return nil, &blob.Error{Op: "open", Digest: d, Err: blob.ErrNotFound}
	}
	return h.Store.Open(ctx, d)
}

// TestDamagedChunk: a chunk that turned out to be damaged is missing, keeps no other from being stored, and is
// kept again when it comes again.
func TestDamagedChunk(t *testing.T) {
	s := &holed{Store: model.New(time.Hour)}
	r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s})}
	plain := sameFolder(2)
	one, two := zstd.Encode(plain[0]), zstd.Encode(plain[1])
	first := chunkPath("s", sha512.Sum512_256(plain[0]))
	r.want(200, "PUT", first, one)
	s.lacks = digest.SHA256.Of(one)
	r.want(404, "GET", first, nil)
	r.want(200, "PUT", chunkPath("s", sha512.Sum512_256(plain[1])), two)
	s.lacks = digest.Digest{}
	r.want(200, "PUT", first, one)
	root, err := blob.KeptRoot(t.Context(), s, "casync/s/chunks/0000")
	if err != nil || root.Count != 2 {
		t.Errorf("KeptRoot = %+v, %v, want both chunks", root, err)
	}
}

func TestCasyncAppendOnly(t *testing.T) {
	r := newRig(t, restricted)
	auth := basic("secret-3")
	plain := storetest.Bytes(1, 600)
	path := chunkPath("images", sha512.Sum512_256(plain))
	r.want(200, "PUT", path, zstd.Encode(plain), auth...)
	r.want(403, "DELETE", path, nil, auth...)
	r.want(200, "PUT", "/casync/images/a.caibx", plain, auth...)
	r.want(200, "PUT", "/casync/images/a.caibx", plain, auth...)
	r.want(403, "PUT", "/casync/images/a.caibx", plain[1:], auth...)
	r.want(403, "DELETE", "/casync/images/a.caibx", nil, auth...)
	r.want(507, "PUT", "/casync/images/b.caibx", storetest.Bytes(2, 9000), auth...)
	for i := range 20 {
		if a, _ := r.do("PUT", fmt.Sprintf("/casync/images/%d.caibx", i), storetest.Bytes(uint64(i), 1000), auth...); i < 7 && a.StatusCode != http.StatusOK || i > 9 && a.StatusCode != 507 {
			t.Errorf("index %d: got %d", i, a.StatusCode)
		}
	}
}

// neighbours returns chunks whose IDs begin with the same four digits.
func neighbours(n int) (chunks [][]byte, ids [][32]byte) {
	for i := 0; len(chunks) < n; i++ {
		data := fmt.Append(nil, i)
		if id := sha256.Sum256(data); binary.BigEndian.Uint16(id[:]) == 0xbeef {
			chunks, ids = append(chunks, data), append(ids, id)
		}
	}
	return chunks, ids
}

// TestCasyncServers: two servers that share a store write chunks of one folder at once, and remove others. What was
// acknowledged is so.
func TestCasyncServers(t *testing.T) {
	s := model.New(time.Hour)
	var servers [2]*rig
	for i := range servers {
		servers[i] = &rig{t, s, backup.New(backup.Options{Store: s, Keeper: model.Slow{Store: s}, SpoolDir: t.TempDir(), MaxBlobSize: 1 << 20})}
	}
	chunks, ids := neighbours(12)
	remove := 4
	for i := range remove {
		servers[0].want(200, "PUT", chunkPath("s", ids[i]), zstd.Encode(chunks[i]))
	}
	var group sync.WaitGroup
	for i := range chunks {
		group.Go(func() {
			if r, path := servers[i%2], chunkPath("s", ids[i]); i < remove {
				r.want(200, "DELETE", path, nil)
			} else {
				r.want(200, "PUT", path, zstd.Encode(chunks[i]))
			}
		})
	}
	group.Wait()
	for i, id := range ids {
		want := http.StatusOK
		if i < remove {
			want = http.StatusNotFound
		}
		for _, r := range servers {
			r.want(want, "GET", chunkPath("s", id), nil)
		}
	}
}
