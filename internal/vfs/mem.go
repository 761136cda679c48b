package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory, for tests. Its zero value is empty and has room without bound.
type Mem struct {
	// Room bounds the bytes of all files, open or named; 0 is no bound.
	Room int64
	// Before is called, if set, before each operation. Tests let it park the caller.
	Before func(op, name string)

	mu     sync.Mutex
	files  map[string]*memFile
	locked map[string]bool
	used   int64
}

type memFile struct {
	m     *Mem
	name  string
	data  []byte
	size  int64
	links int // 1 for the name, and 1 for each handle
}

func (m *Mem) enter(op, name string) {
	if m.Before != nil {
		m.Before(op, filepath.Base(name))
	}
	m.mu.Lock()
	if m.files == nil {
		m.files, m.locked = map[string]*memFile{}, map[string]bool{}
	}
}

// MakeDir implements FS; directories need not exist.
func (m *Mem) MakeDir(dir string) error { return nil }

// Lock implements FS.
func (m *Mem) Lock(dir string) (io.Closer, error) {
	m.enter("lock", dir)
	defer m.mu.Unlock()
	if m.locked[dir] {
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	m.locked[dir] = true
	return closeFunc(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.locked, dir)
		return nil
	}), nil
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// List implements FS.
func (m *Mem) List(dir string) ([]Info, error) {
	m.enter("list", dir)
	defer m.mu.Unlock()
	var infos []Info
	for name, f := range m.files {
		if filepath.Dir(name) == filepath.Clean(dir) {
			infos = append(infos, Info{filepath.Base(name), f.size})
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Create implements FS.
func (m *Mem) Create(name string, size int64) (File, error) {
	m.enter("create", name)
	defer m.mu.Unlock()
	if m.files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if m.Room > 0 && m.used+size > m.Room {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	m.used += size
	f := &memFile{m: m, name: name, size: size, links: 2}
	m.files[name] = f
	return &memHandle{memFile: f}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	m.enter("open", name)
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f.links++
	return &memHandle{memFile: f}, nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.enter("remove", name)
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(m.files, name)
	f.unlink()
	return nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.enter("syncdir", dir)
	m.mu.Unlock()
	return nil
}

// Free implements FS.
func (m *Mem) Free(dir string) (int64, error) {
	m.enter("free", dir)
	defer m.mu.Unlock()
	if m.Room == 0 {
		return 1 << 50, nil
	}
	return m.Room - m.used, nil
}

func (f *memFile) unlink() {
	if f.links--; f.links == 0 {
		f.m.used -= f.size
		f.data = nil
	}
}

type memHandle struct {
	*memFile
	closed bool
}

func (h *memHandle) enter(op string) error {
	h.m.enter(op, h.name)
	if h.closed {
		h.m.mu.Unlock()
		return &fs.PathError{Op: op, Path: h.name, Err: fs.ErrClosed}
	}
	return nil
}

// ReadAt implements File. What was never written reads as zeros.
func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.enter("read"); err != nil {
		return 0, err
	}
	defer h.m.mu.Unlock()
	if off >= h.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), h.size-off))
	clear(p[:n])
	if off < int64(len(h.data)) {
		copy(p[:n], h.data[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements File.
func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.enter("write"); err != nil {
		return 0, err
	}
	defer h.m.mu.Unlock()
	end := off + int64(len(p))
	if end > int64(len(h.data)) {
		h.data = append(h.data, make([]byte, end-int64(len(h.data)))...)
	}
	copy(h.data[off:], p)
	if end > h.size {
		h.m.used += end - h.size
		h.size = end
	}
	return len(p), nil
}

// Sync implements File.
func (h *memHandle) Sync() error {
	if err := h.enter("sync"); err != nil {
		return err
	}
	h.m.mu.Unlock()
	return nil
}

// Truncate implements File.
func (h *memHandle) Truncate(size int64) error {
	if err := h.enter("truncate"); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.m.used += size - h.size
	h.size = size
	if size < int64(len(h.data)) {
		h.data = h.data[:size]
	}
	return nil
}

// Punch implements File.
func (h *memHandle) Punch(off, n int64) error {
	if err := h.enter("punch"); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	if off < int64(len(h.data)) {
		clear(h.data[off:min(off+n, int64(len(h.data)))])
	}
	return nil
}

// Close implements File.
func (h *memHandle) Close() error {
	if err := h.enter("close"); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.closed = true
	h.unlink()
	return nil
}

// Clone returns a copy of the files as they are, as another process would find them if this one were
// killed now: nothing is open and nothing locked.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Mem{Room: m.Room, files: map[string]*memFile{}, locked: map[string]bool{}}
	for name, f := range m.files {
		c.files[name] = &memFile{m: c, name: name, data: slices.Clone(f.data), size: f.size, links: 1}
		c.used += f.size
	}
	return c
}
