package redis

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/s3/naming"
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

// lookupOf returns under what Redis has the entry of an object: what the names of all objects of its blob or record begin
// with.
func lookupOf(name string) (lookup string, ok bool) {
	o, ok := naming.Parse(name)
	if !ok || len(name) >= maxName || strings.Contains(name, "\n") {
		return "", false
	}
	return o.Of(), true
}

func blobLookup(d digest.Digest) string { return naming.OfBlob(d.Function, d.Hash) }

func recordLookup(key [32]byte) string { return naming.OfRecord(key) }

// isRecord reports whether a name, or a lookup, is a record's.
func isRecord(name string) bool { return strings.HasPrefix(name, naming.Records) }

// sizeOf returns the size that a blob's name says, or -1 of a record.
func sizeOf(name string) int64 {
	o, ok := naming.Parse(name)
	if !ok || o.Record {
		return -1
	}
	return o.Size
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
