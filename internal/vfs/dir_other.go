//go:build !linux

package vfs

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const openPath = unix.O_RDONLY

// reflink can do nothing here.
func reflink(to, from *os.File) bool { return false }

// lastUsed is not looked at here.
func lastUsed(*unix.Stat_t) time.Time { return time.Time{} }

// Spread has nobody to advise here.
func (d *osDir) Spread() {}
