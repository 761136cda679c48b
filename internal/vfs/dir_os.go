package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// osDir is a directory's descriptor.
type osDir struct {
	fd   int
	name string // for errors
}

// OpenDir implements LinkFS.
func (OS) OpenDir(dir string) (Dir, error) {
	return openDir(unix.AT_FDCWD, dir, dir, unix.O_RDONLY)
}

func openDir(at int, name, path string, flags int) (Dir, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(at, name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &osDir{fd, path}, nil
}

func (d *osDir) error(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: filepath.Join(d.name, name), Err: err}
}

// Close implements Dir. The descriptor is gone even if a signal interrupts.
func (d *osDir) Close() error {
	if err := unix.Close(d.fd); err != nil && err != unix.EINTR {
		return d.error("close", "", err)
	}
	return nil
}

// List implements Dir.
func (d *osDir) List() ([]Entry, error) {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.error("open", "", err)
	}
	f := os.NewFile(uintptr(fd), d.name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(names))
	for _, name := range names {
		var st unix.Stat_t
		err := retry(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, d.error("stat", name, err)
		}
		entries = append(entries, Entry{name, fileMode(uint32(st.Mode)), st.Size, lastUsed(&st)})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	default:
		m |= fs.ModeIrregular
	}
	if mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		m |= fs.ModeSetuid
	}
	return m
}

// Create implements Dir.
func (d *osDir) Create(name string, size int64) (ModeFile, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, d.error("create", name, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.name, name))
	if err := allocate(f, size); err != nil {
		f.Close()
		return nil, errors.Join(d.error("allocate", name, err), d.Remove(name))
	}
	return osFile{f}, nil
}

// OpenRead implements Dir.
func (d *osDir) OpenRead(name string) (File, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, d.error("open", name, err)
	}
	return osFile{os.NewFile(uintptr(fd), filepath.Join(d.name, name))}, nil
}

// Rename implements Dir.
func (d *osDir) Rename(from, to string) error {
	return d.error("rename", from, retry(func() error { return unix.Renameat(d.fd, from, d.fd, to) }))
}

// Link implements Dir.
func (d *osDir) Link(name string, into Dir, as string) error {
	to, ok := into.(*osDir)
	if !ok {
		return d.error("link", name, unix.EXDEV)
	}
	err := retry(func() error { return unix.Linkat(d.fd, name, to.fd, as, 0) })
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "link", Old: filepath.Join(d.name, name), New: filepath.Join(to.name, as), Err: err}
}

// Symlink implements Dir.
func (d *osDir) Symlink(target, name string) error {
	return d.error("symlink", name, retry(func() error { return unix.Symlinkat(target, d.fd, name) }))
}

// MakeDir implements Dir. Without a mode bit of its own the umask decides, and the usual one takes
// nothing from 0755.
func (d *osDir) MakeDir(name string) error {
	return d.error("mkdir", name, retry(func() error { return unix.Mkdirat(d.fd, name, 0o755) }))
}

// Sub implements Dir.
func (d *osDir) Sub(name string) (Dir, error) {
	return openDir(d.fd, name, d.name+"/"+name, openPath)
}

// Remove implements Dir.
func (d *osDir) Remove(name string) error {
	return d.error("remove", name, retry(func() error { return unix.Unlinkat(d.fd, name, 0) }))
}

// RemoveAll implements Dir. An action may have taken away the permissions that its own directories had.
func (d *osDir) RemoveAll(name string) error {
	path := filepath.Join(d.name, name)
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(name, 0o700) // before it is read
		}
		return nil
	})
	return os.RemoveAll(path)
}

// Chmod implements ModeFile.
func (f osFile) Chmod(mode fs.FileMode) error { return f.File.Chmod(mode) }

// CloneFrom implements ModeFile.
func (f osFile) CloneFrom(from File, size int64) (shared bool, err error) {
	if o, ok := from.(osFile); ok && reflink(f.File, o.File) {
		return true, nil
	}
	return false, copyAll(f, from, size)
}

// copyAll copies size bytes. Package os lets the kernel copy from file to file where it can.
func copyAll(to, from File, size int64) error {
	a, ok := to.(osFile)
	b, also := from.(osFile)
	if ok && also {
		n, err := io.Copy(a.File, io.LimitReader(b.File, size))
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	n, err := io.Copy(io.NewOffsetWriter(to, 0), io.NewSectionReader(from, 0, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
