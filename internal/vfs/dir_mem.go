package vfs

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// memDir is a directory of a Mem. There are no symbolic links in memory.
type memDir struct {
	m   *Mem
	dir string
}

// OpenDir implements LinkFS; directories need not exist.
func (m *Mem) OpenDir(dir string) (Dir, error) {
	defer m.mu.Unlock()
	return &memDir{m, filepath.Clean(dir)}, m.enter("opendir", dir)
}

func (d *memDir) path(name string) string { return filepath.Join(d.dir, name) }

// Close implements Dir.
func (d *memDir) Close() error { return nil }

// List implements Dir.
func (d *memDir) List() ([]Entry, error) {
	err := d.m.enter("list", d.dir)
	defer d.m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for name, f := range d.m.files {
		if within(name, d.dir) {
			entries = append(entries, Entry{Name: filepath.Base(name), Mode: f.mode, Size: f.size.seen})
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// Create implements Dir.
func (d *memDir) Create(name string, size int64) (ModeFile, error) {
	f, err := d.m.Create(d.path(name), size)
	if err != nil {
		return nil, err
	}
	return f.(*memHandle), nil
}

// OpenRead implements Dir.
func (d *memDir) OpenRead(name string) (File, error) { return d.m.Open(d.path(name)) }

// Rename implements Dir. What was not synced may be there under both names, or under none.
func (d *memDir) Rename(from, to string) error {
	return d.m.name("rename", d.path(from), d.path(to), true)
}

// Link implements Dir.
func (d *memDir) Link(name string, into Dir, as string) error {
	to, ok := into.(*memDir)
	if !ok || to.m != d.m {
		return &fs.PathError{Op: "link", Path: name, Err: syscall.EXDEV}
	}
	return d.m.name("link", d.path(name), to.path(as), false)
}

// name gives a file another name.
func (m *Mem) name(op, from, to string, move bool) error {
	err := m.enter(op, from)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	f := m.files[from]
	if f == nil {
		return &fs.PathError{Op: op, Path: from, Err: fs.ErrNotExist}
	}
	if old := m.files[to]; old != nil && !move {
		return &fs.PathError{Op: op, Path: to, Err: fs.ErrExist}
	} else if old != nil {
		old.unlink()
	}
	m.files[to] = f
	m.pending = append(m.pending, nameChange{to, f})
	if move {
		delete(m.files, from)
		m.pending = append(m.pending, nameChange{from, nil})
	} else {
		f.links++
	}
	return nil
}

// Symlink implements Dir.
func (d *memDir) Symlink(target, name string) error {
	return &fs.PathError{Op: "symlink", Path: name, Err: syscall.ENOTSUP}
}

// MakeDir implements Dir; directories need not exist.
func (d *memDir) MakeDir(string) error { return nil }

// Sub implements Dir.
func (d *memDir) Sub(name string) (Dir, error) { return &memDir{d.m, d.path(name)}, nil }

// Remove implements Dir.
func (d *memDir) Remove(name string) error { return d.m.Remove(d.path(name)) }

// RemoveAll implements Dir.
func (d *memDir) RemoveAll(name string) error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	for file, f := range d.m.files {
		if file == d.path(name) || strings.HasPrefix(file, d.path(name)+string(filepath.Separator)) {
			delete(d.m.files, file)
			d.m.pending = append(d.m.pending, nameChange{file, nil})
			f.unlink()
		}
	}
	return nil
}

// Spread implements Dir.
func (d *memDir) Spread() {}

// Chmod implements ModeFile.
func (h *memHandle) Chmod(mode fs.FileMode) error {
	err := h.enter("chmod")
	defer h.m.mu.Unlock()
	if err == nil {
		h.mode = mode
	}
	return err
}

// CloneFrom implements ModeFile: it copies.
func (h *memHandle) CloneFrom(from File, size int64) (bool, error) {
	return false, copyAll(h, from, size)
}
