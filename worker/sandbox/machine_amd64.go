//go:build linux

package sandbox

import "golang.org/x/sys/unix"

const (
	machine = unix.AUDIT_ARCH_X86_64
	// firstOther is the first number of the x32 calls, which share the machine's name.
	firstOther = 0x40000000
)
