package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/ledger"
)

// The bytes of a segment; docs/format.md is the same in prose. All integers are little-endian.
//
//	first block │ header bytes pad sums │ header bytes pad sums │ … │ footer lines │ trailer
const (
	firstSize   = 64 // the first block: which segment this is, and its key
	headerSize  = 64 // before the bytes of each record
	entrySize   = 56 // a footer's line for one record
	trailerSize = 64 // the last bytes of a sealed segment
	align       = 8  // records begin at multiples of it

	// blockSize is how many of a record's bytes have a checksum of their own, so that a part can be read
	// and known to be good. 64 KiB is what a reader takes at once, and makes sums an eight-thousandth.
	blockSize = 64 << 10

	firstMagic   = "SARSENs2"
	headerMagic  = 0x43455253 // "SREC"
	trailerMagic = 0x444e4553 // "SEND"

	flagOwn      = 1 // the segment belongs to one big blob
	flagUnsynced = 2 // nothing was synced before the footer was written

	flagMoved = 1 // of a record: a copy of one from an older segment
)

// kindVoid is the kind of records that say that an incarnation turned out to be damaged. Their key has
// its hash, their bytes its kind and place. The ledger never sees them.
const kindVoid ledger.Kind = 0xfe

var le = binary.LittleEndian

var (
	// errFormat says that bytes are not what the format calls for: after a crash, the end of a chain.
	errFormat = errors.New("not in the segment format")
	// errUnwritten says that the first block was never written: a crash came first.
	errUnwritten = fmt.Errorf("never written: %w", errFormat)
	// errVersion says that another version of Sarsen wrote the bytes. Nothing of it is touched.
	errVersion = errors.New("written by another version of Sarsen, which this one can't read; use that version, or another directory")
)

// A first is the first block.
type first struct {
	generation uint32
	own        bool   // the segment belongs to one big blob
	unsynced   bool   // its footer vouches for nothing after a power cut
	seed       uint64 // random; keys every checksum below, so that no blob's bytes pass for a header
}

func (f first) encode() []byte {
	b := make([]byte, firstSize)
	copy(b, firstMagic)
	le.PutUint32(b[8:], f.generation)
	var flags uint32
	if f.own {
		flags |= flagOwn
	}
	if f.unsynced {
		flags |= flagUnsynced
	}
	le.PutUint32(b[12:], flags)
	le.PutUint64(b[16:], f.seed)
	le.PutUint64(b[56:], xxh3.Hash(b[:56]))
	return b
}

func decodeFirst(b []byte) (first, error) {
	switch version := len(firstMagic) - 1; {
	case len(b) != firstSize:
		return first{}, fmt.Errorf("first block of %d bytes: %w", len(b), errFormat)
	case !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }):
		return first{}, errUnwritten
	case string(b[:version]) == firstMagic[:version] && b[version] != firstMagic[version]:
		return first{}, errVersion
	case string(b[:8]) != firstMagic || le.Uint64(b[56:]) != xxh3.Hash(b[:56]):
		return first{}, fmt.Errorf("first block: %w", errFormat)
	}
	flags := le.Uint32(b[12:])
	return first{le.Uint32(b[8:]), flags&flagOwn != 0, flags&flagUnsynced != 0, le.Uint64(b[16:])}, nil
}

// sum is a checksum that only somebody who knows the segment's seed can make, and that holds for one
// offset of one segment.
func (f first) sum(b []byte, off int64) uint64 { return xxh3.HashSeed(b, f.keyAt(off)) }

// keyAt is what keys a checksum at an offset: the segment's seed, its generation and the offset, spread
// by odd constants, so that no two places of a ring share one but by chance.
func (f first) keyAt(off int64) uint64 {
	return f.seed ^ uint64(f.generation)*0x9e3779b97f4a7c15 ^ uint64(off)*0xbf58476d1ce4e5b9
}

// A summer makes the checksums of a record's blocks from its bytes, in order.
type summer struct {
	first
	off  int64 // of the block that is being summed
	n    int   // how much of it there was
	h    xxh3.Hasher
	sums []uint64
}

// newSummer begins at the record whose header lies at off.
func (f first) newSummer(off int64) *summer {
	u := &summer{first: f, off: off + headerSize}
	u.h.ResetSeed(f.keyAt(u.off))
	return u
}

func (u *summer) write(p []byte) {
	for len(p) > 0 {
		n := min(blockSize-u.n, len(p))
		_, _ = u.h.Write(p[:n]) // never fails
		u.n, p = u.n+n, p[n:]
		if u.n == blockSize {
			u.end()
		}
	}
}

func (u *summer) end() {
	u.sums = append(u.sums, u.h.Sum64())
	u.off, u.n = u.off+int64(u.n), 0
	u.h.ResetSeed(u.keyAt(u.off))
}

// close returns all sums. A record without bytes has one too.
func (u *summer) close() []uint64 {
	if u.n > 0 || len(u.sums) == 0 {
		u.end()
	}
	return u.sums
}

// appendSumsOf appends the checksums of the blocks of a record whose header lies at off.
func (f first) appendSumsOf(b, data []byte, off int64) []byte {
	for pos := range blocks(int64(len(data))) {
		pos *= blockSize
		block := data[pos:min(pos+blockSize, int64(len(data)))]
		b = le.AppendUint64(b, f.sum(block, off+headerSize+pos))
	}
	return b
}

func appendSums(b []byte, sums []uint64) []byte {
	for _, s := range sums {
		b = le.AppendUint64(b, s)
	}
	return b
}

func decodeSums(b []byte) []uint64 {
	sums := make([]uint64, len(b)/8)
	for i := range sums {
		sums[i] = le.Uint64(b[8*i:])
	}
	return sums
}

// A header stands before each record's bytes.
type header struct {
	key   ledger.Key
	size  int64 // bytes that follow
	moved bool
}

func (f first) appendHeader(b []byte, h header, off int64) []byte {
	n := len(b)
	b = append(b, make([]byte, headerSize)...)
	p := b[n:]
	le.PutUint32(p, headerMagic)
	p[4] = byte(h.key.Kind)
	if h.moved {
		p[5] = flagMoved
	}
	le.PutUint64(p[8:], uint64(h.size))
	copy(p[16:], h.key.Hash[:])
	le.PutUint64(p[56:], f.sum(p[:56], off))
	return b
}

func (f first) decodeHeader(b []byte, off int64) (header, error) {
	if len(b) != headerSize || le.Uint32(b) != headerMagic || le.Uint64(b[56:]) != f.sum(b[:56], off) {
		return header{}, fmt.Errorf("record header at %d: %w", off, errFormat)
	}
	h := header{
		key:   ledger.Key{Kind: ledger.Kind(b[4]), Hash: [32]byte(b[16:48])},
		size:  int64(le.Uint64(b[8:])),
		moved: b[5]&flagMoved != 0,
	}
	if h.size < 0 {
		return header{}, fmt.Errorf("record header at %d: size %d: %w", off, h.size, errFormat)
	}
	return h, nil
}

// padded is size rounded up to where something else may begin.
func padded(size int64) int64 { return (size + align - 1) / align * align }

// blocks returns how many checksums a record of size bytes has.
func blocks(size int64) int64 { return max(1, (size+blockSize-1)/blockSize) }

// tableSize returns how many bytes of checksums lie behind a record of size bytes.
func tableSize(size int64) int64 { return 8 * blocks(size) }

// span returns how many bytes of a segment a record of size bytes takes.
func span(size int64) int64 { return headerSize + padded(size) + tableSize(size) }

// holds reports whether a record of size bytes at off ends before end, also if its size is nonsense.
func holds(off, size, end int64) bool {
	return off >= firstSize && size >= 0 && size <= end && span(size) <= end-off
}

// An extent's state, as footers have it.
type state uint8

const (
	open      state = 0 // handed out; its bytes may come yet
	complete  state = 1 // its bytes are there and verified
	abandoned state = 2 // nobody will ever read it
)

// A line is a footer's line for one record.
type line struct {
	key   ledger.Key
	size  int64
	off   int64 // of the header
	state state
	moved bool
	at    uint32 // when it was written first, in seconds since 1970; 0 is unknown
}

// encodeFooter returns the footer and trailer that lie at off.
func (f first) encodeFooter(lines []line, off int64) []byte {
	b := make([]byte, len(lines)*entrySize+trailerSize)
	for i, l := range lines {
		p := b[i*entrySize:]
		copy(p, l.key.Hash[:])
		le.PutUint64(p[32:], uint64(l.size))
		le.PutUint64(p[40:], uint64(l.off))
		p[48], p[49] = byte(l.key.Kind), byte(l.state)
		if l.moved {
			p[50] = flagMoved
		}
		le.PutUint32(p[52:], l.at)
	}
	entries, t := b[:len(lines)*entrySize], b[len(lines)*entrySize:]
	le.PutUint32(t, trailerMagic)
	le.PutUint32(t[4:], uint32(len(lines)))
	le.PutUint64(t[8:], f.sum(entries, off))
	le.PutUint64(t[56:], f.sum(t[:56], off+int64(len(entries))))
	return b
}

// decodeTrailer returns how many lines the footer before the trailer at off has, and their checksum.
func (f first) decodeTrailer(b []byte, off int64) (lines int64, sum uint64, err error) {
	if len(b) != trailerSize || le.Uint32(b) != trailerMagic || le.Uint64(b[56:]) != f.sum(b[:56], off) {
		return 0, 0, fmt.Errorf("trailer at %d: %w", off, errFormat)
	}
	lines = int64(le.Uint32(b[4:]))
	if lines*entrySize > off-firstSize {
		return 0, 0, fmt.Errorf("trailer at %d: %d lines: %w", off, lines, errFormat)
	}
	return lines, le.Uint64(b[8:]), nil
}

func decodeLine(p []byte) line {
	return line{
		key:   ledger.Key{Kind: ledger.Kind(p[48]), Hash: [32]byte(p[:32])},
		size:  int64(le.Uint64(p[32:])),
		off:   int64(le.Uint64(p[40:])),
		state: state(p[49]),
		moved: p[50]&flagMoved != 0,
		at:    le.Uint32(p[52:]),
	}
}
