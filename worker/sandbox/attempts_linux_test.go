//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// helper makes one attempt, inside, and prints what came of it.
func helper(name string) int {
	f := attempts[name]
	if f == nil {
		fmt.Println("no such attempt:", name)
		return 1
	}
	fmt.Print(f(os.Args[1:]))
	return 0
}

var attempts = map[string]func(args []string) string{
	"processes": func([]string) string {
		for range 1000 {
			if err := exec.Command("/bin/sleep", "100").Start(); err != nil {
				return names(err)
			}
		}
		return "a thousand"
	},
	"ptrace": func([]string) string {
		return names(call3(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1, 0))
	},
	"terminal": func([]string) string {
		_, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		c := byte('x')
		return names(err, call3(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c))))
	},
	"limits": func([]string) string {
		up := func(resource int) error { return unix.Setrlimit(resource, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40}) }
		return names(up(unix.RLIMIT_NOFILE), up(unix.RLIMIT_NPROC), up(unix.RLIMIT_CORE))
	},
	"memory": func([]string) string {
		var all [][]byte
		for range 64 << 10 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		return fmt.Sprint(len(all))
	},
	"files": func([]string) string {
		if err := os.Mkdir("many", 0o755); err != nil {
			return err.Error()
		}
		for i := range manyFiles() {
			fd, err := unix.Open(fmt.Sprintf("many/%d", i), unix.O_CREAT|unix.O_WRONLY, 0o644)
			if err != nil {
				return err.Error()
			}
			_ = unix.Close(fd)
		}
		return "made"
	},
	"dial": func(args []string) string {
		var errs []error
		for _, a := range args {
			_, err := net.DialTimeout("tcp", a, 5*time.Second)
			errs = append(errs, err)
		}
		return names(errs...)
	},
	"loopback": func([]string) string {
		l, err := net.Listen("tcp", "127.0.0.1:8980")
		if err != nil {
			return err.Error()
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		c, err := net.Dial("tcp", "127.0.0.1:8980")
		if err != nil {
			return err.Error()
		}
		text, _ := io.ReadAll(c)
		return string(text)
	},
	"abstract": func(args []string) string {
		_, err := net.Dial("unix", args[0])
		return names(err)
	},
	"sockets": func([]string) string {
		var errs []error
		for _, family := range []int{unix.AF_VSOCK, unix.AF_ALG, unix.AF_PACKET} {
			_, err := unix.Socket(family, unix.SOCK_STREAM, 0)
			errs = append(errs, err)
		}
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		return names(append(errs, err)...)
	},
	"mount": func([]string) string {
		_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
		return names(unix.Mount("t", "/tmp", "tmpfs", 0, ""), unix.Unmount("/proc", unix.MNT_DETACH), err, unix.Chroot("/tmp"))
	},
	"namespaces": func([]string) string {
		fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			return err.Error()
		}
		var args [88]byte
		*(*uint64)(unsafe.Pointer(&args)) = unix.CLONE_NEWUSER
		return names(unix.Unshare(unix.CLONE_NEWUSER), unix.Setns(fd, 0),
			call3(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0), call3(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), 88, 0))
	},
	"calls": func([]string) string {
		var errs []error
		for _, n := range []uintptr{unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
			unix.SYS_PERF_EVENT_OPEN, unix.SYS_INIT_MODULE, unix.SYS_OPEN_BY_HANDLE_AT} {
			errs = append(errs, call3(n, 0, 0, 0))
		}
		return names(errs...)
	},
	"users": func([]string) string {
		return names(syscall.Setuid(0), call3(unix.SYS_SETGROUPS, 0, 0, 0))
	},
	"memory segment": func([]string) string {
		return strings.ReplaceAll(names(call3(unix.SYS_SHMGET, 4711, 4096, unix.IPC_CREAT|0o666)), "nothing", "made")
	},
	"find memory segment": func([]string) string { return names(call3(unix.SYS_SHMGET, 4711, 4096, 0)) },
}

func call3(n, a, b, c uintptr) error {
	if _, _, e := unix.Syscall6(n, a, b, c, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// names returns the names of errors.
func names(errs ...error) string {
	var list []string
	for _, err := range errs {
		var errno syscall.Errno
		switch {
		case err == nil:
			list = append(list, "nothing")
		case errors.As(err, &errno):
			list = append(list, unix.ErrnoName(errno))
		default:
			list = append(list, err.Error())
		}
	}
	return strings.Join(list, " ")
}

// manyFiles is the same inside, where the attempt is made, and outside.
func manyFiles() int {
	if os.Getenv("SANDBOX_SHORT") != "" {
		return 10_000
	}
	return 100_000
}

func testLandlock() int {
	v, _ := landlockVersion()
	return v
}
