package mapping

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// identity returns what the record of d begins with, and whose SHA-256 is its key. The size is no part of it, as it
// is none of the ledger's keys.
func identity(d digest.Digest) []byte {
	b := append([]byte(action.NoResult), "chunks\x00"...)
	b = append(b, byte(d.Function))
	return append(b, d.Hash[:]...)
}

func key(d digest.Digest) [32]byte { return sha256.Sum256(identity(d)) }

// put writes m as the mapping of d: after the identity, the function, the blob's size, and size and hash of each chunk.
func (x *Index) put(ctx context.Context, d digest.Digest, m Mapping) error {
	b := append(identity(d), byte(m.Function))
	b = binary.AppendUvarint(b, uint64(d.Size))
	for _, c := range m.Chunks {
		b = append(binary.AppendUvarint(b, uint64(c.Size)), c.Hash[:]...)
	}
	return x.records.Put(ctx, key(d), b)
}

// get reads what put wrote, or returns errUnknown.
func (x *Index) get(ctx context.Context, d digest.Digest) (Mapping, error) {
	rec, err := x.records.Get(ctx, key(d))
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrCorrupt) {
		return Mapping{}, errUnknown
	}
	if err != nil {
		return Mapping{}, err
	}
	m, size, err := decode(d.Function, identity(d), rec.Value)
	// A record that says nothing is made anew, and there is no blob of another size than the one that was asked for.
	if err != nil || size != d.Size {
		return Mapping{}, errUnknown
	}
	return m, nil
}

// decode reads a record whose key is that of id.
func decode(f digest.Function, id, value []byte) (m Mapping, size int64, err error) {
	corrupt := fmt.Errorf("%w: a record of %d bytes is no mapping of its blob", blob.ErrCorrupt, len(value))
	rest, ok := bytes.CutPrefix(value, id)
	if !ok || len(rest) == 0 {
		return m, 0, corrupt
	}
	m.Function = Function(rest[0])
	total, n := binary.Uvarint(rest[1:])
	if n <= 0 || total > 1<<62 {
		return m, 0, corrupt
	}
	left := total
	for rest = rest[1+n:]; len(rest) > 0; {
		c := digest.Digest{Function: f}
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > left || len(rest) < n+len(c.Hash) {
			return m, 0, corrupt
		}
		left -= size
		c.Size, c.Hash = int64(size), [32]byte(rest[n:])
		m.Chunks, rest = append(m.Chunks, c), rest[n+len(c.Hash):]
	}
	if left != 0 {
		return m, 0, corrupt
	}
	return m, int64(total), nil
}
