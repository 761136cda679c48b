package zstd

import (
	"bytes"
	"errors"
	"io"
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
