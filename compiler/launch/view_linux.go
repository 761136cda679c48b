package launch

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

// View names the tree of files that this process sees: its mount namespace and its root. Two processes with
// one view mean the same file by the same path.
func View() string {
	namespace, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return ""
	}
	var root syscall.Stat_t
	if syscall.Stat("/", &root) != nil {
		return ""
	}
	return namespace + " " + strconv.FormatUint(root.Dev, 10) + " " + strconv.FormatUint(root.Ino, 10)
}

// starved reports whether the process at the other end would run if it got a processor.
func starved(fd int) bool {
	peer, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return false
	}
	tasks := "/proc/" + strconv.Itoa(int(peer.Pid)) + "/task"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	for _, t := range threads {
		stat, err := os.ReadFile(tasks + "/" + t.Name() + "/stat")
		if err != nil {
			continue
		}
		if i := lastIndex(string(stat), ')'); i >= 0 && i+2 < len(stat) && stat[i+2] == 'R' {
			return true
		}
	}
	return false
}

// closeOnExec is MFD_CLOEXEC of memfd_create(2).
const closeOnExec = 1

// memfdCreate returns the number of memfd_create(2), which package syscall is older than. For a machine whose number is
// not known here it is one that no call has.
func memfdCreate() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 319
	case "arm64", "riscv64", "loong64":
		return 279
	}
	return ^uintptr(0)
}

// scratch returns a file that lies in memory and goes with its last descriptor.
func scratch() (*os.File, error) {
	name := []byte("sarsen-cc\x00")
	fd, _, errno := syscall.Syscall(memfdCreate(), uintptr(unsafe.Pointer(&name[0])), closeOnExec, 0)
	if errno != 0 {
		return unlinked()
	}
	return os.NewFile(fd, "scratch"), nil
}

func isTerminal(fd int) bool {
	var t syscall.Termios
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TCGETS, uintptr(unsafe.Pointer(&t)))
	return errno == 0
}
