package format

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
)

// A Chunk says under which digest a chunk is known, and which blob holds it.
type Chunk struct {
	Digest    [32]byte // of the plain data, and of the client's key if Encrypted
	Size      uint32   // of the plain data
	Encrypted bool
	Blob      [32]byte // SHA-256 of the data blob
	Stored    uint32   // bytes of the data blob
}

// A ChunkList has an entry for each chunk of a snapshot, in the order of their digests. It is looked up as it
// was stored.
type ChunkList struct{ entries []byte }

var magicChunks = [8]byte{'S', 'a', 'r', 's', 'C', 'h', 'k', 1}

const (
	chunkEntry    = 32 + 4 + 32 + 4
	encryptedFlag = 1 << 31
)

// EncodeChunks returns the list of chunks, each of which is there once. It sorts the slice.
func EncodeChunks(chunks []Chunk) []byte {
	slices.SortFunc(chunks, func(a, b Chunk) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	b := make([]byte, 0, len(magicChunks)+chunkEntry*len(chunks))
	b = append(b, magicChunks[:]...)
	for _, c := range chunks {
		size := c.Size
		if c.Encrypted {
			size |= encryptedFlag
		}
		b = append(b, c.Digest[:]...)
		b = binary.LittleEndian.AppendUint32(b, size)
		b = append(b, c.Blob[:]...)
		b = binary.LittleEndian.AppendUint32(b, c.Stored)
	}
	return b
}

// ParseChunks reads what EncodeChunks wrote.
func ParseChunks(b []byte) (ChunkList, error) {
	if len(b) < len(magicChunks) || [8]byte(b[:8]) != magicChunks || (len(b)-8)%chunkEntry != 0 {
		return ChunkList{}, bad("a list of chunks of %d bytes", len(b))
	}
	l := ChunkList{b[len(magicChunks):]}
	for i := 1; i < l.Len(); i++ {
		if bytes.Compare(l.digest(i-1), l.digest(i)) >= 0 {
			return ChunkList{}, bad("chunk %d of a list is out of order", i)
		}
	}
	return l, nil
}

// Len returns how many chunks there are.
func (l ChunkList) Len() int { return len(l.entries) / chunkEntry }

func (l ChunkList) digest(i int) []byte { return l.entries[i*chunkEntry:][:32] }

// At returns chunk i.
func (l ChunkList) At(i int) Chunk {
	e := l.entries[i*chunkEntry:]
	size := binary.LittleEndian.Uint32(e[32:])
	return Chunk{
		Digest: [32]byte(e), Size: size &^ encryptedFlag, Encrypted: size&encryptedFlag != 0,
		Blob: [32]byte(e[36:]), Stored: binary.LittleEndian.Uint32(e[68:]),
	}
}

// Find returns the chunk of that digest.
func (l ChunkList) Find(digest [32]byte) (Chunk, bool) {
	i := sort.Search(l.Len(), func(i int) bool { return bytes.Compare(l.digest(i), digest[:]) >= 0 })
	if i == l.Len() || !bytes.Equal(l.digest(i), digest[:]) {
		return Chunk{}, false
	}
	return l.At(i), true
}
