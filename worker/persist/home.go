package persist

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// levels are open directories: a root and each one on the way from there to the working directory.
type levels struct {
	dirs []*os.File
	way  []string // their names, but for the root's
}

// openLevels opens the levels below root. None may be a link.
func openLevels(root string, way []string) (levels, error) {
	l := levels{way: way}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at, name := unix.AT_FDCWD, root
	for i := range len(way) + 1 {
		fd, err := unix.Openat(at, name, flags, 0)
		if err != nil {
			l.close()
			return levels{}, fmt.Errorf("directory %q: %w", name, err)
		}
		l.dirs = append(l.dirs, os.NewFile(uintptr(fd), name))
		if i < len(way) {
			at, name = fd, way[i]
		}
	}
	return l, nil
}

func (l levels) close() {
	for _, f := range l.dirs {
		_ = f.Close()
	}
}

// names returns what a level holds beside the next level. The one that the next level's name stands for must
// be it.
func (l levels) names(i int) ([]string, error) {
	if _, err := l.dirs[i].Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	all, err := l.dirs[i].Readdirnames(-1)
	if err != nil || i == len(l.way) {
		return all, err
	}
	found := false
	names := all[:0]
	for _, name := range all {
		if name != l.way[i] {
			names = append(names, name)
			continue
		}
		var got, want unix.Stat_t
		if err := unix.Fstatat(int(l.dirs[i].Fd()), name, &got, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, err
		}
		if err := unix.Fstat(int(l.dirs[i+1].Fd()), &want); err != nil {
			return nil, err
		}
		found = got.Ino == want.Ino && got.Dev == want.Dev
	}
	if !found {
		return nil, fmt.Errorf("%w: it replaced its working directory", ErrProtocol)
	}
	return names, nil
}

// moveTo renames all that lies in the levels to the levels of to.
func (l levels) moveTo(to levels) error {
	for i := range l.dirs {
		names, err := l.names(i)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := rename(l.dirs[i], name, to.dirs[i]); err != nil {
				return fmt.Errorf("move %q: %w", name, err)
			}
		}
	}
	return nil
}

// rename moves one entry. A directory must be writable for that, since its parent is written in it.
func rename(from *os.File, name string, to *os.File) error {
	a, b := int(from.Fd()), int(to.Fd())
	err := unix.Renameat(a, name, b, name)
	if !errors.Is(err, unix.EACCES) {
		return err
	}
	fd, e := unix.Openat(a, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if e != nil {
		return err
	}
	defer unix.Close(fd)
	if unix.Fchmod(fd, 0o755) != nil {
		return err
	}
	return unix.Renameat(a, name, b, name)
}

// open makes the levels writable, whatever the tool did to them.
func (l levels) open() error {
	for _, f := range l.dirs {
		if err := f.Chmod(0o755); err != nil {
			return err
		}
	}
	return nil
}

// makeLevels makes empty directories.
func makeLevels(root string, way []string) (levels, error) {
	if err := os.MkdirAll(filepath.Join(append([]string{root}, way...)...), 0o755); err != nil {
		return levels{}, err
	}
	return openLevels(root, way)
}

// clear renames what is left in the levels into a directory beside the staged root, with which it goes.
func (l levels) clear(litter string) error {
	left := false
	for i := range l.dirs {
		names, err := l.names(i)
		if err != nil {
			return err
		}
		left = left || len(names) > 0
	}
	if !left {
		return nil
	}
	to, err := makeLevels(litter, l.way)
	if err != nil {
		return err
	}
	defer to.close()
	return l.moveTo(to)
}

// unshare replaces every file below root that has other names by a copy. Where the file system can, the copies
// share their blocks.
func unshare(root string) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Nlink == 1 {
			return nil
		}
		return replace(name, info)
	})
}

func replace(name string, info fs.FileInfo) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(name), ".copy-")
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Chmod(info.Mode().Perm())
	}
	if closed := to.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(to.Name(), name)
	}
	if err != nil {
		_ = os.Remove(to.Name())
	}
	return err
}
