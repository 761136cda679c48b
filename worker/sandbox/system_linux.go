package sandbox

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const maxRSSUnit = 1024 // ru_maxrss is in KiB

func executable() (string, error) { return "/proc/self/exe", nil }

func closeOnExec(fd int) { unix.CloseOnExec(fd) }

// pipe returns a reading end for this process and a writing end for a child, which blocks.
func pipe() (read, write int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, 0, err
	}
	return p[0], p[1], unix.SetNonblock(p[0], true)
}

func plainAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when the process ended, and does not reap it.
func awaitExit(pid int) {
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid), uintptr(unsafe.Pointer(new([128]byte))),
			unix.WEXITED|unix.WNOWAIT, 0, 0)
		if e != unix.EINTR {
			return
		}
	}
}

// A way is how the worker starts the runner, and which launcher that makes.
type way struct {
	name string
	attr *syscall.SysProcAttr
	lack string // what is missing without it: a sentence with a verb for the error; empty if nothing weaker follows
}

// The ways: as root of the host, as root of a user namespace, and without any rights.
const (
	asRoot  = "root"
	asUser  = "user"
	asPlain = "plain"
)

func ways(o Options) []way {
	none := way{name: asPlain, attr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}}
	if o.Mode == None || !canJail {
		return []way{none}
	}
	user := way{name: asUser, lack: "no namespaces at all, so actions run as this user among this user's processes and files: %v",
		attr: &syscall.SysProcAttr{
			Setsid: true, Pdeathsig: syscall.SIGKILL,
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}}
	list := []way{user}
	if os.Geteuid() == 0 {
		list = []way{{name: asRoot, lack: "no user of their own for actions, though the worker is root: %v",
			attr: &syscall.SysProcAttr{
				Setsid: true, Pdeathsig: syscall.SIGKILL,
				Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
			}}, user}
	}
	if o.Mode == Auto && !o.Chroot {
		list = append(list, none)
	}
	return list
}
