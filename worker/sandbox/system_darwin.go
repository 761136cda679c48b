package sandbox

import (
	"os"
	"syscall"
	"unsafe"
)

const maxRSSUnit = 1 // ru_maxrss is in bytes

func executable() (string, error) { return os.Executable() }

func closeOnExec(fd int) { syscall.CloseOnExec(fd) }

// pipe returns a reading end for this process and a writing end for a child, which blocks.
func pipe() (read, write int, err error) {
	var p [2]int
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := syscall.Pipe(p[:]); err != nil {
		return 0, 0, err
	}
	syscall.CloseOnExec(p[0])
	syscall.CloseOnExec(p[1])
	return p[0], p[1], syscall.SetNonblock(p[0], true)
}

func plainAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// awaitExit returns when the process ended, and does not reap it.
func awaitExit(pid int) {
	const processID, exited, keep = 1, 4, 0x20
	for {
		_, _, e := syscall.Syscall6(syscall.SYS_WAITID, processID, uintptr(pid), uintptr(unsafe.Pointer(new([128]byte))), exited|keep, 0, 0)
		if e != syscall.EINTR {
			return
		}
	}
}

// asPlain is a runner without any rights.
const asPlain = "plain"

// A way is how the worker starts the runner. Here is only one.
type way struct {
	name string
	attr *syscall.SysProcAttr
	lack string
}

func ways(Options) []way {
	return []way{{name: asPlain, attr: &syscall.SysProcAttr{Setsid: true}}}
}
