package redis

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// An entry says which object holds a blob or record. Redis has it under the object's lookup:
//
//	name "\n"                                             of a large object
//	name "\n" xxh3 of name and bytes, 8 bytes, big endian; bytes    of a small one
type entry struct {
	name   string
	object []byte // nil if it is large
}

// maxName is what the name of an object and its end have at most, in bytes.
const maxName = 255

// lookupOf returns what the names of all objects of a blob or a record begin with, without what ends it.
func lookupOf(name string) (lookup string, ok bool) {
	what, which, ok := strings.Cut(name, ".")
	if !ok || which == "" || len(name) >= maxName || strings.Contains(name, "\n") {
		return "", false
	}
	if strings.HasPrefix(name, "a/") {
		return what, isLookup(what)
	}
	i := strings.LastIndexByte(what, '-')
	return what[:max(i, 0)], isLookup(what[:max(i, 0)])
}

// isLookup reports whether a prefix is all of a blob's name or a record's that its objects share.
func isLookup(prefix string) bool {
	rest, blobs := strings.CutPrefix(prefix, "c/")
	if !blobs {
		var records bool
		if rest, records = strings.CutPrefix(prefix, "a/"); !records {
			return false
		}
	}
	return len(rest) >= 3+64 && rest[2] == '/' && (!blobs || strings.Count(rest, "-") == 1)
}

func blobLookup(d digest.Digest) string {
	return "c/" + d.Hex()[:2] + "/" + d.Function.String() + "-" + d.Hex()
}

func recordLookup(key [32]byte) string {
	h := hex.EncodeToString(key[:])
	return "a/" + h[:2] + "/" + h
}

// sizeOf returns the size that a blob's name says, or -1 of a record.
func sizeOf(name string) int64 {
	lookup, ok := lookupOf(name)
	if !ok || name[0] == 'a' {
		return -1
	}
	size, _, _ := strings.Cut(name[len(lookup)+1:], ".")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (e entry) encode() string {
	b := append([]byte(e.name), '\n')
	if e.object != nil {
		b = append(binary.BigEndian.AppendUint64(b, e.sum()), e.object...)
	}
	return string(b)
}

func (e entry) sum() uint64 {
	h := xxh3.New()
	_, _ = h.WriteString(e.name) // hashes never fail
	_, _ = h.Write(e.object)
	return h.Sum64()
}

func decodeEntry(lookup, value string, whole bool) (entry, error) {
	name, rest, ok := strings.Cut(value, "\n")
	if !ok {
		return entry{}, fmt.Errorf("%w: no name", blob.ErrCorrupt)
	}
	if of, ok := lookupOf(name); !ok || of != lookup {
		return entry{}, fmt.Errorf("%w: it names something else", blob.ErrCorrupt)
	}
	e := entry{name: strings.Clone(name)} // the rest may be large
	if !whole || rest == "" {
		return e, nil
	}
	if len(rest) <= 8 {
		return entry{}, fmt.Errorf("%w: it ends early", blob.ErrCorrupt)
	}
	e.object = []byte(rest[8:])
	if e.sum() != binary.BigEndian.Uint64([]byte(rest)) {
		return entry{}, fmt.Errorf("%w: its checksum differs", blob.ErrCorrupt)
	}
	return e, nil
}
