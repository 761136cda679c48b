package vfs

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Boot implements FS. The kernel draws the number anew each time that it starts.
func (OS) Boot() string { return bootID() }

var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

func allocate(f *os.File, size int64) error {
	if size == 0 {
		return nil // which fallocate takes for a mistake
	}
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return f.Truncate(size)
	}
	return err
}

func (f osFile) Sync() error {
	return pathError("fdatasync", f, retry(func() error { return unix.Fdatasync(int(f.Fd())) }))
}

func (f osFile) DropCache() error {
	return pathError("fadvise", f, retry(func() error {
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}))
}

func (f osFile) Punch(off, n int64) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	return pathError("punch", f, retry(func() error { return unix.Fallocate(int(f.Fd()), mode, off, n) }))
}

func pathError(op string, f osFile, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}
