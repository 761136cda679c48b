//go:build linux && (amd64 || arm64)

package sandbox

import (
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is who an action is in its own user namespace.
func (j *jail) inside() int {
	if j.options.Chroot {
		return 0
	}
	return insideUser
}

// rootCapabilities are what root keeps there: to read and write its own files whatever their mode says, as inputs have none that
// lets anybody write. In a namespace of one user it is about no others' files.
const rootCapabilities = 1 << unix.CAP_DAC_OVERRIDE

// places are the directories of a root where an action gets something of its own.
var places = []string{"dev", "proc", "tmp"}

// makePlaces makes the places that are missing in top, and notes them: they are no outputs.
func (c *jailChild) makePlaces(top int) error {
	for _, name := range places {
		err := unix.Mkdirat(top, name, 0o755)
		if err == nil {
			c.places = append(c.places, name)
			continue
		}
		if err != unix.EEXIST {
			return fmt.Errorf("make /%s in the action's root: %w", name, err)
		}
		// A link would have the mount land somewhere else.
		var s unix.Stat_t
		if err := unix.Fstatat(top, name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if s.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("%w: its /%s is no directory", errPlace, name)
		}
	}
	return nil
}

// removePlaces removes what makePlaces made. Mounts lay over it, so it is as it was.
func (c *jailChild) removePlaces() {
	top, prefix := unix.AT_FDCWD, c.host+"/"
	if c.merged != nil {
		top, prefix = int(c.merged.Fd()), ""
	}
	for _, name := range c.places {
		_ = unix.Unlinkat(top, prefix+name, unix.AT_REMOVEDIR)
	}
	c.places = nil
}

// newOwners returns a user namespace in which the worker's user stands for the actions' user: a mount with these owners shows
// staged files, which are the worker's, as the actions' own.
func newOwners(user int) (int, error) {
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: user, Size: 1}}
	self, err := executable()
	if err != nil {
		return -1, err
	}
	cmd := &exec.Cmd{Path: self, Args: []string{runnerName, holder},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: one, GidMappings: one}}
	hold, err := cmd.StdinPipe() // it lives until this is closed
	if err != nil {
		return -1, err
	}
	if err := cmd.Start(); err != nil {
		return -1, fmt.Errorf("user namespace: %w", err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	_ = hold.Close()
	_ = cmd.Wait()
	return fd, err
}

// ownedOverlay is overlay where the files in root look like the actions' own.
func ownedOverlay(root, layers string, user, owners int) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(owners)}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, fmt.Errorf("map owners: %w", err)
	}
	// An overlay is made of what has a path. Nobody else sees this one: the runner's mounts are its own.
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("place the mapped root: %w", err)
	}
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	return overlay(root, layers, user)
}
