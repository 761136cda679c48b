// Package naming says how objects in a bucket are called that hold blobs and records: s3 writes and reads them, and redis
// names them to other servers.
//
// A name says which blob or record an object holds, which session wrote it, and a number of that session. It is never used
// again. docs/adr/0005-one-bucket-many-servers.md says why.
package naming

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/sarsen-build/sarsen/digest"
)

// What names begin with.
const (
	Blobs   = "c/" // c/<2 hex>/<function>-<hash>-<size>.<session>-<n>
	Records = "a/" // a/<2 hex>/<record key>.<n>-<session>
)

// Digits is how many hexadecimal digits n has, which makes 44 bits.
const Digits = 11

// An Object is what a name says. Of a record, Function and Size are zero.
type Object struct {
	Record   bool
	Function digest.Function
	Hash     [32]byte // or the record's key
	Size     int64
	Session  string
	N        uint64 // of a record the object with the greatest stands
}

// String returns the object's name.
func (o Object) String() string {
	if o.Record {
		return fmt.Sprintf("%s.%0*x-%s", o.Of(), Digits, o.N, o.Session)
	}
	return fmt.Sprintf("%s-%d.%s-%0*x", o.Of(), o.Size, o.Session, Digits, o.N)
}

// Of returns what the names of all objects of the same blob or record begin with.
func (o Object) Of() string {
	if o.Record {
		return OfRecord(o.Hash)
	}
	return OfBlob(o.Function, o.Hash)
}

// OfBlob returns what the names of all objects of a blob begin with.
func OfBlob(f digest.Function, hash [32]byte) string {
	h := hex.EncodeToString(hash[:])
	return Blobs + h[:2] + "/" + f.String() + "-" + h
}

// OfRecord returns what the names of all objects of a record begin with.
func OfRecord(key [32]byte) string {
	h := hex.EncodeToString(key[:])
	return Records + h[:2] + "/" + h
}

// IsBlob reports whether OfBlob returned s.
func IsBlob(s string) bool {
	rest, ok := strings.CutPrefix(s, Blobs)
	if !ok || len(rest) < 3 {
		return false
	}
	function, text, _ := strings.Cut(rest[3:], "-")
	f, ok := digest.FunctionNamed(function)
	var hash [32]byte
	return ok && unhex(hash[:], text) && OfBlob(f, hash) == s
}

// Parse reads what String wrote, and nothing else.
func Parse(name string) (o Object, ok bool) {
	what, which, ok := strings.Cut(name, ".")
	if !ok {
		return o, false
	}
	first, second, ok := strings.Cut(which, "-")
	if !ok {
		return o, false
	}
	if rest, found := strings.CutPrefix(what, Records); found {
		o.Record, o.Session, which = true, second, first
		if len(rest) != 3+64 || !unhex(o.Hash[:], rest[3:]) {
			return o, false
		}
	} else {
		o.Session, which = first, second
		if rest, ok = strings.CutPrefix(what, Blobs); !ok || len(rest) < 3 {
			return o, false
		}
		parts := strings.Split(rest[3:], "-")
		if len(parts) != 3 {
			return o, false
		}
		var known bool
		o.Function, known = digest.FunctionNamed(parts[0])
		size, err := strconv.ParseInt(parts[2], 10, 64)
		if !known || err != nil || size <= 0 || !unhex(o.Hash[:], parts[1]) {
			return o, false
		}
		o.Size = size
	}
	n, err := strconv.ParseUint(which, 16, 64)
	o.N = n
	return o, err == nil && n > 0 && n < 1<<(4*Digits) && o.String() == name
}

func unhex(dst []byte, text string) bool {
	n, err := hex.Decode(dst, []byte(text[:min(len(text), 2*len(dst))]))
	return err == nil && n == len(dst) && len(text) == 2*n
}
