package format

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A data blob begins with one of these.
var (
	magicRaw           = [8]byte{0x42, 0xab, 0x38, 0x07, 0xbe, 0x83, 0x70, 0xa1}
	magicZstd          = [8]byte{0x31, 0xb9, 0x58, 0x42, 0x6f, 0xb6, 0xa3, 0x7f}
	magicEncrypted     = [8]byte{0x7b, 0x67, 0x85, 0xbe, 0x22, 0x2d, 0x4c, 0xf0}
	magicEncryptedZstd = [8]byte{0xe6, 0x59, 0x1b, 0xbf, 0x0b, 0xbf, 0xd8, 0x0b}
)

// What precedes the data: magic and CRC, and of an encrypted blob the initialisation vector and the tag.
const (
	HeaderSize          = 8 + 4
	EncryptedHeaderSize = HeaderSize + 16 + 16
)

// A DataBlob is the parsed form of a chunk, a manifest or any other file that ends in .blob.
type DataBlob struct {
	Encrypted  bool
	Compressed bool
	IV, Tag    [16]byte // of AES-256-GCM, if Encrypted
	// Data is what follows the header. It is part of what was parsed.
	Data []byte
}

// ParseBlob reads a data blob and verifies its CRC.
func ParseBlob(b []byte) (DataBlob, error) {
	var d DataBlob
	if len(b) < HeaderSize {
		return d, bad("a data blob of %d bytes", len(b))
	}
	header := HeaderSize
	switch [8]byte(b[:8]) {
	case magicRaw:
	case magicZstd:
		d.Compressed = true
	case magicEncrypted:
		d.Encrypted = true
	case magicEncryptedZstd:
		d.Encrypted, d.Compressed = true, true
	default:
		return d, bad("no data blob begins with %x", b[:8])
	}
	if d.Encrypted {
		if header = EncryptedHeaderSize; len(b) < header {
			return d, bad("an encrypted data blob of %d bytes", len(b))
		}
		d.IV, d.Tag = [16]byte(b[12:28]), [16]byte(b[28:44])
	}
	d.Data = b[header:]
	if got, want := crc32.ChecksumIEEE(d.Data), binary.LittleEndian.Uint32(b[8:12]); got != want {
		return d, bad("the CRC of the data is %08x, and the header says %08x", got, want)
	}
	return d, nil
}

// Append appends the bytes of d, with a CRC of its data.
func (d DataBlob) Append(b []byte) []byte {
	magic := magicRaw
	switch {
	case d.Encrypted && d.Compressed:
		magic = magicEncryptedZstd
	case d.Encrypted:
		magic = magicEncrypted
	case d.Compressed:
		magic = magicZstd
	}
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(d.Data))
	if d.Encrypted {
		b = append(append(b, d.IV[:]...), d.Tag[:]...)
	}
	return append(b, d.Data...)
}

// EncodeBlob returns data as a data blob, compressed if that makes it smaller.
func EncodeBlob(data []byte) []byte {
	d := DataBlob{Data: data}
	if c := Compress(data); len(c) < len(data) {
		d.Compressed, d.Data = true, c
	}
	return d.Append(make([]byte, 0, HeaderSize+len(d.Data)))
}

// An encoder for all, which is made whole here: one that a test's bubble made could not be used in the next.
var encoder = func() *zstd.Encoder {
	e, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest)) // only wrong options fail
	e.EncodeAll([]byte("anything"), nil)
	return e
}()

// A decoder for what one-shot compressors make of a whole chunk: their window is as large as the chunk.
var decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(MaxChunk),
	zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true)) // only wrong options fail

// Compress returns data as zstd.
func Compress(data []byte) []byte { return encoder.EncodeAll(data, nil) }

// Plain returns what d stands for, which may be up to limit bytes, as a part of d or of a new slice. It
// fails for an encrypted blob.
func (d DataBlob) Plain(limit int) ([]byte, error) {
	switch {
	case d.Encrypted:
		return nil, bad("the data is encrypted")
	case d.Compressed:
		return Decompress(d.Data, limit)
	case len(d.Data) > limit:
		return nil, bad("%d bytes of data, at most %d are allowed", len(d.Data), limit)
	}
	return d.Data, nil
}

// Decompress returns what zstd frames hold, if that is at most limit bytes.
func Decompress(frames []byte, limit int) ([]byte, error) {
	room := limit
	var h zstd.Header
	if h.Decode(frames) == nil && h.HasFCS && h.FrameContentSize < uint64(limit) {
		room = int(h.FrameContentSize)
	}
	// Without a declared size the buffer grows with what comes out.
	if !h.HasFCS {
		return decompressGrowing(frames, limit)
	}
	data, err := decoder.DecodeAll(frames, make([]byte, 0, room))
	if err != nil {
		return nil, bad("zstd: %v", err)
	}
	return data, nil
}

func decompressGrowing(frames []byte, limit int) ([]byte, error) {
	for room := min(limit, max(64<<10, 4*len(frames))); ; room = min(limit, 4*room) {
		data, err := decoder.DecodeAll(frames, make([]byte, 0, room))
		switch {
		case err == nil:
			return slices.Clip(data), nil
		case !errors.Is(err, zstd.ErrDecoderSizeExceeded) || room == limit:
			return nil, bad("zstd: %v", err)
		}
	}
}
