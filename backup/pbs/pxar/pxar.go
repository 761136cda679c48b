// Package pxar reads archives of Proxmox Backup's file format: trees of files with their owners, times and modes.
//
// The layout is documented with the format: items of a type, a size and contents, one after the other; at the end of
// each directory a table says where its entries begin.
//
// # Invariants
//
//   - Whatever bytes come in, nothing here panics, reads for ever, or takes more memory than its limits say.
//   - No name that is yielded leads out of the tree.
//
// # Concurrency
//
// An Archive belongs to one goroutine at a time.
package pxar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"time"
)

// ErrFormat is returned, wrapped with the reason, for bytes that are no archive; ErrNotFound for a path that is not in it;
// and ErrSplit for an archive whose contents lie in another one.
var (
	ErrFormat   = errors.New("not a pxar archive")
	ErrNotFound = errors.New("not in the archive")
	ErrSplit    = errors.New("the contents of the archive lie in another one")
)

// The types of items.
const (
	TypeEntry    = 0xd5956474e588acef
	TypeFilename = 0x16701121063917b3
	TypeSymlink  = 0x27f971e7dbf5dc5f
	TypeDevice   = 0x9fc9e906586d5ce9
	TypeHardlink = 0x51269c8422bd7275
	TypePayload  = 0x28147a1b0b7c1a25
	TypeGoodbye  = 0x2fec4fa642d5731d
	TypeVersion  = 0x730f6c75df16a40d // of an archive whose payloads may lie elsewhere
	typeEntryOld = 0x11da850a1c1cceff
	// TailMarker is what the last row of a directory's table has in place of a hash.
	TailMarker = 0xef5eed5b753e1555
)

const (
	itemHeader   = 16
	entrySize    = 40
	goodbyeEntry = 24
	maxText      = 4096 // of a name, or of where a link leads
	maxDepth     = 256
	maxTable     = 64 << 20
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// An Archive is one that is read.
type Archive struct {
	r    io.ReaderAt
	size int64
}

// An Entry is a file, directory or anything else in an archive.
type Entry struct {
	Name  string
	Mode  uint32 // as Unix has it, with the type
	UID   int
	GID   int
	Mtime time.Time
	Link  string // where a symbolic link leads
	Major uint64 // of a device
	Minor uint64
	Size  int64 // of a file

	hard  int64 // where the entry begins that this is another name of, or 0
	start int64 // of the entry
	data  int64 // of a file's contents, or of a directory's first entry
	end   int64 // of the entry; of a directory this is known if a table named it, else 0
}

// The types of files, in Mode.
const (
	ModeType    = 0o170000
	ModeDir     = 0o040000
	ModeFile    = 0o100000
	ModeSymlink = 0o120000
	ModeBlock   = 0o060000
	ModeChar    = 0o020000
	ModePipe    = 0o010000
)

// Is reports whether e is of a type.
func (e *Entry) Is(mode uint32) bool { return e.hard == 0 && e.Mode&ModeType == mode }

// Open reads an archive of size bytes and returns its top directory.
func Open(r io.ReaderAt, size int64) (*Archive, *Entry, error) {
	a := &Archive{r, size}
	kind, _, err := a.header(0)
	if err != nil {
		return nil, nil, err
	}
	if kind == TypeVersion {
		return nil, nil, ErrSplit
	}
	root := &Entry{Name: "/", end: size}
	if err := a.attributes(root, 0); err != nil {
		return nil, nil, err
	}
	if !root.Is(ModeDir) {
		return nil, nil, bad("it begins with no directory")
	}
	return a, root, nil
}

func (a *Archive) header(at int64) (kind uint64, contents int64, err error) {
	b, err := a.read(at, itemHeader)
	if err != nil {
		return 0, 0, err
	}
	kind, size := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	if size < itemHeader || size > uint64(a.size-at) {
		return 0, 0, bad("an item of %d bytes at %d of %d", size, at, a.size)
	}
	return kind, int64(size) - itemHeader, nil
}

func (a *Archive) read(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > a.size-n {
		return nil, bad("it ends before %d", at+n)
	}
	b := make([]byte, n)
	if got, err := a.r.ReadAt(b, at); got < len(b) {
		return nil, err
	}
	return b, nil
}

// text reads a text that ends with a zero byte.
func (a *Archive) text(at, n int64) (string, error) {
	if n < 2 || n > maxText {
		return "", bad("a name of %d bytes", n)
	}
	b, err := a.read(at, n)
	if err != nil {
		return "", err
	}
	if bytes.IndexByte(b, 0) != len(b)-1 {
		return "", bad("a name with a zero byte")
	}
	return string(b[:n-1]), nil
}

// entry reads what begins with a name.
func (a *Archive) entry(at int64) (*Entry, error) {
	kind, n, err := a.header(at)
	if err != nil {
		return nil, err
	}
	if kind != TypeFilename {
		return nil, bad("there is no entry at %d", at)
	}
	e := &Entry{start: at}
	if e.Name, err = a.text(at+itemHeader, n); err != nil {
		return nil, err
	}
	if e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "/") {
		return nil, bad("an entry called %q", e.Name)
	}
	return e, a.attributes(e, at+itemHeader+n)
}

// attributes reads what follows a name.
func (a *Archive) attributes(e *Entry, at int64) error {
	kind, n, err := a.header(at)
	if err != nil {
		return err
	}
	if kind == TypeHardlink {
		b, err := a.read(at+itemHeader, min(n, 8))
		if err != nil || len(b) < 8 {
			return bad("a hard link that leads nowhere")
		}
		back := binary.LittleEndian.Uint64(b)
		if back == 0 || back > uint64(e.start) {
			return bad("a hard link that leads to what comes later")
		}
		e.hard, e.end = e.start-int64(back), at+itemHeader+n
		return nil
	}
	if kind != TypeEntry && kind != typeEntryOld || n < entrySize-8 || kind == TypeEntry && n < entrySize {
		return bad("an item %x of %d bytes, want an entry's", kind, n)
	}
	b, err := a.read(at+itemHeader, n)
	if err != nil {
		return err
	}
	e.Mode = uint32(binary.LittleEndian.Uint64(b))
	e.UID, e.GID = int(binary.LittleEndian.Uint32(b[16:])), int(binary.LittleEndian.Uint32(b[20:]))
	when := binary.LittleEndian.Uint64(b[24:])
	if kind == TypeEntry {
		e.Mtime = time.Unix(int64(when), int64(binary.LittleEndian.Uint32(b[32:])))
	} else {
		e.Mtime = time.Unix(0, int64(when))
	}
	return a.contents(e, at+itemHeader+n)
}

// contents reads what follows an entry's stat: attributes that are passed over, and what it is.
func (a *Archive) contents(e *Entry, at int64) error {
	for at < a.size {
		kind, n, err := a.header(at)
		if err != nil {
			return err
		}
		switch kind {
		case TypeSymlink:
			e.end = at + itemHeader + n
			e.Link, err = a.text(at+itemHeader, n)
			return err
		case TypeDevice:
			b, err := a.read(at+itemHeader, min(n, 16))
			if err != nil || len(b) < 16 {
				return bad("a device without numbers")
			}
			e.Major, e.Minor, e.end = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), at+itemHeader+n
			return nil
		case TypePayload:
			e.data, e.Size, e.end = at+itemHeader, n, at+itemHeader+n
			return nil
		case TypeFilename, TypeGoodbye:
			if e.Is(ModeDir) {
				e.data = at
			} else {
				e.end = at // a pipe or a socket has nothing more
			}
			return nil
		}
		at += itemHeader + n
	}
	return bad("an entry that does not end")
}

// Contents returns a file's bytes.
func (a *Archive) Contents(e *Entry) io.Reader { return io.NewSectionReader(a.r, e.data, e.Size) }

// Follow returns the entry that a hard link is another name of, under its own name; any other one as it is.
func (a *Archive) Follow(e *Entry) (*Entry, error) {
	if e.hard == 0 {
		return e, nil
	}
	to, err := a.entry(e.hard)
	if err != nil {
		return nil, err
	}
	if !to.Is(ModeFile) {
		return nil, bad("a hard link to what is no file")
	}
	to.Name = e.Name
	return to, nil
}

// Walk yields a directory's entries, whatever is below them too, each with the path from there. A directory comes before
// what is in it. What is yielded may be kept.
func (a *Archive) Walk(dir *Entry, fn func(path string, e *Entry) error) error {
	_, err := a.walk(dir, "", 0, fn)
	return err
}

// walk returns where the directory ends.
func (a *Archive) walk(dir *Entry, path string, depth int, fn func(string, *Entry) error) (end int64, err error) {
	if depth > maxDepth {
		return 0, bad("directories nest deeper than %d", maxDepth)
	}
	for at := dir.data; ; {
		kind, n, err := a.header(at)
		if err != nil {
			return 0, err
		}
		if kind == TypeGoodbye {
			return at + itemHeader + n, nil
		}
		e, err := a.entry(at)
		if err != nil {
			return 0, err
		}
		if err := fn(path+e.Name, e); err != nil {
			return 0, err
		}
		at = e.end
		if e.Is(ModeDir) {
			if at, err = a.walk(e, path+e.Name+"/", depth+1, fn); err != nil {
				return 0, err
			}
		}
	}
}

// Lookup returns what lies at a path below the top directory.
func (a *Archive) Lookup(root *Entry, path string) (*Entry, error) {
	at := root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if !at.Is(ModeDir) {
			return nil, fmt.Errorf("%w: %q", ErrNotFound, path)
		}
		next, err := a.child(at, name)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return nil, fmt.Errorf("%w: %q", ErrNotFound, path)
		}
		at = next
	}
	return at, nil
}

// child returns the entry of that name, or nil. The table at the directory's end says where it lies.
func (a *Archive) child(dir *Entry, name string) (*Entry, error) {
	tail, err := a.read(dir.end-goodbyeEntry, goodbyeEntry)
	if err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint64(tail[16:]))
	if binary.LittleEndian.Uint64(tail) != TailMarker || size < itemHeader+goodbyeEntry || size > maxTable || size > dir.end {
		return nil, bad("directory %q has no table at %d", dir.Name, dir.end)
	}
	begin := dir.end - size
	table, err := a.read(begin+itemHeader, size-itemHeader-goodbyeEntry)
	if err != nil {
		return nil, err
	}
	want := HashName(name)
	for ; len(table) >= goodbyeEntry; table = table[goodbyeEntry:] {
		if binary.LittleEndian.Uint64(table) != want {
			continue
		}
		at := begin - int64(binary.LittleEndian.Uint64(table[8:]))
		if at < dir.data || at >= begin {
			return nil, bad("directory %q has an entry at %d", dir.Name, at)
		}
		e, err := a.entry(at)
		if err != nil || e.Name != name {
			if err != nil {
				return nil, err
			}
			continue // another name of the same hash
		}
		if e.Is(ModeDir) {
			if e.end = at + int64(binary.LittleEndian.Uint64(table[16:])); e.end <= e.data || e.end > begin {
				return nil, bad("directory %q ends at %d", name, e.end)
			}
		}
		return e, nil
	}
	return nil, nil
}

// HashName is SipHash-2-4 of a name with the format's key.
func HashName(name string) uint64 {
	const k0, k1 = 0x83ac3f1cfbb450db, 0xaa4f1b6879369fbd
	v := [4]uint64{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	round := func() {
		v[0] += v[1]
		v[2] += v[3]
		v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
		v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
		v[0] = bits.RotateLeft64(v[0], 32)
		v[2] += v[1]
		v[0] += v[3]
		v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
		v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
		v[2] = bits.RotateLeft64(v[2], 32)
	}
	// The last word has what is left of the name, and its length in the highest byte.
	padded := append([]byte(name), make([]byte, 8-len(name)%8)...)
	padded[len(padded)-1] = byte(len(name))
	for ; len(padded) > 0; padded = padded[8:] {
		m := binary.LittleEndian.Uint64(padded)
		v[3] ^= m
		round()
		round()
		v[0] ^= m
	}
	v[2] ^= 0xff
	for range 4 {
		round()
	}
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}
