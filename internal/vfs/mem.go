package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory, for tests, which knows what a kill and a power cut leave of it. Its
// zero value is empty and has room without bound.
type Mem struct {
	// Room bounds the bytes of all files, open or named; 0 is no bound.
	Room int64
	// Before is called, if set, before each operation. Tests let it park the caller.
	Before func(op, name string)
	// FailSyncs makes every Sync fail, in the way of Linux: the bytes are still read, and taken for
	// clean, so that a later Sync succeeds without them.
	FailSyncs bool

	mu     sync.Mutex
	files  map[string]*memFile
	names  map[string]*memFile // the files as directories have them on the disk
	locked map[string]bool
	used   int64
	boots  int
}

// A memFile is a file. What was written lies in data and, until a sync, in dirty; disk is what a power
// cut would leave.
type memFile struct {
	m     *Mem
	name  string
	data  []byte
	size  int64
	disk  []byte
	dirty []span
	links int // 1 for the name, and 1 for each handle
}

type span struct {
	off  int64
	data []byte
}

func (m *Mem) enter(op, name string) {
	if m.Before != nil {
		m.Before(op, filepath.Base(name))
	}
	m.mu.Lock()
	if m.files == nil {
		m.files, m.names, m.locked = map[string]*memFile{}, map[string]*memFile{}, map[string]bool{}
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
	defer m.mu.Unlock()
	maps.DeleteFunc(m.names, func(name string, _ *memFile) bool { return filepath.Dir(name) == filepath.Clean(dir) })
	for name, f := range m.files {
		if filepath.Dir(name) == filepath.Clean(dir) {
			m.names[name] = f
		}
	}
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

// Boot implements FS.
func (m *Mem) Boot() string { return fmt.Sprint("boot ", m.boots) }

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
	h.data = write(h.data, span{off, p})
	h.dirty = append(h.dirty, span{off, slices.Clone(p)})
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
	defer h.m.mu.Unlock()
	dirty := h.dirty
	h.dirty = nil
	if h.m.FailSyncs {
		return &fs.PathError{Op: "sync", Path: h.name, Err: syscall.EIO}
	}
	for _, s := range dirty {
		h.disk = write(h.disk, s)
	}
	return nil
}

// write returns b with s written to it.
func write(b []byte, s span) []byte {
	if end := s.off + int64(len(s.data)); end > int64(len(b)) {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[s.off:], s.data)
	return b
}

// DropCache implements File: what is not dirty is then what the disk has.
func (h *memHandle) DropCache() error {
	if err := h.enter("dropcache"); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.data = slices.Clone(h.disk)
	for _, s := range h.dirty {
		h.data = write(h.data, s)
	}
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
	h.data = cut(h.data, size)
	h.disk = cut(h.disk, size)
	h.dirty = slices.DeleteFunc(h.dirty, func(s span) bool { return s.off >= size })
	for i, s := range h.dirty {
		h.dirty[i].data = cut(s.data, size-s.off)
	}
	return nil
}

func cut(b []byte, size int64) []byte { return b[:min(int64(len(b)), size)] }

// Punch implements File. Like Truncate it is on the disk at once: file systems order such changes by
// themselves, and later than that is kinder.
func (h *memHandle) Punch(off, n int64) error {
	if err := h.enter("punch"); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	for _, b := range [][]byte{h.data, h.disk} {
		if off < int64(len(b)) {
			clear(b[off:min(off+n, int64(len(b)))])
		}
	}
	for _, s := range h.dirty {
		from, to := max(off-s.off, 0), min(off+n-s.off, int64(len(s.data)))
		if from < to {
			clear(s.data[from:to])
		}
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

// Clone returns a copy of the files as another process would find them if this one were killed now:
// nothing is open and nothing locked, and what is not synced is still there, and still not synced.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.empty()
	copied := map[*memFile]*memFile{}
	copyOf := func(f *memFile) *memFile {
		if copied[f] == nil {
			copied[f] = &memFile{m: c, name: f.name, data: slices.Clone(f.data), size: f.size, disk: slices.Clone(f.disk), dirty: slices.Clone(f.dirty)}
		}
		return copied[f]
	}
	for name, f := range m.files {
		c.files[name] = copyOf(f)
		c.files[name].links = 1
		c.used += f.size
	}
	for name, f := range m.names {
		c.names[name] = copyOf(f)
	}
	return c
}

// PowerCut returns the files as they would be found if the power went now: of each file what was
// synced, and under the names that their directory had when that was synced.
func (m *Mem) PowerCut() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.empty()
	c.boots++
	for name, f := range m.names {
		left := &memFile{m: c, name: name, data: slices.Clone(f.disk), size: f.size, disk: slices.Clone(f.disk), links: 1}
		c.files[name], c.names[name] = left, left
		c.used += f.size
	}
	return c
}

func (m *Mem) empty() *Mem {
	return &Mem{Room: m.Room, boots: m.boots, files: map[string]*memFile{}, names: map[string]*memFile{}, locked: map[string]bool{}}
}
