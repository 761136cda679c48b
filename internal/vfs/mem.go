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

// Mem is a file system in memory, for tests. It knows what a kill (Clone) and a power cut (PowerCut,
// Image) leave of it, and fails where it is told to (Fault). Its zero value is empty and has room
// without bound.
type Mem struct {
	// Room bounds the bytes of all files, open or named; 0 is no bound.
	Room int64
	// Before is called, if set, before each operation. Tests let it park the caller. Like Fault it is a
	// field for the maker of a Mem; SetBefore and SetFault change them while others use it.
	Before func(op, name string)
	// Fault is asked, if set, before each operation takes effect. The error that it returns is the
	// operation's, which then fails as Linux does it: a sync takes the bytes for clean though the disk
	// never gets them, a close closes all the same, a write that fails with ErrShort leaves half of its
	// bytes, and everything else leaves no trace. Before and Fault get the name without its directory,
	// and one of the operations mkdir, lock, unlock, list, create, open, remove, syncdir, free, read,
	// write, sync, dropcache, truncate, punch, close, opendir, rename, link, chmod.
	Fault func(op, name string) error

	mu     sync.Mutex
	files  map[string]*memFile
	locked map[string]bool
	used   int64
	boots  int

	names   map[string]*memFile // the files as directories have them on the disk
	pending []nameChange        // what came after that, in order
}

// A nameChange is a name that was created, or removed if file is nil.
type nameChange struct {
	name string
	file *memFile
}

func newMem() *Mem {
	return &Mem{files: map[string]*memFile{}, names: map[string]*memFile{}, locked: map[string]bool{}}
}

// enter begins an operation. It returns with mu held, whatever the error.
func (m *Mem) enter(op, name string) (err error) {
	base := filepath.Base(name)
	m.mu.Lock()
	before, fault := m.Before, m.Fault
	m.mu.Unlock()
	if before != nil {
		before(op, base)
	}
	if fault != nil {
		if err = fault(op, base); err != nil {
			err = &fs.PathError{Op: op, Path: name, Err: err}
		}
	}
	m.mu.Lock()
	if m.files == nil {
		m.files, m.names, m.locked = map[string]*memFile{}, map[string]*memFile{}, map[string]bool{}
	}
	return err
}

// SetBefore changes Before. An operation that has begun has asked the one that was there.
func (m *Mem) SetBefore(before func(op, name string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Before = before
}

// SetFault changes Fault, as SetBefore does it.
func (m *Mem) SetFault(fault func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Fault = fault
}

// Boot implements FS.
func (m *Mem) Boot() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("boot %d", m.boots)
}

// MakeDir implements FS; directories need not exist.
func (m *Mem) MakeDir(dir string) error {
	defer m.mu.Unlock()
	return m.enter("mkdir", dir)
}

// Lock implements FS.
func (m *Mem) Lock(dir string) (io.Closer, error) {
	err := m.enter("lock", dir)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if m.locked[dir] {
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	m.locked[dir] = true
	return closeFunc(func() error {
		err := m.enter("unlock", dir)
		defer m.mu.Unlock()
		delete(m.locked, dir)
		return err
	}), nil
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// List implements FS.
func (m *Mem) List(dir string) ([]Info, error) {
	err := m.enter("list", dir)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var infos []Info
	for name, f := range m.files {
		if within(name, dir) {
			infos = append(infos, Info{filepath.Base(name), f.size.seen})
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func within(name, dir string) bool { return filepath.Dir(name) == filepath.Clean(dir) }

// Create implements FS.
func (m *Mem) Create(name string, size int64) (File, error) {
	err := m.enter("create", name)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if m.files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if m.Room > 0 && m.used+size > m.Room {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	m.used += size
	f := &memFile{m: m, name: name, links: 2}
	f.size.set(size)
	m.files[name] = f
	m.pending = append(m.pending, nameChange{name, f})
	return &memHandle{memFile: f}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	err := m.enter("open", name)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f := m.files[name]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f.links++
	return &memHandle{memFile: f}, nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	err := m.enter("remove", name)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	f := m.files[name]
	if f == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(m.files, name)
	m.pending = append(m.pending, nameChange{name, nil})
	f.unlink()
	return nil
}

// SyncDir implements FS. After one that failed the names are neither lost nor durable; the next may
// make them so. File systems keep a journal of names, so that none is forgotten as bytes are.
func (m *Mem) SyncDir(dir string) error {
	err := m.enter("syncdir", dir)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	m.pending = slices.DeleteFunc(m.pending, func(c nameChange) bool {
		if within(c.name, dir) {
			c.apply(m.names)
			return true
		}
		return false
	})
	return nil
}

func (c nameChange) apply(names map[string]*memFile) {
	if c.file == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.file
	}
}

// Free implements FS.
func (m *Mem) Free(dir string) (int64, error) {
	err := m.enter("free", dir)
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if m.Room == 0 {
		return 1 << 50, nil
	}
	return m.Room - m.used, nil
}
