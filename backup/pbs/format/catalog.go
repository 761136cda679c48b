package format

import (
	"encoding/binary"
	"io"
)

// CatalogName is what the catalog of a snapshot's archives is called.
const CatalogName = "catalog.pcat1.didx"

var magicCatalog = [8]byte{0x91, 0xfd, 0x60, 0xf9, 0xc4, 0x67, 0x58, 0xd5}

// maxDirectory bounds the bytes of one directory in a catalog, and maxName those of a name.
const (
	maxDirectory = 64 << 20
	maxName      = 4095
)

// A CatalogEntry is one name in a directory of a catalog.
type CatalogEntry struct {
	Name  []byte
	Type  byte   // d, f, l, h, b, c, p or s: directory, file, link, hard link, block and character device, pipe, socket
	Size  uint64 // of a file
	Mtime int64  // of a file, in seconds since 1970
	start int64  // of a directory
}

// A Catalog is the tree of names of a snapshot's archives.
type Catalog struct {
	r    io.ReaderAt
	size int64
}

// OpenCatalog reads a catalog of size bytes.
func OpenCatalog(r io.ReaderAt, size int64) (*Catalog, error) {
	var magic [8]byte
	if size < int64(len(magic))+8 {
		return nil, bad("a catalog of %d bytes", size)
	}
	if _, err := r.ReadAt(magic[:], 0); err != nil {
		return nil, err
	}
	if magic != magicCatalog {
		return nil, bad("no catalog begins with %x", magic)
	}
	return &Catalog{r, size}, nil
}

// Root returns the top directory, whose entries are the archives.
func (c *Catalog) Root() (CatalogEntry, error) {
	var b [8]byte
	if _, err := c.r.ReadAt(b[:], c.size-8); err != nil {
		return CatalogEntry{}, err
	}
	start := binary.LittleEndian.Uint64(b[:])
	if start > uint64(c.size) {
		return CatalogEntry{}, bad("the root of a catalog of %d bytes lies at %d", c.size, start)
	}
	return CatalogEntry{Type: 'd', start: int64(start)}, nil
}

// List returns the entries of a directory.
func (c *Catalog) List(dir CatalogEntry) ([]CatalogEntry, error) {
	if dir.Type != 'd' {
		return nil, bad("%q is no directory", dir.Name)
	}
	head := make([]byte, min(binary.MaxVarintLen64, c.size-dir.start))
	if _, err := c.r.ReadAt(head, dir.start); err != nil {
		return nil, err
	}
	size, n := binary.Uvarint(head)
	if n <= 0 || size > maxDirectory || int64(size) > c.size-dir.start-int64(n) {
		return nil, bad("a directory of %d bytes in a catalog of %d", size, c.size)
	}
	b := make([]byte, size)
	if _, err := c.r.ReadAt(b, dir.start+int64(n)); err != nil {
		return nil, err
	}
	p := &catalogParser{b: b}
	count := p.number()
	var all []CatalogEntry
	for ; count > 0 && !p.bad; count-- {
		all = append(all, p.entry(dir.start))
	}
	if p.bad || len(p.b) > 0 {
		return nil, bad("a directory of a catalog can't be read")
	}
	return all, nil
}

// A catalogParser takes what it reads from b.
type catalogParser struct {
	b   []byte
	bad bool
}

func (p *catalogParser) take(n uint64) []byte {
	if n > uint64(len(p.b)) {
		p.bad, p.b = true, nil
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

// number reads seven bits a byte, the lowest first; the last has the eighth bit clear.
func (p *catalogParser) number() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.bad, p.b = true, nil
		return 0
	}
	p.b = p.b[n:]
	return v
}

// signed reads a number that is negative if a byte of zero follows.
func (p *catalogParser) signed() int64 {
	var v uint64
	for i := 0; i < 11; i++ {
		t := p.take(1)
		switch {
		case t == nil:
			return 0
		case t[0] == 0 && i > 0:
			return -int64(v)
		case t[0] < 0x80:
			return int64(v | uint64(t[0])<<(7*i))
		}
		v |= uint64(t[0]&0x7f) << (7 * i)
	}
	p.bad, p.b = true, nil
	return 0
}

func (p *catalogParser) entry(dir int64) (e CatalogEntry) {
	if t := p.take(1); t != nil {
		e.Type = t[0]
	}
	n := p.number()
	if n == 0 || n > maxName {
		p.bad, p.b = true, nil
		return e
	}
	e.Name = p.take(n)
	switch e.Type {
	case 'd':
		back := p.number()
		// Directories are written before those that they are in, so nothing goes in circles.
		if back == 0 || back > uint64(dir) {
			p.bad, p.b = true, nil
			return e
		}
		e.start = dir - int64(back)
	case 'f':
		e.Size, e.Mtime = p.number(), p.signed()
	case 'l', 'h', 'b', 'c', 'p', 's':
	default:
		p.bad, p.b = true, nil
	}
	return e
}
