package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBlobLayout has bytes that were put together by hand: 352441c2 is the CRC-32 of "abc".
func TestBlobLayout(t *testing.T) {
	raw := unhex(t, "42ab3807be8370a1 c2412435 616263")
	if got := EncodeBlob([]byte("abc")); !bytes.Equal(got, raw) {
		t.Errorf("EncodeBlob = %x, want %x", got, raw)
	}
	sealed := unhex(t, "7b6785be222d4cf0 c2412435"+strings.Repeat("11", 16)+strings.Repeat("22", 16)+"616263")
	d, err := ParseBlob(sealed)
	if err != nil || !d.Encrypted || d.Compressed || d.IV[0] != 0x11 || d.Tag[15] != 0x22 || string(d.Data) != "abc" {
		t.Errorf("ParseBlob = %+v, %v", d, err)
	}
	if got := d.Append(nil); !bytes.Equal(got, sealed) {
		t.Errorf("Append = %x, want %x", got, sealed)
	}
	if _, err := d.Plain(100); err == nil {
		t.Error("the plain data of an encrypted blob: got no error")
	}
}

func TestBlobs(t *testing.T) {
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, data := range map[string][]byte{"nothing": {}, "text": []byte(strings.Repeat("text ", 1000)), "noise": noise, "a whole chunk": make([]byte, MaxChunk)} {
		b := EncodeBlob(data)
		if len(b) > len(data)+HeaderSize {
			t.Errorf("%s: %d bytes of %d", name, len(b), len(data))
		}
		d, err := ParseBlob(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := d.Plain(len(data))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if len(data) > 0 {
			if _, err := d.Plain(len(data) - 1); !errors.Is(err, ErrFormat) {
				t.Errorf("%s, one byte too long: %v", name, err)
			}
			b[len(b)-1] ^= 1
			if _, err := ParseBlob(b); !errors.Is(err, ErrFormat) {
				t.Errorf("%s, damaged: %v", name, err)
			}
		}
	}
}

func indexes() (all []*Index) {
	for _, n := range []int{0, 1, 3, 200} {
		fixed := &Index{Fixed: true, UUID: [16]byte{1, 2}, Created: 1700000000, ChunkSize: FixedChunk, Size: uint64(max(0, n*FixedChunk-5))}
		dynamic := &Index{UUID: [16]byte{3}, Created: 5, Ends: make([]uint64, n)}
		fixed.Digests, dynamic.Digests = make([][32]byte, n), make([][32]byte, n)
		for i := range n {
			fixed.Digests[i] = [32]byte{byte(i), 1}
			dynamic.Size += uint64(i + 1)
			dynamic.Ends[i], dynamic.Digests[i] = dynamic.Size, [32]byte{byte(i), 2}
		}
		all = append(all, fixed, dynamic)
	}
	return all
}

func TestIndexes(t *testing.T) {
	for _, x := range indexes() {
		b := x.Encode()
		got, err := ParseIndex(b)
		if err != nil || !reflect.DeepEqual(got, x) {
			t.Errorf("%d chunks, fixed %t: %+v, %v", len(x.Digests), x.Fixed, got, err)
		}
		var end uint64
		for i := range x.Digests {
			begin, to := x.Bounds(i)
			if begin != end || to <= begin {
				t.Errorf("chunk %d is from %d to %d, after %d", i, begin, to, end)
			}
			end = to
		}
		if end != x.Size {
			t.Errorf("the chunks end at %d, and the archive at %d", end, x.Size)
		}
		if len(x.Digests) > 0 {
			b[len(b)-1] ^= 1
			if _, err := ParseIndex(b); !errors.Is(err, ErrFormat) {
				t.Errorf("a damaged index: %v", err)
			}
			if _, err := ParseIndex(b[:len(b)-1]); !errors.Is(err, ErrFormat) {
				t.Errorf("a cut index: %v", err)
			}
		}
	}
}

// TestIndexLayout: the places that Proxmox documents.
func TestIndexLayout(t *testing.T) {
	x := &Index{Fixed: true, UUID: [16]byte{0xaa}, Created: 1, Size: 5, ChunkSize: 4 << 20, Digests: [][32]byte{{7}}}
	b := x.Encode()
	csum := x.Csum()
	for at, want := range map[int][]byte{
		0: unhex(t, "2f7f41ed91fd0fcd"), 8: {0xaa, 0}, 24: {1, 0, 0, 0, 0, 0, 0, 0}, 32: csum[:], 64: {5, 0, 0, 0, 0, 0, 0, 0}, 72: {0, 0, 0x40, 0}, 80: {0}, 4096: {7, 0},
	} {
		if got := b[at : at+len(want)]; !bytes.Equal(got, want) {
			t.Errorf("at %d: %x, want %x", at, got, want)
		}
	}
	d := (&Index{Ends: []uint64{9}, Digests: [][32]byte{{8}}}).Encode()
	if got, want := d[4096:4105], []byte{9, 0, 0, 0, 0, 0, 0, 0, 8}; len(d) != 4096+40 || !bytes.Equal(got, want) || !bytes.Equal(d[:8], unhex(t, "1c914ea519bab3cd")) {
		t.Errorf("a dynamic index is %x ... %x, want %x", d[:8], got, want)
	}
}

// TestManifest: what is set changes, and nothing that a client signed.
func TestManifest(t *testing.T) {
	text := `{"backup-id":"box","backup-time":1700000000,"backup-type":"host","big":12345678901234567890,
		"files":[{"crypt-mode":"encrypt","csum":"00","filename":"a.didx","size":5}],"signature":"abc","unprotected":{"key-fingerprint":"AA` + strings.Repeat(":bB", 31) + `","notes":"old"}}`
	m, err := ParseManifest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := m.File("a.didx"); !ok || f.Size != 5 || f.CryptMode != "encrypt" || m.BackupID != "box" || m.Fingerprint() != "aa"+strings.Repeat(":bb", 31) {
		t.Errorf("parsed %+v", m)
	}
	if err := m.Set("notes", "new"); err != nil {
		t.Fatal(err)
	}
	if err := m.Set("key-fingerprint", nil); err != nil {
		t.Fatal(err)
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	var notes string
	if !again.Get("notes", &notes) || notes != "new" || again.Get("key-fingerprint", &notes) || again.Signature != "abc" {
		t.Errorf("after a change: %s", b)
	}
	if !bytes.Contains(b, []byte("12345678901234567890")) {
		t.Errorf("a number was changed: %s", b)
	}
	for _, bad := range []string{"", "null", "[]", `{"files":5}`, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), `{"unprotected":5}`} {
		if _, err := ParseManifest([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestChunkList(t *testing.T) {
	var chunks []Chunk
	for i := range 300 {
		chunks = append(chunks, Chunk{Digest: [32]byte{byte(i * 7), byte(i >> 8)}, Size: uint32(i), Encrypted: i%3 == 0, Blob: [32]byte{byte(i)}, Stored: uint32(i + 12)})
	}
	l, err := ParseChunks(EncodeChunks(chunks))
	if err != nil || l.Len() != 300 {
		t.Fatalf("%d chunks, %v", l.Len(), err)
	}
	for i, c := range chunks {
		if got, ok := l.Find(c.Digest); !ok || got != c || l.At(i) != c {
			t.Errorf("Find = %+v, %t, want %+v", got, ok, c)
		}
	}
	if _, ok := l.Find([32]byte{31: 9}); ok {
		t.Error("a chunk that is not there was found")
	}
	twice := EncodeChunks([]Chunk{{}, {}})
	if _, err := ParseChunks(twice); !errors.Is(err, ErrFormat) {
		t.Errorf("a chunk twice: %v", err)
	}
}

func FuzzParseBlob(f *testing.F) {
	f.Add(EncodeBlob([]byte("abc")))
	f.Add(EncodeBlob(make([]byte, 1000)))
	f.Add(DataBlob{Encrypted: true, Compressed: true, Data: []byte("x")}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseBlob(b)
		if err != nil {
			return
		}
		if got := d.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%x is written again as %x", b, got)
		}
		if plain, err := d.Plain(1 << 20); err == nil && len(plain) > 1<<20 {
			t.Errorf("%d bytes came out", len(plain))
		}
	})
}

func FuzzDecompress(f *testing.F) {
	f.Add(Compress(make([]byte, 100000)))
	f.Add(Compress(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, limit := range []int{0, 100, 1 << 20} {
			if plain, err := Decompress(b, limit); err == nil && len(plain) > limit {
				t.Errorf("%d bytes came out, the limit is %d", len(plain), limit)
			}
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	for _, x := range indexes() {
		f.Add(x.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 { // else hardly any gets past its checksum
			b = bytes.Clone(b)
			sum := sha256.Sum256(b[4096:])
			copy(b[32:], sum[:])
		}
		x, err := ParseIndex(b)
		if err != nil {
			return
		}
		again, err := ParseIndex(x.Encode())
		if err != nil || !reflect.DeepEqual(again, x) {
			t.Errorf("an index that was read is written as another: %v", err)
		}
		if x.Csum() != again.Csum() {
			t.Error("and has another checksum")
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"backup-id":"a","files":[{"filename":"a","size":1}],"unprotected":{"notes":"x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		if err := m.Set("notes", "x"); err != nil {
			t.Fatal(err)
		}
		out, err := m.Encode()
		if err != nil || !json.Valid(out) {
			t.Fatalf("%q: %q, %v", b, out, err)
		}
		if _, err := ParseManifest(out); err != nil {
			t.Errorf("%q is written as %q, which can't be read: %v", b, out, err)
		}
	})
}

func FuzzParseChunks(f *testing.F) {
	f.Add(EncodeChunks([]Chunk{{Size: 1}, {Digest: [32]byte{1}, Encrypted: true}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseChunks(b)
		if err != nil {
			return
		}
		all := make([]Chunk, l.Len())
		for i := range all {
			all[i] = l.At(i)
		}
		if got := EncodeChunks(all); !bytes.Equal(got, b) {
			t.Errorf("%x is written again as %x", b, got)
		}
	})
}
