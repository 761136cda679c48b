package worker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/internal/vfs"
)

// removeAll removes dir with all that an action may have left in it: directories that nobody may write, and directories
// inside each other without end. It changes the mode of directories only: files may share their inode with the store.
func removeAll(dir string) error {
	if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
		return nil // it was empty, as it is after many short actions
	}
	top, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	r := &remover{top: int(top.Fd())}
	if err := r.empty(top, 0); err != nil {
		return fmt.Errorf("remove what is in %s: %w", dir, err)
	}
	return os.Remove(dir)
}

// maxOpen is how many directories inside each other are open at once. What lies deeper moves to the top first.
const maxOpen = 64

// A remover empties one directory.
type remover struct {
	top   int
	moved int
}

// empty removes all in dir.
func (r *remover) empty(dir *os.File, depth int) error {
	// What can't be changed shows when something in it is to go.
	_ = unix.Fchmod(int(dir.Fd()), 0o700)
	for {
		// Some file systems leave names out when others go meanwhile, so each turn begins anew, until one finds none.
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		none := true
		for {
			names, err := dir.Readdirnames(1024)
			for _, name := range names {
				none = false
				if err := r.remove(int(dir.Fd()), name, depth); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if none {
			return nil
		}
	}
}

// remove removes one name in a directory.
func (r *remover) remove(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, opened := unix.Openat(dir, name, flags, 0)
	if errors.Is(opened, unix.EACCES) { // no link says that, so it is a directory
		_ = unix.Fchmodat(dir, name, 0o700, 0)
		fd, opened = unix.Openat(dir, name, flags, 0)
	}
	if opened != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	below := os.NewFile(uintptr(fd), name)
	defer below.Close()
	if depth >= maxOpen {
		_ = unix.Fchmod(fd, 0o700) // to move a directory changes its ".."
		return r.moveUp(dir, name)
	}
	if err := r.empty(below, depth+1); err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// moveUp gives a directory a name at the top that nothing has.
func (r *remover) moveUp(dir int, name string) error {
	for {
		r.moved++
		err := unix.Renameat(dir, name, r.top, fmt.Sprintf("deep.%d", r.moved))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
}

// spread has the file system place each work directory somewhere else, where it can: ext4 takes ten times as
// long to make directories where others were just removed.
func spread(dir string) error {
	d, err := (vfs.OS{}).OpenDir(dir)
	if err != nil {
		return err
	}
	d.Spread()
	return d.Close()
}
