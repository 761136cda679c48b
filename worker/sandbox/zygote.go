//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A zygote is a process that forks the init of each action. It is a copy of the runner that let go of nearly all memory:
// to fork copies the tables of all memory, twice for each action, and a Go program has so much of it that this
// would take longer than all the rest. It speaks no Go: a loop of system calls.
//
// It gets an image and descriptors over a socket, forks, and answers with the number of the new process, which is
// the runner's child. It has one thread and keeps no descriptors, so no action gets another's.
type zygote struct {
	mu    sync.Mutex
	fd    int
	board []byte // where images will lie in the zygote; here, nothing is written to it after the fork
}

const (
	boardSize   = 16 << 20 // Linux executes nothing whose arguments take more than 6 MiB
	boardHead   = 64 << 10 // the zygote's own
	stackKept   = 64 << 10 // bytes of what its stack lies in that the zygote keeps on either side
	maxRelease  = 2000
	maxCarriage = 16 // descriptors
)

// A board is the zygote's own memory.
type board struct {
	socket, null, view uintptr
	all, old           uint64
	releases           uintptr
	release            [maxRelease][2]uintptr // from, to
	head               [2]uintptr             // of a message: how long the image is, -
	vector             unix.Iovec
	message            unix.Msghdr
	control            [256]byte
	answer             int64
}

// newZygote forks the zygote from a thread that stays until the runner ends: death signals are bound to the thread whose
// child one is.
func newZygote(null, view int) (*zygote, error) {
	memory, err := unix.Mmap(-1, 0, boardSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[1])
	z := &zygote{fd: pair[0], board: memory}
	b := (*board)(unsafe.Pointer(&memory[0]))
	b.socket, b.null, b.view, b.all = uintptr(pair[1]), uintptr(null), uintptr(view), ^uint64(0)
	b.vector = unix.Iovec{Base: (*byte)(unsafe.Pointer(&b.head)), Len: uint64(unsafe.Sizeof(b.head))}
	b.message = unix.Msghdr{Iov: &b.vector, Iovlen: 1, Control: &b.control[0], Controllen: uint64(len(b.control))}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := b.plan(uintptr(unsafe.Pointer(b))); err != nil {
			done <- err
			return
		}
		_, errno := forkZygote(b)
		if errno != 0 {
			done <- syscall.Errno(errno)
			return
		}
		done <- nil
		select {}
	}()
	return z, <-done
}

// plan notes which memory the zygote lets go of: all but the program itself, the board, and of what its stack lies in
// that part.
func (b *board) plan(kept uintptr) error {
	if !trim {
		return nil
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		var from, to uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
			return err
		}
		named := len(fields) > 5 && fields[5] != "[heap]" && fields[5] != "[stack]" && !strings.HasPrefix(fields[5], "[anon")
		if !named && (kept < from || to <= kept) && b.releases < maxRelease {
			b.release[b.releases] = [2]uintptr{from, to}
			b.releases++
		}
	}
	return nil
}

// forkZygote forks with all signals blocked, so that no handler of Go's ever runs in the child.
//
//go:nosplit
//go:noinline
//go:norace
func forkZygote(b *board) (pid, errno uintptr) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.all)), uintptr(unsafe.Pointer(&b.old)), 8, 0, 0)
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		zygoteMain(b)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&b.old)), 0, 8, 0, 0)
	return pid, uintptr(e)
}

// zygoteMain is the life of the zygote. It never returns: it ends when the runner's socket does.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func zygoteMain(b *board) {
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	// What is wanted may lie where something else wants to be, so it goes up before it comes down.
	const high = 200
	move := func(from, to uintptr) { syscall.RawSyscall(unix.SYS_DUP3, from, to, 0) }
	move(b.socket, high+fdZygote)
	move(b.null, high+fdNull)
	move(b.view, high+fdView)
	move(high+fdZygote, fdZygote)
	move(high+fdNull, fdNull)
	move(high+fdView, fdView)
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, fdStatus, uintptr(^uint32(0)), 0)
	var here byte
	stack := uintptr(unsafe.Pointer(&here)) &^ (stackKept - 1)
	for i := uintptr(0); i < b.releases; i++ {
		from, to := b.release[i%maxRelease][0], b.release[i%maxRelease][1]
		if from <= stack && stack < to {
			unmap(from, stack-stackKept)
			unmap(stack+2*stackKept, to)
			continue
		}
		unmap(from, to)
	}
	f := (*frame)(unsafe.Add(unsafe.Pointer(b), boardHead))
	for {
		receive(b)
		pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&f.clone)), unsafe.Sizeof(f.clone), 0, 0, 0, 0)
		if e == 0 && pid == 0 {
			initMain(f)
		}
		b.answer = int64(pid)
		if e != 0 {
			b.answer = -int64(e)
		}
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, fdStatus, uintptr(^uint32(0)), 0)
		syscall.RawSyscall(unix.SYS_WRITE, fdZygote, uintptr(unsafe.Pointer(&b.answer)), 8)
	}
}

//go:nosplit
//go:norace
func unmap(from, to uintptr) {
	if from < to {
		syscall.RawSyscall(unix.SYS_MUNMAP, from, to-from, 0)
	}
}

// receive gets an image to its place, and its descriptors, which take the lowest numbers that are free.
//
//go:nosplit
//go:norace
//go:nocheckptr
func receive(b *board) {
	n, _, e := syscall.RawSyscall(unix.SYS_RECVMSG, fdZygote, uintptr(unsafe.Pointer(&b.message)), 0)
	if e != 0 || n != unsafe.Sizeof(b.head) || b.head[0] > boardSize-boardHead {
		leave(1)
	}
	b.message.Controllen = uint64(len(b.control)) // which the kernel changed
	for got := uintptr(0); got < b.head[0]; {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, fdZygote, uintptr(unsafe.Pointer(b))+boardHead+got, b.head[0]-got)
		if e != 0 || n == 0 {
			leave(1)
		}
		got += n
	}
}

// image returns an empty image with room for its frame.
func (z *zygote) image() *image {
	m := &image{at: uintptr(unsafe.Pointer(&z.board[boardHead])), bytes: make([]byte, 0, 32<<10)}
	m.put(raw(frame{}))
	return m
}

var errTooLong = errors.New("more arguments than can be executed")

// fork has an init forked with these descriptors, and returns its process number.
func (z *zygote) fork(m *image, fds []int) (int, error) {
	if len(m.bytes) > boardSize-boardHead {
		return 0, errTooLong
	}
	if len(fds) > maxCarriage {
		return 0, fmt.Errorf("%d descriptors", len(fds))
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if err := unix.Sendmsg(z.fd, raw([2]uintptr{uintptr(len(m.bytes))}), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, z.died(err)
	}
	for rest := m.bytes; len(rest) > 0; {
		n, err := unix.Write(z.fd, rest)
		if err != nil {
			return 0, z.died(err)
		}
		rest = rest[n:]
	}
	var answer [8]byte
	for got := 0; got < len(answer); {
		n, err := unix.Read(z.fd, answer[got:])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return 0, z.died(err)
		}
		got += n
	}
	pid := *(*int64)(unsafe.Pointer(&answer))
	if pid < 0 {
		return 0, syscall.Errno(-pid)
	}
	return int(pid), nil
}

// died ends this process: the worker starts another one.
func (z *zygote) died(err error) error {
	fmt.Fprintf(os.Stderr, "%s: its zygote died: %v\n", runnerName, err)
	os.Exit(1)
	return err
}
