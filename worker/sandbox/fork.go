//go:build linux && (amd64 || arm64)

package sandbox

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A frame is the head of an action's image: all that its processes need between fork and exec. Places are counted from the frame.
type frame struct {
	clone  cloneArgs // of init
	build  scene     // init makes its surroundings
	inner  cloneArgs // of the command
	settle scene     // init, when the command's process is there
	enter  scene     // the command's process, before exec
	names  scene     // addresses of the files to execute: the first that is there
	argv   uintptr
	envv   uintptr

	// What the processes write.
	registers [registers]uintptr
	watch     uint64
	info      [16]uint64 // siginfo
	wait      uint64
	out       [4]uint32
	poll      unix.PollFd
	now       unix.Timespec
	pause     unix.Timespec
}

// cloneArgs is struct clone_args of clone3(2), its first version with a cgroup.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// The descriptors of an action's processes, until they close them.
const (
	fdZygote = iota // to the runner; the zygote's alone
	fdNull          // keeps its number taken, so that the standard streams come to lie below fdStatus
	fdView
	fdStatus // the first that comes with an action
	fdGate
	fdStdout
	fdStderr
	fdRoot
	fdMore // the network's, a pipe's for standard input, and the cgroup's, if there are any
)

// What the status pipe carries: four numbers, which of these first.
const (
	failedBuild  = iota + 1 // a call of frame.build: its index, its error
	failedSettle            // the same
	failedEnter             // the same
	failedInner             // the clone: -, its error
	failedExec              // -, its error
	ended                   // the command's wait status
)

// A report is one message of the status pipe.
type report struct{ kind, a, b uint32 }

func parseReport(b []byte) report {
	return report{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:])}
}

// initMain is the life of an action's init. It never returns.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func initMain(f *frame) {
	if i, e := play(f, &f.build); i >= 0 {
		say(f, failedBuild, uintptr(i), e)
		leave(1)
	}
	// The runner may have died before it was asked to be missed. Then nobody reads the pipe.
	syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&f.poll)), 1, uintptr(unsafe.Pointer(&f.now)), 0, 8, 0)
	if f.poll.Revents&unix.POLLERR != 0 {
		leave(1)
	}
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&f.inner)), unsafe.Sizeof(f.inner), 0, 0, 0, 0)
	if e != 0 {
		say(f, failedInner, 0, uintptr(e))
		leave(1)
	}
	if pid == 0 {
		commandMain(f)
	}
	if i, e := play(f, &f.settle); i >= 0 {
		say(f, failedSettle, uintptr(i), e)
		leave(1)
	}
	for {
		signal, _, _ := syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&f.watch)), uintptr(unsafe.Pointer(&f.info)), 0, 8, 0, 0)
		// Only the runner's SIGTERM counts: it comes from outside the namespace, where senders have no number.
		if signal == uintptr(unix.SIGTERM) && uint32(f.info[2]) == 0 {
			everybody := ^uintptr(0)
			syscall.RawSyscall(unix.SYS_KILL, everybody, uintptr(unix.SIGTERM), 0)
			syscall.RawSyscall(unix.SYS_KILL, everybody, uintptr(unix.SIGCONT), 0)
		}
		for {
			got, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&f.wait)), unix.WNOHANG, 0, 0, 0)
			if e != 0 || got == 0 {
				break
			}
			if got == pid {
				say(f, ended, uintptr(f.wait), 0)
				leave(0)
			}
		}
	}
}

// commandMain is the life of the command's process before it executes the command. It never returns.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func commandMain(f *frame) {
	if i, e := play(f, &f.enter); i >= 0 {
		say(f, failedEnter, uintptr(i), e)
		leave(1)
	}
	if f.names.count == 0 {
		leave(0) // a probe
	}
	why := uintptr(unix.ENOENT)
	for i, tries := uintptr(0), 0; i < f.names.count; i++ {
		name := *(*uintptr)(unsafe.Add(unsafe.Pointer(f), f.names.at+i*8))
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, name, f.argv, f.envv)
		if e == unix.ENOENT || e == unix.ENOTDIR {
			continue
		}
		if e == unix.ETXTBSY && tries < 100 {
			// The worker forks once, to start the runner, and what it was writing then is open until that executes.
			syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&f.pause)), 0, 0)
			tries++
			i--
			continue
		}
		why = uintptr(e)
		if e != unix.EACCES {
			break
		}
	}
	say(f, failedExec, 0, why)
	leave(127)
}

// say writes to the status pipe.
//
//go:nosplit
//go:norace
func say(f *frame, kind, a, b uintptr) {
	f.out = [4]uint32{uint32(kind), uint32(a), uint32(b)}
	syscall.RawSyscall(unix.SYS_WRITE, fdStatus, uintptr(unsafe.Pointer(&f.out)), unsafe.Sizeof(f.out))
}

//go:nosplit
//go:norace
func leave(code uintptr) {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
}
