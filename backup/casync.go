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
			return refuse(http.StatusNotFound, "%.80q is not a chunk: want xxxx/ID%s, where xxxx begins ID, which has 64 lower-case hexadecimal digits", rest, chunkExt)
		}
		return q.chunk(hash)
	}
	if rest == "" || len(rest) > 512 || path.Clean("/"+rest) != "/"+rest || strings.Contains("/"+rest, "/.") {
		return refuse(http.StatusNotFound, "no such path: a store has xxxx/ID%s and files", chunkExt)
	}
	return q.index("files/" + rest)
}

// chunk answers what is done with one chunk.
func (q *request) chunk(id [32]byte) error {
	root := q.prefix() + "chunks/" + hex.EncodeToString(id[:2])
	switch q.r.Method {
	case http.MethodGet, http.MethodHead:
		s, err := q.chunks(root)
		if err != nil {
			return err
		}
		if i := s.find(id); i >= 0 {
			return q.send(s[i].d)
		}
		return refuse(http.StatusNotFound, "chunk %x is not here", id)
	case http.MethodPut:
		return q.putChunk(root, id)
	case http.MethodDelete:
		if !q.rights.delete {
			return refuse(http.StatusForbidden, "%s is append-only: nothing is deleted with this token", q.prefix())
		}
		defer q.lock(root)()
		s, err := q.chunks(root)
		if err != nil {
			return err
		}
		i := s.find(id)
		if i < 0 {
			return refuse(http.StatusNotFound, "chunk %x is not here", id)
		}
		gone := s[i].d.Size
		if err := q.keepChunks(root, slices.Delete(s, i, i+1)); err != nil {
			return err
		}
		q.gone(gone)
		return nil
	}
	return q.not("GET, HEAD, PUT, DELETE")
}

func (q *request) putChunk(root string, id [32]byte) error {
	q.whole <- struct{}{}
	defer func() { <-q.whole }()
	data, err := q.body(maxChunk)
	if err != nil {
		return err
	}
	if err := verifyChunk(id, data); err != nil {
		return err
	}
	d := digest.SHA256.Of(data)
	share, err := q.take(d.Size)
	if err != nil {
		return err
	}
	defer share.giveBack()
	// A chunk of the same ID may be there in other bytes, compressed otherwise.
	if err := blob.Put(q.r.Context(), q.Store, d, data); err != nil {
		return err
	}
	defer q.lock(root)()
	s, err := q.chunks(root)
	if err != nil {
		return err
	}
	if i := s.find(id); i >= 0 {
		old := s[i].d
		if old != d && q.readable(old) {
			return nil
		}
		// What was there may have turned out to be damaged, and been healed just now.
		s[i].d = d
		if err := q.keepChunks(root, s); err != nil {
			return err
		}
		q.gone(old.Size)
		share.stays()
		return nil
	}
	if err := q.keepChunks(root, append(s, chunk{id, d})); err != nil {
		return err
	}
	share.stays()
	return nil
}

// readable reports whether a blob can be opened.
func (q *request) readable(d digest.Digest) bool {
	b, err := q.Store.Open(q.r.Context(), d)
	if err == nil {
		b.Close()
	}
	return err == nil
}

// verifyChunk decompresses a chunk and compares it with its ID.
func verifyChunk(id [32]byte, data []byte) error {
	z := zstd.NewReader(bytes.NewReader(data), maxChunk)
	defer z.Close()
	long, short := sha512.New512_256(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(long, short), z); errors.Is(err, zstd.ErrTooLong) {
		return refuse(http.StatusRequestEntityTooLarge, "the chunk decompresses to more than the %d bytes that are taken", maxChunk)
	} else if err != nil {
		return refuse(http.StatusBadRequest, "the chunk does not decompress: %v", err)
	}
	if !bytes.Equal(long.Sum(nil), id[:]) && !bytes.Equal(short.Sum(nil), id[:]) {
		return refuse(http.StatusBadRequest, "the chunk is %x by SHA-512/256 and %x by SHA-256, not %x", long.Sum(nil), short.Sum(nil), id)
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

// chunks returns those of one prefix.
func (q *request) chunks(root string) (chunks, error) {
	r, there, err := q.kept(root)
	if err != nil || !there {
		return nil, err
	}
	return decodeChunks(r.Value)
}

// keepChunks makes s those of one prefix.
func (q *request) keepChunks(root string, s chunks) error {
	if len(s) == 0 {
		return q.Keeper.Release(context.WithoutCancel(q.r.Context()), root)
	}
	var ds digest.Set
	for _, c := range s {
		if q.readable(c.d) { // one that is damaged stays in the value, and is kept again once it is uploaded again
			ds.Add(c.d)
		}
	}
	return q.keep(root, s.encode(), ds)
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
	s, err := q.take(d.Size)
	if err != nil {
		return err
	}
	defer s.giveBack()
	if err := q.stream(d, file.all()); err != nil {
		return err
	}
	defer q.lock(root)()
	was, there, err := q.kept(root)
	if err != nil {
		return err
	}
	if same := there && (len(was.Few) == 1 && was.Few[0] == d || len(was.Few) == 0 && d.IsEmpty()); there && !same && !q.rights.delete {
		return refuse(http.StatusForbidden, "%s is append-only: %s is there, and nothing is replaced with this token", q.prefix(), name)
	}
	if err := q.keep(root, nil, digest.SetOf(d)); err != nil {
		return err
	}
	s.stays()
	if there {
		q.gone(was.Bytes)
	}
	return nil
}
