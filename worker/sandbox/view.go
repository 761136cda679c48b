//go:build linux && (amd64 || arm64)

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// systemDirectories are what actions see of the host. The rest, homes and /var and /run among it, is not there.
var systemDirectories = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu"}

var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

const hostname = "sarsen"

// The user inside. A number that no file of the host maps to keeps staged files, which are the daemon's, from looking
// like the action's own.
const insideUser = 1000

const passwd = "root:x:0:0:root:/:/usr/sbin/nologin\nbuild:x:1000:1000:build:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"

const group = "root:x:0:\nbuild:x:1000:\nnogroup:x:65534:\n"

// inThread runs f in a thread that ends afterwards, so that f may leave the namespaces of this process. It is never the
// first thread, which does not end and which /proc/self stands for.
func inThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err := inThread(f) // in another one, since this one is taken
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // still locked, the thread ends with this goroutine
	}()
	return <-done
}

// newView builds what is the same for every action in a mount namespace of its own, and returns that. Each
// action copies it, which is cheaper than making it, and does not copy the host's mounts.
func newView(o Options) (int, error) {
	fd := -1
	err := inThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("private mounts: %w", err)
		}
		if err := build(o); err != nil {
			return err
		}
		var err error
		fd, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
		return enterView()
	})
	return fd, err
}

// stage is where the view is put together; the host always has it.
const stage = "/tmp"

// A graft is a mount of the host that was cloned before the stage covers what it came from.
type graft struct {
	fd   int
	name string
	dir  bool
	attr uint64
}

// build puts the view together at stage, and writes nothing to the host.
func build(o Options) error {
	grafts, links, err := grafts(o)
	defer func() {
		for _, g := range grafts {
			_ = unix.Close(g.fd)
		}
	}()
	if err != nil {
		return err
	}
	if err := unix.Mount("view", stage, "tmpfs", unix.MS_NOSUID, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount the view: %w", err)
	}
	for _, dir := range []string{"/proc", "/tmp", "/var", "/dev/shm", "/empty", Home} {
		if err := os.MkdirAll(stage+dir, 0o755); err != nil {
			return err
		}
	}
	links["/var/tmp"] = "/tmp"
	links["/dev/fd"] = "/proc/self/fd"
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		links["/dev/"+name] = fmt.Sprintf("/proc/self/fd/%d", i)
	}
	for name, target := range links {
		if err := os.MkdirAll(filepath.Dir(stage+name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, stage+name); err != nil {
			return err
		}
	}
	for _, g := range grafts {
		if err := g.place(); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	if err := cover(o); err != nil {
		return err
	}
	// The root itself holds only places for mounts. The places stay writable mounts where an action has its own.
	return unix.MountSetattr(unix.AT_FDCWD, stage, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID})
}

// grafts clones what is wanted of the host. Symlinks among the system directories stay symlinks.
func grafts(o Options) ([]graft, map[string]string, error) {
	links := map[string]string{}
	var list []graft
	add := func(name string, attr uint64) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("clone the mount of %s: %w", name, err)
		}
		var s unix.Stat_t
		if err := unix.Fstat(fd, &s); err != nil {
			return err
		}
		list = append(list, graft{fd, name, s.Mode&unix.S_IFMT == unix.S_IFDIR, attr})
		return nil
	}
	const readOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID
	names := slices.Concat(systemDirectories, o.Binds)
	if o.Chroot {
		names = nil // there is nowhere to see it
	}
	// Where /etc/resolv.conf is a link into /run, its target is what actions with a network need.
	if target, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && !o.Chroot && !slices.ContainsFunc(names, func(d string) bool { return below(target, d) }) {
		names = append(names, target)
	}
	for _, name := range names {
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, os.ErrNotExist) && !slices.Contains(o.Binds, name):
			continue
		case err != nil:
			return list, links, err
		case info.Mode()&os.ModeSymlink != 0:
			if links[name], err = os.Readlink(name); err != nil {
				return list, links, err
			}
			continue
		}
		if err := add(name, readOnly|unix.MOUNT_ATTR_NODEV); err != nil {
			return list, links, err
		}
	}
	for _, name := range devices {
		if err := add("/dev/"+name, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return list, links, err
		}
	}
	return list, links, nil
}

// below reports whether name is dir or lies in it.
func below(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

func (g graft) place() error {
	at := stage + g.name
	if err := makePlace(at, g.dir); err != nil {
		return err
	}
	if err := unix.MoveMount(g.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: g.attr}); err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return nil
}

// makePlace makes a file or directory to mount on, if there is none.
func makePlace(name string, dir bool) error {
	if _, err := os.Lstat(name); err == nil {
		return nil
	}
	if dir {
		return os.MkdirAll(name, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, nil, 0o444)
}

// cover puts something else over what of the system directories actions should not see: the host's users, and
// what the worker's configuration hides.
func cover(o Options) error {
	const empty = stage + "/empty"
	over := func(source, name string) error {
		if _, err := os.Lstat(stage + name); err != nil {
			return nil // nothing to hide
		}
		if err := unix.Mount(source, stage+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", name, err)
		}
		return unix.MountSetattr(unix.AT_FDCWD, stage+name, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID})
	}
	files := []struct{ source, name, text string }{
		{"passwd", "/etc/passwd", passwd}, {"group", "/etc/group", group}, {"none", "/etc/shadow", ""},
		{"none", "/etc/gshadow", ""},
	}
	for _, f := range files {
		if err := os.WriteFile(empty+"."+f.source, []byte(f.text), 0o444); err != nil {
			return err
		}
		if err := over(empty+"."+f.source, f.name); err != nil {
			return err
		}
	}
	for _, name := range o.Hides {
		real, err := filepath.EvalSymlinks(name)
		if err != nil {
			continue // not there, so nothing to hide
		}
		source := empty + ".none"
		if info, err := os.Stat(real); err == nil && info.IsDir() {
			source = empty
		}
		if err := over(source, real); err != nil {
			return err
		}
	}
	return nil
}

// enterView makes the stage the root of this thread's namespace and lets go of the host.
func enterView() error {
	if err := unix.Chdir(stage); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root lies on top of the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host: %w", err)
	}
	return nil
}
