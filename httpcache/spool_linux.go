package httpcache

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// unnamedFile returns a new file in dir that never had a name, so that not even a crash leaves one.
func unnamedFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return briefFile(dir) // not every file system can do it
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir, "(unnamed)")), nil
}
