package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// The chunk stores of casync and desync: xxxx/ID.cacnk is a chunk, compressed with zstd, whose ID is the SHA-512/256 or
// the SHA-256 of what it decompresses to. Anything else with a name that is not hidden is a file: an index (.caibx,
// .caidx) or an archive (.catar).
//
// Chunks are small, 64 KiB on average, so that a root for each would cost about as much as the chunk does in memory. The
// chunks of one prefix, the four digits that are their folder, share a root instead: its value says which
// blob is which chunk. So a store has 65,536 roots at most, and a PUT writes one of them anew, some hundred bytes for
// each chunk that has the prefix: of a million chunks, sixteen.

const (
	chunkExt = ".cacnk"
	// maxChunk bounds a chunk, before and after decoding. desync's largest are 256 KiB unless it is told otherwise.
	maxChunk = 16 << 20
)

func (q *request) casync(rest string) error {
	parts := strings.Split(rest, "/")
	// casync's own way is to have NAME.castr beside indexes.
	if len(parts) == 3 && strings.HasSuffix(parts[0], ".castr") {
		parts = parts[1:]
	}
	file := parts[len(parts)-1]
	if id, isChunk := strings.CutSuffix(file, chunkExt); isChunk {
		var hash [32]byte
		if n, err := hex.Decode(hash[:], []byte(id[:min(len(id), 64)])); err != nil || n != 32 || len(id) != 64 || strings.ToLower(id) != id || len(parts) != 2 || parts[0] != id[:4] {
			return refusal.New(http.StatusNotFound, "%.80q is not a chunk: want xxxx/ID%s, where xxxx begins ID, which has 64 lower-case hexadecimal digits", rest, chunkExt)
		}
		return q.chunk(hash)
	}
	if rest == "" || len(rest) > 512 || path.Clean("/"+rest) != "/"+rest || strings.Contains("/"+rest, "/.") {
		return refusal.New(http.StatusNotFound, "no such path: a store has xxxx/ID%s and files", chunkExt)
	}
	return q.index("files/" + rest)
}

// chunk answers what is done with one chunk.
func (q *request) chunk(id [32]byte) error {
	root := q.prefix() + "chunks/" + hex.EncodeToString(id[:2])
	switch q.r.Method {
	case http.MethodGet, http.MethodHead:
		s, _, err := q.chunks(root)
		if err != nil {
			return err
		}
		if i := s.find(id); i >= 0 {
			return q.send(s[i].d)
		}
		return refusal.New(http.StatusNotFound, "chunk %x is not here", id)
	case http.MethodPut:
		return q.putChunk(root, id)
	case http.MethodDelete:
		if !q.rights.delete {
			return q.appendOnly()
		}
		return q.removeChunk(root, id)
	}
	return q.not("GET, HEAD, PUT, DELETE")
}

func (q *request) removeChunk(root string, id [32]byte) error {
	share, done, err := q.deletes(root)
	if err != nil {
		return err
	}
	defer done()
	return q.changeChunks(root, digest.Digest{}, share, func(s chunks) (chunks, error) {
		i := s.find(id)
		if i < 0 {
			return nil, refusal.New(http.StatusNotFound, "chunk %x is not here", id)
		}
		return slices.Delete(s, i, i+1), nil
	})
}

func (q *request) putChunk(root string, id [32]byte) error {
	select {
	case q.whole <- struct{}{}:
	case <-q.r.Context().Done():
		return q.r.Context().Err()
	}
	defer func() { <-q.whole }()
	data, err := q.body(maxChunk)
	if err != nil {
		return err
	}
	if err := verifyChunk(id, data); err != nil {
		return err
	}
	d := digest.SHA256.Of(data)
	s, was, err := q.chunks(root)
	if err != nil {
		return err
	}
	// One that is there and kept takes nothing, in whatever way it is compressed.
	if i := s.find(id); i >= 0 && was.Count == int64(len(s)) {
		if readable, err := q.readable(s[i].d); readable || err != nil {
			return err
		}
	}
	share, err := q.take(d.Size)
	if err != nil {
		return err
	}
	defer share.giveBack()
	if err := blob.Put(q.r.Context(), q.Store, d, data); err != nil {
		return err
	}
	done, err := q.turns.Take(q.r.Context(), root)
	if err != nil {
		return err
	}
	defer done()
	return q.changeChunks(root, d, share, func(s chunks) (chunks, error) {
		if i := s.find(id); i < 0 {
			s = append(s, chunk{id, d})
		} else if readable, err := q.readable(s[i].d); err != nil {
			return nil, err
		} else if !readable { // it is damaged
			s[i].d = d
		}
		return s, nil
	})
}

// readable reports whether a blob is there. A store that can't tell now is an error, never a no: what is called damaged is
// not kept any more.
func (q *request) readable(d digest.Digest) (bool, error) {
	b, err := q.Store.Open(context.WithoutCancel(q.r.Context()), d)
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrCorrupt) {
		return false, nil
	} else if err != nil {
		if mutant.BusyDropped {
			return false, nil
		}
		return false, err
	}
	return true, b.Close()
}

// verifyChunk decompresses a chunk and compares it with its ID.
func verifyChunk(id [32]byte, data []byte) error {
	z := zstd.NewReader(bytes.NewReader(data), maxChunk)
	defer z.Close()
	long, short := sha512.New512_256(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(long, short), z); errors.Is(err, zstd.ErrTooLong) {
		return refusal.New(http.StatusRequestEntityTooLarge, "the chunk decompresses to more than the %d bytes that are taken", maxChunk)
	} else if err != nil {
		return refusal.New(http.StatusBadRequest, "the chunk does not decompress: %v", err)
	}
	if !bytes.Equal(long.Sum(nil), id[:]) && !bytes.Equal(short.Sum(nil), id[:]) {
		return refusal.New(http.StatusBadRequest, "the chunk is %x by SHA-512/256 and %x by SHA-256, not %x", long.Sum(nil), short.Sum(nil), id)
	}
	return nil
}

// A chunk is an ID and the blob that it stands for.
type chunk struct {
	id [32]byte
	d  digest.Digest
}

type chunks []chunk

func (s chunks) find(id [32]byte) int {
	return slices.IndexFunc(s, func(c chunk) bool { return c.id == id })
}

// chunks returns those of one prefix, and the root that has them, if there is one.
func (q *request) chunks(root string) (chunks, *blob.Root, error) {
	r, there, err := q.kept(root)
	if err != nil || !there {
		return nil, nil, err
	}
	s, err := decodeChunks(r.Value)
	return s, &r, err
}

// changeChunks replaces those of one prefix by what change makes of them, which is asked again if another server did the
// same meanwhile, and makes what they take more than before the share's. fresh was stored just now.
func (q *request) changeChunks(root string, fresh digest.Digest, share *share, change func(chunks) (chunks, error)) error {
	return blob.WhileChanged(q.r.Context(), func() error {
		s, was, err := q.chunks(root)
		if err == nil {
			s, err = change(s)
		}
		if err != nil {
			return err
		}
		return q.keepChunks(root, was, s, fresh, share)
	})
}

// keepChunks makes s those of one prefix, if its root still is what it was. What is fresh is kept, or it fails.
func (q *request) keepChunks(root string, was *blob.Root, s chunks, fresh digest.Digest, share *share) error {
	took := int64(0)
	if was != nil {
		took = was.Bytes
	}
	if len(s) == 0 {
		err := q.Keeper.ReleaseIf(context.WithoutCancel(q.r.Context()), *was) // which had one
		if err == nil {
			share.becomes(-took)
		}
		return err
	}
	var ds digest.Set
	bytes := int64(0)
	for _, c := range s {
		readable, err := c.d == fresh, error(nil)
		if !readable {
			readable, err = q.readable(c.d)
		}
		if err != nil {
			return err
		}
		if readable && ds.Add(c.d) { // one that is damaged stays in the value, and is kept again once it is uploaded again
			bytes += c.d.Size
		}
	}
	err := q.Keeper.KeepIf(context.WithoutCancel(q.r.Context()), root, was, s.encode(), ds)
	if err == nil {
		share.becomes(bytes - took)
	}
	return err
}

// encode returns what a root's value says: for each chunk its ID, the hash of its blob, and that one's size as a varint.
func (s chunks) encode() []byte {
	var b []byte
	for _, c := range s {
		b = append(b, c.id[:]...)
		b = append(b, c.d.Hash[:]...)
		b = binary.AppendUvarint(b, uint64(c.d.Size))
	}
	return b
}

func decodeChunks(b []byte) (s chunks, err error) {
	for len(b) > 0 {
		if len(b) < 65 {
			return nil, blob.ErrCorrupt
		}
		size, n := binary.Uvarint(b[64:])
		if n <= 0 || size > maxChunk {
			return nil, blob.ErrCorrupt
		}
		s = append(s, chunk{[32]byte(b), digest.Digest{Function: digest.SHA256, Hash: [32]byte(b[32:]), Size: int64(size)}})
		b = b[64+n:]
	}
	return s, nil
}

// index answers what is done with a file beside the chunks.
func (q *request) index(name string) error {
	root := q.prefix() + name
	switch q.r.Method {
	case http.MethodGet, http.MethodHead:
		return q.read(root)
	case http.MethodDelete:
		return q.remove(root, q.rights.delete)
	case http.MethodPut:
	default:
		return q.not("GET, HEAD, PUT, DELETE")
	}
	file, err := q.spool()
	if err != nil {
		return err
	}
	defer file.close()
	d := file.digest
	store := func() error { return q.stream(d, file.all()) }
	return q.replace(root, d, store, func(was blob.Root, there bool) error {
		if there && !holds(was, d) && !q.rights.delete {
			return refusal.New(http.StatusForbidden, "%s is append-only: %s is there, and nothing is replaced with this token", q.prefix(), name)
		}
		return nil
	})
}
