package format

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sort"
)

var (
	magicFixed   = [8]byte{0x2f, 0x7f, 0x41, 0xed, 0x91, 0xfd, 0x0f, 0xcd}
	magicDynamic = [8]byte{0x1c, 0x91, 0x4e, 0xa5, 0x19, 0xba, 0xb3, 0xcd}
)

// An index file is a header of one page, and then a digest for each chunk, with its end if it is dynamic.
const (
	indexHeader  = 4096
	fixedEntry   = 32
	dynamicEntry = 8 + 32
)

// An Index says which chunks an archive consists of.
type Index struct {
	Fixed     bool
	UUID      [16]byte
	Created   int64 // seconds since 1970
	Size      uint64
	ChunkSize uint64     // of a fixed one: of all chunks but the last
	Ends      []uint64   // of a dynamic one: where each chunk ends; they rise
	Digests   [][32]byte // of each chunk
}

// Bounds returns where chunk i begins and ends.
func (x *Index) Bounds(i int) (begin, end uint64) {
	if x.Fixed {
		begin = uint64(i) * x.ChunkSize
		return begin, min(begin+x.ChunkSize, x.Size)
	}
	if i > 0 {
		begin = x.Ends[i-1]
	}
	return begin, x.Ends[i]
}

// Find returns the chunk that has the byte at off, which is less than Size.
func (x *Index) Find(off uint64) int {
	if x.Fixed {
		return int(off / x.ChunkSize)
	}
	return sort.Search(len(x.Ends), func(i int) bool { return x.Ends[i] > off })
}

// Csum returns the checksum of the entries, which names an index's contents.
func (x *Index) Csum() (csum [32]byte) {
	h := sha256.New()
	var end [8]byte
	for i := range x.Digests {
		if !x.Fixed {
			binary.LittleEndian.PutUint64(end[:], x.Ends[i])
			h.Write(end[:])
		}
		h.Write(x.Digests[i][:])
	}
	h.Sum(csum[:0])
	return csum
}

// Encode returns the index as a file.
func (x *Index) Encode() []byte {
	entry, magic := dynamicEntry, magicDynamic
	if x.Fixed {
		entry, magic = fixedEntry, magicFixed
	}
	b := make([]byte, indexHeader, indexHeader+entry*len(x.Digests))
	copy(b, magic[:])
	copy(b[8:], x.UUID[:])
	binary.LittleEndian.PutUint64(b[24:], uint64(x.Created))
	csum := x.Csum()
	copy(b[32:], csum[:])
	if x.Fixed {
		binary.LittleEndian.PutUint64(b[64:], x.Size)
		binary.LittleEndian.PutUint64(b[72:], x.ChunkSize)
	}
	for i := range x.Digests {
		if !x.Fixed {
			b = binary.LittleEndian.AppendUint64(b, x.Ends[i])
		}
		b = append(b, x.Digests[i][:]...)
	}
	return b
}

// ParseIndex reads an index file of either kind and verifies its checksum.
func ParseIndex(b []byte) (*Index, error) {
	if len(b) < indexHeader {
		return nil, bad("an index of %d bytes", len(b))
	}
	x := &Index{UUID: [16]byte(b[8:24]), Created: int64(binary.LittleEndian.Uint64(b[24:]))}
	var err error
	switch [8]byte(b[:8]) {
	case magicFixed:
		x.Fixed = true
		err = x.parseFixed(b)
	case magicDynamic:
		err = x.parseDynamic(b[indexHeader:])
	default:
		err = bad("no index begins with %x", b[:8])
	}
	if err != nil {
		return nil, err
	}
	if got := x.Csum(); got != [32]byte(b[32:64]) {
		return nil, bad("the checksum of the index is %x, and its header says %x", got, b[32:64])
	}
	return x, nil
}

func (x *Index) parseFixed(b []byte) error {
	x.Size, x.ChunkSize = binary.LittleEndian.Uint64(b[64:]), binary.LittleEndian.Uint64(b[72:])
	if x.ChunkSize == 0 || x.ChunkSize > MaxChunk || x.Size > MaxFixed {
		return bad("a fixed index of %d bytes in chunks of %d", x.Size, x.ChunkSize)
	}
	entries := b[indexHeader:]
	n := Chunks(x.Size, x.ChunkSize)
	if uint64(len(entries)) != n*fixedEntry {
		return bad("%d bytes of entries for %d chunks", len(entries), n)
	}
	x.Digests = make([][32]byte, n)
	for i := range x.Digests {
		x.Digests[i] = [32]byte(entries[i*fixedEntry:])
	}
	return nil
}

func (x *Index) parseDynamic(entries []byte) error {
	if len(entries)%dynamicEntry != 0 {
		return bad("%d bytes of entries, of %d each", len(entries), dynamicEntry)
	}
	n := len(entries) / dynamicEntry
	x.Ends, x.Digests = make([]uint64, n), make([][32]byte, n)
	for i := range n {
		e := entries[i*dynamicEntry:]
		end := binary.LittleEndian.Uint64(e)
		if end <= x.Size || end > math.MaxInt64 || end-x.Size > MaxChunk {
			return bad("chunk %d ends at %d, and the one before it at %d", i, end, x.Size)
		}
		x.Ends[i], x.Digests[i], x.Size = end, [32]byte(e[8:]), end
	}
	return nil
}

// Chunks returns how many chunks an image of size bytes has.
func Chunks(size, chunkSize uint64) uint64 { return (size + chunkSize - 1) / chunkSize }
