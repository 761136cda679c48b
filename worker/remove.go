package worker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sarsen-build/sarsen/internal/vfs"
)

// removeAll removes dir with all that an action may have left in it, directories that nobody may write
// among them. It changes the mode of directories only: files may share their inode with the store.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
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
