// Package zstd compresses and decompresses what goes over the wire, with pooled coders and bounds.
//
// Bytes from outside decide how much memory a decoder takes, so every decoder here has a bounded
// window, and every caller states how many bytes may come out.
//
// Concurrency: the functions may be called from many goroutines; a Reader or Writer belongs to one.
package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds a decoder's memory. RFC 8878 section 3.1.1.1.2 recommends that decoders support
// 8 MiB; that is also what zstd's levels up to 19 use.
const maxWindow = 8 << 20

// ErrTooLong is returned when more bytes come out than were declared, or more go in than those take.
var ErrTooLong = errors.New("zstd: more bytes than declared, or more input than those can take")

// MaxEncoded returns the most bytes that size bytes may take as zstd. The format's own bound for what
// can't be compressed is one byte in 256 more; streaming encoders' frames and blocks add to that.
func MaxEncoded(size int64) int64 {
	if size > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return size + size/64 + 64<<10
}

var encoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // only wrong options fail
	}
	return e
}}

var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // only wrong options fail
	}
	return d
}}

// Encode returns data as one frame.
func Encode(data []byte) []byte {
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	return e.EncodeAll(data, make([]byte, 0, len(data)/2+64))
}

// Decode returns the size bytes that frames hold; fewer or more are an error.
func Decode(frames []byte, size int64) ([]byte, error) {
	r := NewReader(bytes.NewReader(frames), size)
	defer r.Close()
	data := make([]byte, size)
	if n, err := io.ReadFull(r, data); err != nil && !(size == 0 && err == io.EOF) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("zstd: decompresses to %d bytes of the %d declared", n, size)
		}
		return nil, err
	}
	// The end must be there too, and nothing after it.
	if n, err := r.Read(make([]byte, 1)); n > 0 || (err != nil && err != io.EOF) {
		return nil, err
	}
	return data, nil
}

// A Reader decompresses.
type Reader struct {
	d    *zstd.Decoder
	src  source
	left int64
}

// A source bounds what goes into a decoder: endless input may decompress to nothing.
type source struct {
	io.Reader
	left int64 // negative once there was more
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, ErrTooLong
	}
	return n, err
}

// NewReader returns a Reader of what r's frames hold. It fails with ErrTooLong after limit bytes if
// there are more, and if r has more than MaxEncoded(limit) bytes.
func NewReader(r io.Reader, limit int64) *Reader {
	z := &Reader{d: decoders.Get().(*zstd.Decoder), src: source{r, MaxEncoded(limit)}, left: limit}
	if err := z.d.Reset(&z.src); err != nil {
		panic(err) // only a closed decoder fails
	}
	return z
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.d == nil {
		return 0, io.ErrClosedPipe
	}
	// One byte more than allowed tells the end from an overrun.
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.d.Read(p)
	if int64(n) > r.left {
		return int(r.left), ErrTooLong
	}
	if r.src.left < 0 {
		err = ErrTooLong // the decoder may have made another error of it
	}
	r.left -= int64(n)
	return n, err
}

// Close gives the decoder back.
func (r *Reader) Close() error {
	if r.d != nil {
		_ = r.d.Reset(nil) // lets go of the source
		decoders.Put(r.d)
		r.d = nil
	}
	return nil
}

// A Writer compresses what is written to it, as one frame.
type Writer struct{ e *zstd.Encoder }

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer {
	e := encoders.Get().(*zstd.Encoder)
	e.Reset(w)
	return &Writer{e}
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) { return w.e.Write(p) }

// Close ends the frame and gives the encoder back. w is of no use afterwards.
func (w *Writer) Close() error {
	err := w.e.Close()
	w.e.Reset(nil)
	encoders.Put(w.e)
	w.e = nil
	return err
}
