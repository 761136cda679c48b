package gocache

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"golang.org/x/sys/unix"
)

// An output is hashed before it is served, unless its seal says that this was done since the machine started and
// that nobody wrote to it since. The seal is the part of the file's modification time below a second: whoever
// writes changes it. It depends on the run of the machine, since what was not synced before is in doubt, so that
// nothing has to be stored beside the file. Where file systems have coarser times, outputs are hashed each time.

// mark returns the nanoseconds of e's seal, or -1 if there can't be one.
func mark(e entry) int64 {
	boot := vfs.OS{}.Boot()
	if boot == "" {
		return -1
	}
	h := sha256.Sum256(append([]byte(boot), e.content[:]...))
	return int64(binary.LittleEndian.Uint64(h[:]) % uint64(time.Second))
}

// seal says of a file that its bytes are those of e, and that it was used just now.
func seal(name string, e entry, at time.Time) error {
	return os.Chtimes(name, time.Now(), time.Unix(at.Unix(), max(mark(e), 0)))
}

// use reports whether the file has the bytes of e, and if so notes that it is used. The caller holds the lock.
func (d *directory) use(name string, e entry) bool {
	var s unix.Stat_t
	if unix.Lstat(name, &s) != nil || s.Mode&unix.S_IFMT != unix.S_IFREG || s.Size != e.size {
		return false
	}
	written := time.Unix(s.Mtim.Unix())
	if int64(written.Nanosecond()) != mark(e) {
		if !verify(name, e) && !mutant.SealBelieved {
			return false
		}
		return seal(name, e, written) == nil
	}
	if time.Unix(s.Atim.Unix()).Before(d.start) {
		return os.Chtimes(name, time.Now(), written) == nil
	}
	return true
}

// verify hashes a file.
func verify(name string, e entry) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return err == nil && n == e.size && id(h.Sum(nil)) == e.content
}

// usedAt returns when a file was used last, and how much of the disk it takes.
func usedAt(name string) (at time.Time, size int64, err error) {
	var s unix.Stat_t
	if err := unix.Lstat(name, &s); err != nil {
		return at, 0, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return time.Unix(s.Atim.Unix()), charge(s.Size), nil
}

// block is what a file system gives to a file at least, in bytes.
const block = 4096

// charge is what a file of size bytes takes of the disk, about.
func charge(size int64) int64 { return (size + block - 1) / block * block }
