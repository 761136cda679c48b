package zstd

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 3 << 20} {
		want := bytes.Repeat([]byte("sarsen "), n/7+1)[:n]
		got, err := Decode(Encode(want), int64(n))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("Decode(Encode(%d bytes)) = %d bytes, %v", n, len(got), err)
		}
		var b bytes.Buffer
		w := NewWriter(&b)
		if _, err := w.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r := NewReader(&b, int64(n))
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("stream of %d bytes = %d bytes, %v", n, len(got), err)
		}
		r.Close()
	}
}

func TestBounds(t *testing.T) {
	frame := Encode(make([]byte, 1<<20))
	if _, err := Decode(frame, 1000); !errors.Is(err, ErrTooLong) {
		t.Errorf("Decode to 1000 bytes of a MiB = %v, want ErrTooLong", err)
	}
	if _, err := Decode(frame, 2<<20); err == nil {
		t.Error("Decode to 2 MiB of a MiB = nil, want an error")
	}
	if _, err := Decode(frame[:len(frame)-3], 1<<20); err == nil {
		t.Error("Decode of a cut frame = nil, want an error")
	}
	r := NewReader(bytes.NewReader(frame), 1<<20-1)
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, ErrTooLong) || n != 1<<20-1 {
		t.Errorf("copied %d bytes, %v, want %d, ErrTooLong", n, err, 1<<20-1)
	}
}

// skippable is a frame that decompresses to nothing (RFC 8878, section 3.1.2).
var skippable = append([]byte{0x50, 0x2a, 0x4d, 0x18, 0xf8, 0x0f, 0, 0}, make([]byte, 4088)...)

// endless is a stream that repeats itself, and counts what was read of it.
type endless struct {
	piece []byte
	read  int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.piece[e.read%int64(len(e.piece)):])
	e.read += int64(n)
	return n, nil
}

// Endless input that decompresses to nothing ends at the most that the declared bytes could take.
func TestInputBound(t *testing.T) {
	for _, size := range []int64{0, 10, 1 << 20} {
		in := &endless{piece: skippable}
		r := NewReader(in, size)
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, ErrTooLong) || n != 0 {
			t.Errorf("%d bytes declared: %d bytes came out, %v, want 0, ErrTooLong", size, n, err)
		}
		if slack := int64(1 << 20); in.read > MaxEncoded(size)+slack {
			t.Errorf("%d bytes declared: %d bytes were read, want about %d", size, in.read, MaxEncoded(size))
		}
		r.Close()
	}
	if got, want := MaxEncoded(math.MaxInt64), int64(math.MaxInt64); got != want {
		t.Errorf("MaxEncoded: got %d, want %d", got, want)
	}
}
