//go:build linux && (amd64 || arm64)

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A jailChild is one command in its sandbox.
type jailChild struct {
	jail    *jail
	name    string
	steps   [3][]step // of build, settle, enter
	status  *os.File
	layers  string   // the overlay's own directory
	merged  *os.File // the overlay's root
	host    string   // the root's name on the host
	places  []string // what was made in the root to mount something on
	network int      // taken from the pool, or -1
	group   *cgroupChild

	mu  sync.Mutex
	pid int // of its init on the host; 0 when it was reaped
}

// start prepares all that needs a path of the host, has init forked, and closes what that has by now.
func (c *jailChild) start(s *Spec, stdin, stdout, stderr int) error {
	j := c.jail
	root, err := c.openRoot(s)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if j.options.Chroot {
		if err := c.makePlaces(root); err != nil {
			return err
		}
	}
	gate, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(gate)
	read, status, err := pipe()
	if err != nil {
		return err
	}
	c.status = os.NewFile(uintptr(read), "status")
	defer unix.Close(status)
	fds := []int{status, gate, stdout, stderr, root}
	b := &builder{jail: j, spec: s, stdin: -1}
	if !s.Network && !j.without[ownNetwork] && !mutant.NetworkShared {
		if c.network, err = j.networks.take(); err != nil {
			return err
		}
		b.network = true
		fds = append(fds, c.network)
	}
	if stdin >= 0 {
		b.stdin = fdStatus + len(fds)
		fds = append(fds, stdin)
	}
	group := 0
	if !j.without[groupLimits] {
		if c.group, err = j.cgroup.child(s); err != nil {
			return err
		}
		group = fdStatus + len(fds)
		fds = append(fds, c.group.fd)
	}
	m := b.image(group)
	c.steps = b.steps
	if c.pid, err = j.zygote.fork(m, fds); err != nil {
		return &failure{base, "fork into namespaces", err}
	}
	return nil
}

// openRoot returns the mount of what the action sees as its root.
func (c *jailChild) openRoot(s *Spec) (int, error) {
	j, overlaid := c.jail, c.jail.overlays() && !s.Private && !mutant.FilesOwned
	c.host = s.Root
	if j.asRoot && !overlaid && !s.Owned {
		if err := own(s.Root, j.options.User); err != nil {
			return -1, err
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !overlaid {
		fd, err := unix.OpenTree(unix.AT_FDCWD, s.Root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return -1, fmt.Errorf("open the action's root: %w", err)
		}
		attr.Propagation = unix.MS_PRIVATE
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("the action's root: %w", err)
		}
		return fd, nil
	}
	c.layers = s.Root + OverlaySuffix
	var fd int
	var err error
	why := filesOverlay
	if j.asRoot {
		why = ownInputs
		fd, err = ownedOverlay(s.Root, c.layers, j.options.User, j.owners)
	} else {
		fd, err = overlay(s.Root, c.layers, 0)
	}
	if err != nil {
		return -1, &failure{why, "overlay", err}
	}
	root, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	c.merged = os.NewFile(uintptr(root), s.Root)
	return fd, nil
}

func (c *jailChild) terminate() { c.signal(unix.SIGTERM) }

func (c *jailChild) kill() { c.signal(unix.SIGKILL) }

// signal signals init while it was not reaped, so its number means nobody else.
func (c *jailChild) signal(n unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pid > 0 {
		_ = unix.Kill(c.pid, n)
	}
}

func (c *jailChild) root() *os.File { return c.merged }

// wait reads the status pipe to its end, which is the end of init, and reaps it. The kernel lets a pid namespace's init
// end only when all the others in it are gone.
func (c *jailChild) wait() (end, error) {
	var reports []report
	var b [16]byte
	for {
		if _, err := io.ReadFull(c.status, b[:]); err != nil {
			break
		}
		reports = append(reports, parseReport(b[:]))
	}
	var usage syscall.Rusage
	var status syscall.WaitStatus
	awaitExit(c.pid)
	c.mu.Lock()
	pid := c.pid
	c.pid = 0
	_, err := syscall.Wait4(pid, &status, 0, &usage)
	c.mu.Unlock()
	e := end{usage: usageOf(&usage), code: 128 + int(unix.SIGKILL)}
	if c.group != nil && c.group.outOfMemory() {
		e.killed, e.message = "memory", fmt.Sprintf("killed: it used more memory than the %d bytes that it may", c.group.memory)
	}
	c.release()
	if err != nil {
		return e, fmt.Errorf("wait: %w", err)
	}
	for _, r := range reports {
		switch r.kind {
		case failedBuild, failedSettle, failedEnter:
			s := c.steps[r.kind-failedBuild][r.a]
			return e, &failure{s.part, s.name, syscall.Errno(r.b)}
		case failedInner:
			return e, &failure{ownUser, "fork the command", syscall.Errno(r.b)}
		case failedExec:
			n := notStarted(c.name, syscall.Errno(r.b))
			n.usage = e.usage
			return *n, nil
		case ended:
			e.code = exitCode(syscall.WaitStatus(r.a))
		}
	}
	return e, nil
}

// release gives back what later actions use again.
func (c *jailChild) release() {
	if c.status != nil {
		_ = c.status.Close()
	}
	if c.network >= 0 {
		c.jail.networks.give(c.network)
		c.network = -1
	}
	if c.group != nil {
		c.group.remove()
		c.group = nil
	}
	c.removePlaces()
	if c.layers != "" {
		// The kernel made it so that its owner could not remove what is in it.
		_ = os.Chmod(c.layers+"/work/work", 0o700)
	}
}

// own gives every directory below root, and none of the files, to a user. Files are links that others share.
func own(root string, user int) error {
	var walk func(dir int, name string) error
	walk = func(at int, name string) error {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if err := unix.Fchown(fd, user, user); err != nil {
			return fmt.Errorf("chown %s: %w", name, err)
		}
		for {
			entries, err := f.ReadDir(1024)
			for _, e := range entries {
				if mutant.FilesOwned {
					_ = unix.Fchownat(fd, e.Name(), user, user, unix.AT_SYMLINK_NOFOLLOW)
				}
				if e.IsDir() {
					if err := walk(fd, e.Name()); err != nil {
						return err
					}
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	return walk(unix.AT_FDCWD, root)
}
