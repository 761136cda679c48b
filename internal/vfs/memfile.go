package vfs

import (
	"errors"
	"io"
	"io/fs"
	"slices"
)

// blockSize is what a disk writes whole, in bytes.
const blockSize = 4096

// A cell is what a file system writes to the disk as one: a block of a file, or a file's size.
type cell[T any] struct {
	disk  T   // what a power cut is sure to leave
	seen  T   // what is read
	dirty []T // what it was since the last sync, oldest first; a power cut may leave any of it
}

func (c *cell[T]) set(v T) {
	c.seen = v
	c.dirty = append(c.dirty, v)
}

func (c *cell[T]) sync() {
	if n := len(c.dirty); n > 0 {
		c.disk, c.dirty = c.dirty[n-1], nil
	}
}

// refresh makes what is read what will be on the disk.
func (c *cell[T]) refresh() {
	c.seen = c.disk
	if n := len(c.dirty); n > 0 {
		c.seen = c.dirty[n-1]
	}
}

// copy returns a cell that changes without the original. Values are never changed in place.
func (c cell[T]) copy() cell[T] {
	c.dirty = slices.Clip(c.dirty)
	return c
}

// left returns the cell after a power cut.
func (c cell[T]) left(pick func(n int) int) cell[T] {
	v := c.disk
	if len(c.dirty) > 0 {
		if n := pick(len(c.dirty)); n > 0 {
			v = c.dirty[n-1]
		}
	}
	return cell[T]{disk: v, seen: v}
}

// A memFile is a file.
type memFile struct {
	m      *Mem
	name   string
	size   cell[int64]
	blocks []cell[[]byte] // of blockSize bytes, never changed in place; nil is zeros
	links  int            // 1 for each name, and 1 for each handle
	mode   fs.FileMode
}

func (f *memFile) unlink() {
	if f.links--; f.links == 0 {
		f.m.used -= f.size.seen
	}
}

// change makes a new version of the blocks that have bytes from off on, n of them. edit is given each
// block's part and where that begins.
func (f *memFile) change(off, n int64, edit func(part []byte, at int64)) {
	for end := off + n; off < end; {
		i, from := off/blockSize, off%blockSize
		to := min(blockSize, from+end-off)
		if grow := int(i) + 1 - len(f.blocks); grow > 0 {
			f.blocks = append(f.blocks, make([]cell[[]byte], grow)...)
		}
		b := make([]byte, blockSize)
		copy(b, f.blocks[i].seen)
		edit(b[from:to], off)
		f.blocks[i].set(b)
		off += to - from
	}
}

func (f *memFile) resize(size int64) {
	f.m.used += size - f.size.seen
	f.size.set(size)
}

// A memHandle is an open file.
type memHandle struct {
	*memFile
	closed bool
}

// enter begins an operation. It returns with the file system's mutex held, whatever the error.
func (h *memHandle) enter(op string) error {
	err := h.m.enter(op, h.name)
	if h.closed {
		return &fs.PathError{Op: op, Path: h.name, Err: fs.ErrClosed}
	}
	return err
}

// ReadAt implements File. What was never written reads as zeros.
func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	err := h.enter("read")
	defer h.m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n := int(max(min(int64(len(p)), h.size.seen-off), 0))
	for done := 0; done < n; {
		at := off + int64(done)
		i, from := at/blockSize, at%blockSize
		part := p[done:min(n, done+int(blockSize-from))]
		if i < int64(len(h.blocks)) && h.blocks[i].seen != nil {
			copy(part, h.blocks[i].seen[from:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements File.
func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	err := h.enter("write")
	defer h.m.mu.Unlock()
	if errors.Is(err, ErrShort) {
		p = p[:len(p)/2]
	} else if err != nil {
		return 0, err
	}
	h.change(off, int64(len(p)), func(part []byte, at int64) { copy(part, p[at-off:]) })
	if end := off + int64(len(p)); len(p) > 0 && end > h.size.seen {
		h.resize(end)
	}
	return len(p), err
}

// Sync implements File. One that fails leaves the blocks clean and not on the disk, so that the next
// one succeeds without them; the size stays to be written.
func (h *memHandle) Sync() error {
	err := h.enter("sync")
	defer h.m.mu.Unlock()
	if h.closed {
		return err
	}
	for i := range h.blocks {
		if b := &h.blocks[i]; err != nil {
			b.dirty = nil
		} else {
			b.sync()
		}
	}
	if err == nil {
		h.size.sync()
	}
	return err
}

// DropCache implements File: what is not dirty is then what the disk has.
func (h *memHandle) DropCache() error {
	err := h.enter("dropcache")
	defer h.m.mu.Unlock()
	if err != nil {
		return err
	}
	for i := range h.blocks {
		h.blocks[i].refresh()
	}
	return nil
}

// Truncate implements File. Until the next sync a power cut may leave the old size or the new one, and
// of each block that was cut off its old bytes or zeros.
func (h *memHandle) Truncate(size int64) error {
	err := h.enter("truncate")
	defer h.m.mu.Unlock()
	if err != nil {
		return err
	}
	h.zero(size, h.size.seen)
	h.resize(size)
	return nil
}

// Punch implements File. Until the next sync a power cut may leave the old bytes of any block.
func (h *memHandle) Punch(off, n int64) error {
	err := h.enter("punch")
	defer h.m.mu.Unlock()
	if err != nil {
		return err
	}
	h.zero(off, off+n)
	return nil
}

// zero clears the bytes from off to end, of blocks that were ever written.
func (f *memFile) zero(off, end int64) {
	end = min(end, int64(len(f.blocks))*blockSize)
	f.change(off, max(end-off, 0), func(part []byte, _ int64) { clear(part) })
}

// Close implements File. One that fails has closed the file.
func (h *memHandle) Close() error {
	err := h.enter("close")
	defer h.m.mu.Unlock()
	if !h.closed {
		h.closed = true
		h.unlink()
	}
	return err
}
