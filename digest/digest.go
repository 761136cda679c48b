// Package digest names blobs: a digest is a function, a hash and a size.
//
// A Digest is a plain value: it compares with == and serves as a map key. Two blobs with the same
// function and hash are taken to be the same blob; the size is a checked attribute, never part of
// the identity. That lets names without a size (HTTP) and names with one (gRPC) meet in one store.
//
// Concurrency: everything here is a value or a pure function.
package digest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// AnySize as the size of a Digest means that the asker does not know the size. Stores accept it
// where they read and refuse it where they write.
const AnySize = -1

// A Digest is the name of a blob.
type Digest struct {
	Function Function
	Hash     [32]byte
	Size     int64 // bytes; AnySize if the asker does not know
}

// A Key is what makes two digests name the same blob: the function and the hash.
type Key struct {
	Function Function
	Hash     [32]byte
}

// ErrSyntax is returned, wrapped with the reason, for text that is not a digest.
var ErrSyntax = errors.New("not a digest")

// Key returns d without its size.
func (d Digest) Key() Key { return Key{d.Function, d.Hash} }

// Hex returns the hash as 64 lower-case hexadecimal digits.
func (d Digest) Hex() string { return hex.EncodeToString(d.Hash[:]) }

// IsEmpty reports whether d names the blob of no bytes, which every store has without storing it.
func (d Digest) IsEmpty() bool { return d.Hash == d.Function.empty() && d.Size <= 0 }

// Fits reports whether a blob of size bytes is what d asks for.
func (d Digest) Fits(size int64) bool { return d.Size == AnySize || d.Size == size }

// String returns HASH/SIZE for SHA-256 and FUNCTION/HASH/SIZE for all others: the form that Parse
// reads and that Bazel's and buildbox's tools print.
func (d Digest) String() string {
	text := d.Hex()
	if d.Function != SHA256 {
		text = d.Function.String() + "/" + text
	}
	if d.Size == AnySize {
		return text
	}
	return text + "/" + strconv.FormatInt(d.Size, 10)
}

// Parse reads the form that String writes. The size may not be left out.
func Parse(text string) (Digest, error) {
	function := SHA256
	parts := strings.Split(text, "/")
	if len(parts) == 3 {
		var ok bool
		if function, ok = FunctionNamed(parts[0]); !ok {
			return Digest{}, fmt.Errorf("%w: %q: unknown digest function %q, known are %s", ErrSyntax, text, parts[0], functionNames)
		}
		parts = parts[1:]
	}
	if len(parts) != 2 {
		return Digest{}, fmt.Errorf("%w: %q: want HASH/SIZE or FUNCTION/HASH/SIZE", ErrSyntax, text)
	}
	size, err := parseSize(parts[1])
	if err != nil {
		return Digest{}, fmt.Errorf("%w: %q: %v", ErrSyntax, text, err)
	}
	d, err := New(function, parts[0], size)
	if err != nil {
		return Digest{}, fmt.Errorf("%w (in %q)", err, text)
	}
	return d, nil
}

// New makes a Digest of a hash in hexadecimal and a size in bytes (or AnySize).
func New(function Function, hexHash string, size int64) (Digest, error) {
	d := Digest{Function: function, Size: size}
	if !function.Valid() {
		return Digest{}, fmt.Errorf("%w: digest function %d is not supported, known are %s", ErrSyntax, function, functionNames)
	}
	if size < AnySize {
		return Digest{}, fmt.Errorf("%w: size %d is negative", ErrSyntax, size)
	}
	if !decodeHex(&d.Hash, hexHash) {
		return Digest{}, fmt.Errorf("%w: hash %q must be 64 lower-case hexadecimal digits", ErrSyntax, clip(hexHash))
	}
	if (d.Hash == function.empty()) != (size == 0) && size != AnySize {
		return Digest{}, fmt.Errorf("%w: size %d can't be that of hash %s", ErrSyntax, size, hexHash)
	}
	return d, nil
}

func parseSize(text string) (int64, error) {
	// ParseInt also takes signs, which would give one digest several names.
	if text == "" || text[0] < '0' || text[0] > '9' {
		return 0, fmt.Errorf("size %q is not a number of bytes", clip(text))
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q is not a number of bytes", clip(text))
	}
	return size, nil
}

// decodeHex is strict about case: REAPI says lower case, and two spellings of one name would be two
// resources to every proxy on the way. A regular expression here cost bazel-remote half its CPU in
// FindMissingBlobs.
func decodeHex(dst *[32]byte, text string) bool {
	if len(text) != 2*len(dst) {
		return false
	}
	for i := range dst {
		hi, lo := nibbles[text[2*i]], nibbles[text[2*i+1]]
		if hi|lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

var nibbles = func() (table [256]byte) {
	for i := range table {
		table[i] = 0xff
	}
	for i, c := range []byte("0123456789abcdef") {
		table[c] = byte(i)
	}
	return table
}()

func clip(text string) string {
	if len(text) > 100 {
		return text[:100] + "…"
	}
	return text
}
