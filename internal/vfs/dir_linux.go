package vfs

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openPath opens a directory for what lies below it, without what reading it would need.
const openPath = unix.O_PATH

// reflink makes the blocks of from those of to, and reports whether the file system can.
func reflink(to, from *os.File) bool {
	return retry(func() error { return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) }) == nil
}

// lastUsed is the later of the access time, which is not kept exactly, and the change time, which every
// new hard link moves.
func lastUsed(st *unix.Stat_t) time.Time {
	a, c := time.Unix(st.Atim.Unix()), time.Unix(st.Ctim.Unix())
	if a.After(c) {
		return a
	}
	return c
}

// topDir is ext4's flag for a directory whose children are unrelated (chattr +T).
const topDir = 0x00020000

// Spread implements Dir. Ext4 puts a directory into the block group of its parent, and steps over each
// inode there that was removed in the last minutes, one by one: where trees come and go, making a
// directory then takes half a millisecond and not 40 microseconds.
func (d *osDir) Spread() {
	flags, err := unix.IoctlGetInt(d.fd, unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(d.fd, unix.FS_IOC_SETFLAGS, flags|topDir)
	}
}
