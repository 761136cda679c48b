package asset

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// append appends a as it is stored: when it was pushed, in nanoseconds since 1970; when it expires, in
// microseconds, which reach all years that a client may name, 0 for never; each digest as its hash and size,
// and lists with their lengths before them. The digest function is the name's.
func (a *Asset) append(b []byte) []byte {
	b = binary.AppendVarint(b, a.Pushed.UnixNano())
	expires := int64(0)
	if !a.Expires.IsZero() {
		expires = cmp.Or(a.Expires.UnixMicro(), -1) // 1970 itself is past, and not never
	}
	b = binary.AppendVarint(b, expires)
	for _, list := range [][]digest.Digest{{a.Digest}, a.References.Blobs, a.References.Directories} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, d := range list {
			b = binary.AppendUvarint(append(b, d.Hash[:]...), uint64(d.Size))
		}
	}
	return b
}

// parse reads what append wrote after id.
func parse(f digest.Function, id, value []byte) (Asset, error) {
	rest, ok := bytes.CutPrefix(value, id)
	if !ok {
		return Asset{}, fmt.Errorf("%w: its record belongs to another asset", blob.ErrCorrupt)
	}
	r := reader{rest: rest, function: f}
	a := Asset{Pushed: time.Unix(0, r.varint())}
	if expires := r.varint(); expires != 0 {
		a.Expires = time.UnixMicro(expires)
	}
	if own := r.digests(); len(own) == 1 {
		a.Digest = own[0]
	} else {
		r.bad = true
	}
	a.References.Function = f
	a.References.Blobs, a.References.Directories = r.digests(), r.digests()
	if r.bad || len(r.rest) > 0 {
		return Asset{}, fmt.Errorf("%w: its record of %d bytes is not an asset's", blob.ErrCorrupt, len(value))
	}
	return a, nil
}

// A reader reads the parts of a record. After one that is not there, bad is set.
type reader struct {
	rest     []byte
	function digest.Function
	bad      bool
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) skip(n int) {
	if n <= 0 || r.bad {
		r.bad, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) digests() []digest.Digest {
	var list []digest.Digest
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		d := digest.Digest{Function: r.function}
		if copy(d.Hash[:], r.rest) < len(d.Hash) {
			r.bad = true
			return nil
		}
		r.skip(len(d.Hash))
		d.Size = int64(r.uvarint())
		list = append(list, d)
	}
	return list
}
