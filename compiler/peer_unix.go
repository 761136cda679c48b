//go:build unix

package compiler

import (
	"syscall"
)

// there reports whether the launcher still waits.
func (p *peer) there() bool {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		waits = n > 0 || err == syscall.EAGAIN
	})
	return waits
}
