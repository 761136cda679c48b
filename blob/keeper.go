package blob

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/sarsen-build/sarsen/digest"
)

// A Keeper holds blobs beyond any lease: a backup, a snapshot, a pinned result. What a root names can be
// read for as long as the root stands, over restarts.
//
// It knows nothing of formats: the caller walks its own, and hands over everything that is reachable.
type Keeper interface {
	// Keep holds blobs under name until Release. It replaces, whole, what name held before. When it
	// returns nil, the root and all that it holds are as durable as a record that was put. When it returns
	// an error, what name held before still stands, though a restart may find the new root. It returns a
	// *MissingError if blobs are absent, ErrFull if kept blobs would take too much of the store, ErrTooLarge
	// for a long value, and ErrInvalid for a name that is none or a digest without a size.
	Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error

	// KeepIf is Keep on the condition that name holds what was says, or nothing if was is nil. Otherwise it changes
	// nothing and returns ErrChanged. Of several who change a root that they have read, on whichever server, one
	// succeeds, and the others read it again: see WhileChanged.
	KeepIf(ctx context.Context, name string, was *Root, value []byte, blobs digest.Set) error

	// Release lets go of what name holds, durably. A name that holds nothing is no error.
	Release(ctx context.Context, name string) error

	// ReleaseIf is Release on the condition that name holds what was says. Otherwise it returns ErrChanged.
	ReleaseIf(ctx context.Context, was Root) error

	// Kept yields the roots whose names begin with prefix, in the order of their names. What is kept or
	// released meanwhile may be among them or not. It ends with the first error.
	Kept(ctx context.Context, prefix string) iter.Seq2[Root, error]
}

// The bounds of a root, so that it fits where records do.
const (
	MaxRootName  = 1 << 10  // bytes
	MaxRootValue = 64 << 10 // bytes
	// maxInline is how many digests stand in the root itself. More are a blob of their own.
	maxInline = 200
)

// A Root is what a Keeper holds under a name.
type Root struct {
	Name  string
	Value []byte // the caller's own, as it was given to Keep
	Count int64  // how many blobs it holds
	Bytes int64  // what they take together
	// List names the blob that lists what is held, which is then held too. It is zero where Few has all.
	List digest.Digest
	Few  []digest.Digest
}

// KeptRoot returns the root of that name, or ErrNotFound.
func KeptRoot(ctx context.Context, k Keeper, name string) (Root, error) {
	for r, err := range k.Kept(ctx, name) {
		if err != nil {
			return Root{}, err
		}
		if r.Name == name { // else it only begins so
			return r, nil
		}
		break
	}
	return Root{}, fmt.Errorf("%w: nothing is kept as %q", ErrNotFound, name)
}

// WhileChanged calls change, which reads a root and replaces it by KeepIf or ReleaseIf, until nobody else did in between.
func WhileChanged(ctx context.Context, change func() error) error {
	for {
		if err := change(); !errors.Is(err, ErrChanged) || ctx.Err() != nil {
			return err
		}
	}
}

// Is reports whether r is what other is, or, if other is nil, whether there is none. A Keeper compares by it.
func (r *Root) Is(other *Root) bool {
	if r == nil || other == nil {
		return r == other
	}
	return bytes.Equal(r.Encode(), other.Encode())
}

// Blobs returns what the root holds, in the order of function and hash. A long list is read from s.
func (r Root) Blobs(ctx context.Context, s Opener) (digest.Set, error) {
	if r.List == (digest.Digest{}) {
		return digest.SetOf(r.Few...), nil
	}
	b, err := Get(ctx, s, r.List)
	if err != nil {
		return digest.Set{}, fmt.Errorf("the list of what %q holds: %w", r.Name, err)
	}
	ds, err := decodeList(b)
	return digest.SetOf(ds...), err
}

// NewRoot makes a root for a Keeper to hold. If list is not nil, it is the blob that r.List names, to be
// stored first. Equal sets have equal lists. The blob of no bytes is in none: every store has it.
func NewRoot(name string, value []byte, blobs digest.Set) (r Root, list []byte, err error) {
	if name == "" || len(name) > MaxRootName {
		return r, nil, fmt.Errorf("%w: a root's name has 1 to %d bytes, not %d", ErrInvalid, MaxRootName, len(name))
	}
	if len(value) > MaxRootValue {
		return r, nil, fmt.Errorf("%w: a root's value has at most %d bytes, not %d", ErrTooLarge, MaxRootValue, len(value))
	}
	r = Root{Name: name, Value: slices.Clone(value)}
	ds := make([]digest.Digest, 0, blobs.Len())
	for _, d := range blobs.List() {
		if d.IsEmpty() {
			continue
		}
		if d.Size < 0 || !d.Function.Valid() {
			return r, nil, fmt.Errorf("%w: a blob that is kept needs a size and a known digest function", ErrInvalid)
		}
		ds = append(ds, d)
		r.Bytes += d.Size
	}
	slices.SortFunc(ds, compare)
	r.Count = int64(len(ds))
	if len(ds) <= maxInline {
		r.Few = ds
		return r, nil, nil
	}
	list = appendList(nil, ds)
	r.List = digest.SHA256.Of(list)
	return r, list, nil
}

func compare(a, b digest.Digest) int {
	if a.Function != b.Function {
		return int(a.Function) - int(b.Function)
	}
	if c := slices.Compare(a.Hash[:], b.Hash[:]); c != 0 {
		return c
	}
	return int(min(1, max(-1, a.Size-b.Size)))
}

// listed is how many bytes a digest has in a list: function, size, hash.
const listed = 1 + 8 + 32

func appendList(b []byte, ds []digest.Digest) []byte {
	b = slices.Grow(b, listed*len(ds))
	for _, d := range ds {
		b = append(b, byte(d.Function))
		b = binary.LittleEndian.AppendUint64(b, uint64(d.Size))
		b = append(b, d.Hash[:]...)
	}
	return b
}

func decodeList(b []byte) ([]digest.Digest, error) {
	if len(b)%listed != 0 {
		return nil, fmt.Errorf("%w: a list of %d bytes", ErrCorrupt, len(b))
	}
	ds := make([]digest.Digest, len(b)/listed)
	for i := range ds {
		p := b[i*listed:]
		ds[i] = digest.Digest{Function: digest.Function(p[0]), Size: int64(binary.LittleEndian.Uint64(p[1:])), Hash: [32]byte(p[9:listed])}
		if !ds[i].Function.Valid() || ds[i].Size < 0 {
			return nil, fmt.Errorf("%w: entry %d of a list", ErrCorrupt, i)
		}
	}
	return ds, nil
}

// What follows a root's name in its encoding.
const (
	rootNone = 0 // it was released
	rootFew  = 1
	rootList = 2
)

// Encode returns the bytes that a Keeper stores for r. docs/format.md has them.
func (r Root) Encode() []byte {
	b := appendText(nil, r.Name)
	if r.List != (digest.Digest{}) {
		b = append(b, rootList)
	} else {
		b = append(b, rootFew)
	}
	b = binary.AppendUvarint(b, uint64(r.Count))
	b = binary.AppendUvarint(b, uint64(r.Bytes))
	b = appendText(b, string(r.Value))
	if r.List != (digest.Digest{}) {
		return appendList(b, []digest.Digest{r.List})
	}
	return appendList(b, r.Few)
}

// EncodeReleased returns the bytes that say that name holds nothing any more.
func EncodeReleased(name string) []byte { return append(appendText(nil, name), rootNone) }

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// DecodeRoot reads what Encode or EncodeReleased wrote. Of a root that was released, only the name is set.
func DecodeRoot(b []byte) (r Root, released bool, err error) {
	d := decoder{b: b}
	r.Name = string(d.text(MaxRootName))
	kind := d.byte()
	if kind == rootNone && d.err == nil && len(d.b) == 0 {
		return r, true, nil
	}
	r.Count, r.Bytes = int64(d.number()), int64(d.number())
	r.Value = d.text(MaxRootValue)
	var ds []digest.Digest
	if d.err == nil {
		ds, d.err = decodeList(d.b)
	}
	switch {
	case d.err != nil:
	case kind == rootList && len(ds) == 1 && r.Count > 0:
		r.List = ds[0]
	case kind == rootFew && int64(len(ds)) == r.Count:
		r.Few = ds
	default:
		d.err = errors.New("neither a list nor the name of one")
	}
	if d.err != nil {
		return Root{}, false, fmt.Errorf("%w: a root of %d bytes: %w", ErrCorrupt, len(b), d.err)
	}
	return r, false, nil
}

// A decoder reads the parts of a root. After the first error it reads nothing.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 || n > 1<<62 {
		d.b, d.err = nil, io.ErrUnexpectedEOF
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.err = io.ErrUnexpectedEOF
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) text(most uint64) []byte {
	n := d.number()
	if n > most || n > uint64(len(d.b)) {
		d.b, d.err = nil, io.ErrUnexpectedEOF
		return nil
	}
	text := d.b[:n:n]
	d.b = d.b[n:]
	return text
}
