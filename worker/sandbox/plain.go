package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// plain launches commands in a session of their own and no sandbox.
type plain struct{}

type plainChild struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	gone bool
	end  *end // how it ended without having begun
}

func (plain) launch(s *Spec, stdin, stdout, stderr int) (child, error) {
	dir := filepath.Join(s.Root, s.Dir)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("working directory %s: %w", s.Dir, errors.Join(err, syscall.ENOTDIR))
	}
	path, err := lookPath(s, dir)
	if err != nil {
		return &plainChild{end: notStarted(s.Args[0], err)}, nil
	}
	attr := plainAttr()
	in, err := input(stdin)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := duplicate(stdout)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	errs, err := duplicate(stderr)
	if err != nil {
		return nil, err
	}
	defer errs.Close()
	c := &plainChild{cmd: &exec.Cmd{Path: path, Args: s.Args, Env: append([]string{}, s.Env...), Dir: dir,
		Stdin: in, Stdout: out, Stderr: errs, SysProcAttr: attr}}
	if err := c.cmd.Start(); err != nil {
		return &plainChild{end: notStarted(s.Args[0], err)}, nil
	}
	return c, nil
}

// input returns what a command reads: a copy of a descriptor, or nothing at all.
func input(fd int) (*os.File, error) {
	if fd < 0 {
		return os.Open(os.DevNull)
	}
	return duplicate(fd)
}

func duplicate(fd int) (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	n, err := syscall.Dup(fd)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(n)
	return os.NewFile(uintptr(n), "log"), nil
}

// notStarted says what a shell would: 127 for what is not there, 126 for what can't be executed.
func notStarted(name string, err error) *end {
	var errno syscall.Errno
	_ = errors.As(err, &errno)
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		return &end{code: 127, message: fmt.Sprintf("%s: command not found, or its interpreter is not there", name)}
	}
	return &end{code: 126, message: fmt.Sprintf("%s: can't be executed: %s", name, errno.Error())}
}

// candidates returns the files that a command's name may mean, in order: itself if it has a slash, else one in
// each directory of the environment's PATH.
func candidates(s *Spec) []string {
	name := s.Args[0]
	path := "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
	for _, v := range s.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	// Linux executes nothing with a longer name or a longer variable, and all combinations of those may be more than memory holds.
	if strings.Contains(name, "/") || len(name) > 255 || len(path) > 128<<10 {
		return []string{name}
	}
	var names []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		names = append(names, strings.TrimSuffix(dir, "/")+"/"+name)
	}
	return names
}

func lookPath(s *Spec, dir string) (string, error) {
	var denied error
	for _, name := range candidates(s) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		info, err := os.Stat(name)
		switch {
		case err != nil:
		case info.Mode().IsRegular() && info.Mode()&0o111 != 0:
			return name, nil
		default:
			denied = syscall.EACCES
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", syscall.ENOENT
}

func (c *plainChild) terminate()     { c.signal(syscall.SIGTERM); c.signal(syscall.SIGCONT) }
func (c *plainChild) kill()          { c.signal(syscall.SIGKILL) }
func (c *plainChild) root() *os.File { return nil }

// signal reaches the process group while its leader was not reaped, so its number means nobody else.
func (c *plainChild) signal(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil && !c.gone {
		_ = syscall.Kill(-c.cmd.Process.Pid, s)
	}
}

func (c *plainChild) wait() (end, error) {
	if c.end != nil {
		return *c.end, nil
	}
	awaitExit(c.cmd.Process.Pid)
	// The group is killed before its leader is reaped: until then no other group can have its number.
	if !mutant.LeftBehind {
		c.kill()
	}
	c.mu.Lock()
	c.gone = true
	err := c.cmd.Wait()
	c.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return end{}, err
	}
	state := c.cmd.ProcessState
	e := end{code: exitCode(state.Sys().(syscall.WaitStatus))}
	if u, ok := state.SysUsage().(*syscall.Rusage); ok {
		e.usage = usageOf(u)
	}
	return e, nil
}

func exitCode(w syscall.WaitStatus) int {
	if w.Signaled() {
		return 128 + int(w.Signal())
	}
	return w.ExitStatus()
}

func usageOf(u *syscall.Rusage) Usage {
	return Usage{
		User:        time.Duration(u.Utime.Nano()),
		System:      time.Duration(u.Stime.Nano()),
		MaxRSS:      int64(u.Maxrss) * maxRSSUnit,
		ReadBlocks:  int64(u.Inblock),
		WriteBlocks: int64(u.Oublock),
	}
}
