//go:build linux && (amd64 || arm64)

package sandbox

import (
	"golang.org/x/sys/unix"
)

// denied are the system calls that no build needs and that have opened ways out of sandboxes: those that change
// mounts, namespaces, the kernel or the clock, and the large young interfaces. ptrace is not among them: it reaches only the
// action's own processes, and debuggers and leak checkers need it.
var denied = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_FSPICK, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_MOUNT_SETATTR,
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SYSLOG,
	unix.SYS_VHANGUP, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_LOOKUP_DCOOKIE, unix.SYS_NFSSERVCTL, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_MEMFD_SECRET,
}

// families are the kinds of sockets that actions may make. Others are no part of a network namespace (vsock) or rarely used kernel code.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// Offsets in struct seccomp_data. Both machines are little-endian, so an argument's low half comes first.
const (
	dataNumber  = 0
	dataMachine = 4
	dataArg0    = 16
	dataArg1    = 24
)

// An assembler writes a classic BPF program of checks, each of which returns or falls through.
type assembler []unix.SockFilter

func (p *assembler) emit(code uint16, k uint32, yes, no uint8) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (p *assembler) load(offset uint32) { p.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }

func (p *assembler) answer(k uint32) { p.emit(unix.BPF_RET|unix.BPF_K, k, 0, 0) }

// failing makes a system call fail.
func failing(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// newFilter returns the seccomp filter of every action. With pretend, those who change a file's owner are told that they did: to be
// root in a namespace of one user is to have nobody to give a file to, and results know no owners. What it does not know is allowed: a list of all that
// compilers, linkers and tests ever call would break builds at each new version of libc.
func newFilter(pretend bool) []unix.SockFilter {
	var p assembler
	p.load(dataMachine)
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, machine, 1, 0)
	p.answer(failing(unix.ENOSYS)) // programs of another machine: their numbers mean other calls
	p.load(dataNumber)
	p.emit(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, firstOther, 0, 1)
	p.answer(failing(unix.ENOSYS))
	for _, n := range denied {
		p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, n, 0, 1)
		p.answer(failing(unix.EPERM))
	}
	if pretend {
		for _, n := range owning {
			p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, n, 0, 1)
			p.answer(failing(0))
		}
	}
	// The flags of clone3 are in memory, where no filter can look; libraries fall back to clone.
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_CLONE3, 0, 1)
	p.answer(failing(unix.ENOSYS))
	const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
		unix.CLONE_NEWCGROUP
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_CLONE, 0, 4)
	p.load(dataArg0)
	p.emit(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, namespaces, 0, 1)
	p.answer(failing(unix.EPERM))
	p.answer(unix.SECCOMP_RET_ALLOW)
	// Characters pushed into a terminal's input, and the console's selection, are typed by whoever reads it next.
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_IOCTL, 0, 5)
	p.load(dataArg1)
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.TIOCSTI, 1, 0)
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.TIOCLINUX, 0, 1)
	p.answer(failing(unix.EPERM))
	p.answer(unix.SECCOMP_RET_ALLOW)
	p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_SOCKET, 1, 0)
	p.answer(unix.SECCOMP_RET_ALLOW)
	p.load(dataArg0)
	for _, f := range families {
		p.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, f, 0, 1)
		p.answer(unix.SECCOMP_RET_ALLOW)
	}
	p.answer(failing(unix.EAFNOSUPPORT))
	return p
}
