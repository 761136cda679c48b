package config

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/segment"
)

// maxDefault bounds the default, in bytes: nobody who said nothing wants to lose a whole disk.
const maxDefault = 100e9

// defaultMaxSize returns half of what the disk under dir could give to the store, in bytes. What dir
// already holds counts as free, so that a restart finds about the limit that it had.
func defaultMaxSize(dir string) (int64, error) {
	free, err := freeBytes(dir)
	if err != nil {
		return 0, err
	}
	return roundDefault((free + heldBytes(dir)) / 2), nil
}

// roundDefault brings a share of the disk within bounds and to a number that one can read.
func roundDefault(n int64) int64 {
	n = min(n, maxDefault)
	unit := int64(1e9)
	if n < unit {
		unit = 1 << 20
	}
	return max(n-n%unit, segment.MinSize)
}

// freeBytes returns what an ordinary user may still write on the disk of dir, or of the nearest
// directory above it that can be looked at.
func freeBytes(dir string) (int64, error) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return int64(s.Bavail) * int64(s.Bsize), nil
		}
		parent := filepath.Dir(dir)
		// Why dir can't be used is for the store to say; this is only about which disk.
		if parent == dir || !(errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR)) {
			return 0, err
		}
		dir = parent
	}
}

// heldBytes returns the disk space of the files in dir. What can't be read counts as nothing: this
// is for a default only.
func heldBytes(dir string) int64 {
	var held int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				held += s.Blocks * 512 // stat(2) counts in 512 bytes, whatever the disk's blocks are
			}
		}
		return nil
	})
	return held
}
