package launch

import (
	"bytes"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
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
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && stat[i+2] == 'R' {
			return true
		}
	}
	return false
}

// scratch returns a file that lies in memory and goes with its last descriptor.
func scratch() (*os.File, error) {
	fd, err := unix.MemfdCreate("sarsen-cc", unix.MFD_CLOEXEC)
	if err != nil {
		return unlinked()
	}
	return os.NewFile(uintptr(fd), "scratch"), nil
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
