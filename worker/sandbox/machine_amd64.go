//go:build linux

package sandbox

import "golang.org/x/sys/unix"

const (
	machine = unix.AUDIT_ARCH_X86_64
	// firstOther is the first number of the x32 calls, which share the machine's name.
	firstOther = 0x40000000
)

// owning are the calls that change a file's owner.
var owning = []uint32{unix.SYS_CHOWN, unix.SYS_FCHOWN, unix.SYS_LCHOWN, unix.SYS_FCHOWNAT}
