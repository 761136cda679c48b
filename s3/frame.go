package s3

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/zstd"
	"github.com/sarsen-build/sarsen/ledger"
)

// An object that holds a blob or a record begins with a frame, so that a bucket alone says what is in it: a header,
// then a row for each block of the bytes, then the blocks, each as it is or compressed for itself. Numbers are
// little-endian.
//
//	header  0 "SARSENS3"  8 version  9 kind  12 block size  16 size  24 hash or key  56 bytes of all blocks
//	        64 XXH3 of bytes 0 to 64 and of the table
//	row     0 bytes, and whether they are compressed (bit 31)  4 XXH3 of them
const (
	magic      = "SARSENS3"
	version    = 1
	headerSize = 72
	rowSize    = 12
	compressed = 1 << 31
	// blockSize is how much of a blob is compressed and verified at once, in bytes.
	blockSize = 1 << 20
)

// A frame is what an object's beginning says.
type frame struct {
	key    ledger.Key
	size   int64 // of the blob
	block  int64 // of the blob's blocks but the last
	blocks []block
}

// A block is where a part of a blob lies in its object.
type block struct {
	off    int64
	length uint32 // of what is stored
	packed bool
	sum    uint64
}

// blockCount returns how many blocks size bytes have.
func blockCount(size, block int64) int64 { return (size + block - 1) / block }

// frameSize returns how long the frame of a blob is.
func frameSize(size, block int64) int64 { return headerSize + rowSize*blockCount(size, block) }

// bounds returns where block i lies in the blob.
func (f *frame) bounds(i int64) (from, to int64) { return i * f.block, min((i+1)*f.block, f.size) }

// stored returns how many bytes the object has.
func (f *frame) stored() int64 {
	if len(f.blocks) == 0 {
		return frameSize(0, f.block)
	}
	last := f.blocks[len(f.blocks)-1]
	return last.off + int64(last.length)
}

// add appends a block that is stored as b.
func (f *frame) add(b []byte, packed bool) {
	f.blocks = append(f.blocks, block{length: uint32(len(b)), packed: packed, sum: xxh3.Hash(b)})
}

// A packer says how blobs are cut and packed.
type packer struct {
	block int64 // bytes
	plain bool  // nothing is compressed
}

// pack returns what to store for data, and whether that is compressed: only where it gains a sixteenth.
func (p packer) pack(data []byte) ([]byte, bool) {
	if p.plain {
		return data, false
	}
	if packed := zstd.Encode(data); len(packed) < len(data)-len(data)/16 {
		return packed, true
	}
	return data, false
}

// encode returns header and table.
func (f *frame) encode() []byte {
	b := make([]byte, headerSize, frameSize(f.size, f.block))
	copy(b, magic)
	b[8], b[9] = version, byte(f.key.Kind)
	binary.LittleEndian.PutUint32(b[12:], uint32(f.block))
	binary.LittleEndian.PutUint64(b[16:], uint64(f.size))
	copy(b[24:], f.key.Hash[:])
	total := uint64(0)
	for _, e := range f.blocks {
		word := e.length
		if e.packed {
			word |= compressed
		}
		b = binary.LittleEndian.AppendUint32(b, word)
		b = binary.LittleEndian.AppendUint64(b, e.sum)
		total += uint64(e.length)
	}
	binary.LittleEndian.PutUint64(b[56:], total)
	binary.LittleEndian.PutUint64(b[64:], sumOf(b))
	return b
}

func sumOf(b []byte) uint64 {
	var h xxh3.Hasher
	_, _ = h.Write(b[:64])
	_, _ = h.Write(b[headerSize:])
	return h.Sum64()
}

// decodeFrame reads what encode wrote from the beginning of an object. If that is not enough, the error is errShort.
func decodeFrame(b []byte) (*frame, error) {
	bad := func(what string) (*frame, error) { return nil, fmt.Errorf("%w: %s", blob.ErrCorrupt, what) }
	if len(b) < headerSize || string(b[:8]) != magic {
		return bad("it does not begin as Sarsen's objects do")
	}
	if b[8] != version {
		return bad(fmt.Sprintf("version %d, this program knows %d", b[8], version))
	}
	f := &frame{block: int64(binary.LittleEndian.Uint32(b[12:])), size: int64(binary.LittleEndian.Uint64(b[16:]))}
	f.key = ledger.Key{Kind: ledger.Kind(b[9]), Hash: [32]byte(b[24:56])}
	if f.block <= 0 || f.size < 0 {
		return bad("its header")
	}
	end := frameSize(f.size, f.block)
	if end < 0 || int64(len(b)) < end {
		return nil, errShort
	}
	b = b[:end]
	if sumOf(b) != binary.LittleEndian.Uint64(b[64:]) {
		return bad("its header's checksum")
	}
	for at, off := int64(headerSize), end; at < end; at += rowSize {
		word := binary.LittleEndian.Uint32(b[at:])
		e := block{off: off, length: word &^ compressed, packed: word&compressed != 0, sum: binary.LittleEndian.Uint64(b[at+4:])}
		f.blocks = append(f.blocks, e)
		off += int64(e.length)
	}
	return f, nil
}

// errShort says that there must be more bytes to read a frame. If there are none, the object is damaged.
var errShort = fmt.Errorf("%w: it ends within its frame", blob.ErrCorrupt)

// unpack appends the bytes of block i to dst. stored are the object's bytes from off on.
func (f *frame) unpack(dst []byte, i int64, stored []byte, off int64) ([]byte, error) {
	e := f.blocks[i]
	from := e.off - off
	if from < 0 || from+int64(e.length) > int64(len(stored)) {
		return dst, fmt.Errorf("%w: block %d ends early", blob.ErrCorrupt, i)
	}
	b := stored[from : from+int64(e.length)]
	if xxh3.Hash(b) != e.sum {
		return dst, fmt.Errorf("%w: the checksum of block %d", blob.ErrCorrupt, i)
	}
	begin, end := f.bounds(i)
	if e.packed {
		data, err := zstd.Decode(b, end-begin)
		if err != nil {
			return dst, fmt.Errorf("%w: block %d: %w", blob.ErrCorrupt, i, err)
		}
		return append(dst, data...), nil
	}
	if int64(len(b)) != end-begin {
		return dst, fmt.Errorf("%w: block %d has %d bytes", blob.ErrCorrupt, i, len(b))
	}
	return append(dst, b...), nil
}

// seal returns the whole object for a value that is in memory.
func (p packer) seal(k ledger.Key, value []byte) []byte {
	f := &frame{key: k, size: int64(len(value)), block: p.block}
	var body []byte
	for from := int64(0); from < f.size; from += p.block {
		b, packed := p.pack(value[from:min(from+p.block, f.size)])
		f.add(b, packed)
		body = append(body, b...)
	}
	return append(f.encode(), body...)
}

// open returns the value of a whole object.
func open(k ledger.Key, object []byte) ([]byte, error) {
	f, err := decodeFrame(object)
	if err != nil {
		return nil, err
	}
	if f.key != k {
		return nil, fmt.Errorf("%w: it holds something else", blob.ErrCorrupt)
	}
	value := make([]byte, 0, min(f.size, int64(len(object))*64))
	for i := range f.blocks {
		if value, err = f.unpack(value, int64(i), object, 0); err != nil {
			return nil, err
		}
	}
	return value, nil
}
