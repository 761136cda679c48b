//go:build linux

package sandbox

import "golang.org/x/sys/unix"

const (
	machine = unix.AUDIT_ARCH_AARCH64
	// firstOther is above every number that there is.
	firstOther = 0x40000000
)

// owning are the calls that change a file's owner.
var owning = []uint32{unix.SYS_FCHOWN, unix.SYS_FCHOWNAT}
