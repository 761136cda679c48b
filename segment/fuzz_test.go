package segment

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// FuzzRecover changes bytes of what a killed process left. Whatever start-up then calls present is
// whole.
func FuzzRecover(f *testing.F) {
	f.Add(uint16(0), []byte{1})
	f.Add(uint16(firstSize), []byte{0, 0, 0, 0})
	f.Add(uint16(firstSize+8), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add(uint16(2*firstSize+3), []byte("SREC"))
	f.Add(uint16(2000), slices.Repeat([]byte{7}, 3000))
	f.Fuzz(func(t *testing.T, at uint16, noise []byte) {
		fsys := &vfs.Mem{}
		r := openRing(t, fsys, small)
		putAllSizes(t, r)
		if err := r.Put(t.Context(), [32]byte{1}, []byte("result")); err != nil {
			t.Fatal(err)
		}
		image := fsys.Clone()
		for _, g := range []uint32{1, 3} { // 2 is the lease log
			file, err := image.Open(segmentName("ring", g))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt(noise, int64(at)); err != nil {
				t.Fatal(err)
			}
			file.Close()
		}
		r, err := Open(t.Context(), image, "ring", small)
		if errors.Is(err, errVersion) {
			return // refused, and nothing touched
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range sizes {
			data := storetest.Bytes(uint64(i), n)
			d := digest.SHA256.Of(data)
			if present, err := r.Missing(t.Context(), digest.SetOf(d)); err != nil {
				t.Fatal(err)
			} else if present.Len() == 0 {
				checkBlob(t, r, d, data)
			}
		}
		if rec, err := r.Get(t.Context(), [32]byte{1}); err == nil && string(rec.Value) != "result" {
			t.Errorf("record = %q", rec.Value)
		} else if err != nil && !errors.Is(err, blob.ErrNotFound) {
			t.Error(err)
		}
		if err := r.leaks(image); err != nil {
			t.Error(err)
		}
		closeRing(t, r)
	})
}

// FuzzDecode feeds arbitrary bytes to every decoder of the format; what decodes encodes to the same.
func FuzzDecode(f *testing.F) {
	one := first{generation: 3, seed: 42}
	lines := []line{{key: ledger.Key{Kind: 1}, size: 5, off: 64, state: complete}}
	f.Add(one.encode())
	f.Add(one.appendHeader(nil, header{key: ledger.Key{Kind: ledger.Record}, size: 9, moved: true}, 64))
	f.Add(one.encodeFooter(lines, 200)[entrySize:])
	log := leaseHeader{generation: 3, since: 2, clean: true, boot: 7}.encode()
	f.Add(append(log, encodeChunk([]uint64{1, 2}, false, leaseHeaderSize)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeFirst(b); err == nil && !slices.Equal(got.encode()[:24], b[:24]) {
			t.Errorf("first block %x decodes to %+v", b, got)
		}
		if got, err := one.decodeHeader(b, 64); err == nil {
			if again, err := one.decodeHeader(one.appendHeader(nil, got, 64), 64); err != nil || again != got {
				t.Errorf("header %+v becomes %+v, %v", got, again, err)
			}
		}
		if n, _, err := one.decodeTrailer(b, 200+entrySize); err == nil && n*entrySize > 200+entrySize {
			t.Errorf("trailer with %d lines", n)
		}
		if len(b) >= entrySize {
			l := decodeLine(b)
			if again := decodeLine(one.encodeFooter([]line{l}, 64)); again != l {
				t.Errorf("line %+v becomes %+v", l, again)
			}
		}
		if h, err := decodeLeaseHeader(b); err == nil && !bytes.Equal(h.encode()[:32], b[:32]) {
			t.Errorf("lease log header %x decodes to %+v", b, h)
		}
		if l := new(leased); l.decode(b) == nil && len(l.tags)*8 > len(b) {
			t.Errorf("%d leases in %d bytes", len(l.tags), len(b))
		}
	})
}
