package digest

import (
	"crypto/sha256"
	"hash"

	"github.com/zeebo/blake3"
)

// A Function is a digest function, numbered as in REAPI's DigestFunction.Value.
type Function uint8

// The functions that Sarsen serves.
const (
	SHA256 Function = 1
	BLAKE3 Function = 9
)

// Functions lists what is served, in the order in which it is advertised.
var Functions = []Function{SHA256, BLAKE3}

const functionNames = "sha256, blake3"

var (
	emptySHA256 = sha256.Sum256(nil)
	emptyBLAKE3 = blake3.Sum256(nil)
)

// Valid reports whether f is served.
func (f Function) Valid() bool { return f == SHA256 || f == BLAKE3 }

// String returns the lower-case name that resource names carry.
func (f Function) String() string {
	switch f {
	case SHA256:
		return "sha256"
	case BLAKE3:
		return "blake3"
	}
	return "unknown"
}

// FunctionNamed returns the function of a lower-case name.
func FunctionNamed(name string) (Function, bool) {
	for _, f := range Functions {
		if f.String() == name {
			return f, true
		}
	}
	return 0, false
}

// NewHash returns a running hash whose Sum is 32 bytes.
func (f Function) NewHash() hash.Hash {
	if f == BLAKE3 {
		return blake3.New()
	}
	return sha256.New()
}

// Of returns the digest of data.
func (f Function) Of(data []byte) Digest {
	d := Digest{Function: f, Size: int64(len(data))}
	if f == BLAKE3 {
		d.Hash = blake3.Sum256(data)
	} else {
		d.Hash = sha256.Sum256(data)
	}
	return d
}

// Empty returns the digest of no bytes.
func (f Function) Empty() Digest { return Digest{Function: f, Hash: f.empty()} }

func (f Function) empty() [32]byte {
	if f == BLAKE3 {
		return emptyBLAKE3
	}
	return emptySHA256
}
