//go:build linux && (amd64 || arm64)

package sandbox

import (
	"fmt"
	"os"
	"path"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A builder writes the scripts of one action.
type builder struct {
	jail    *jail
	spec    *Spec
	network bool // a network namespace comes with it
	stdin   int  // the number of the descriptor that becomes standard input; -1 for an empty one
	steps   [3][]step
}

// image writes all that the action's processes need. group is the number of its cgroup's descriptor, or 0.
func (b *builder) image(group int) *image {
	m := b.jail.zygote.image()
	f := frame{watch: 1<<(unix.SIGCHLD-1) | 1<<(unix.SIGTERM-1), poll: unix.PollFd{Fd: fdStatus}, pause: unix.Timespec{Nsec: 10e6}}
	f.clone.flags = unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_PARENT
	if group > 0 {
		f.clone.flags |= unix.CLONE_INTO_CGROUP
		f.clone.cgroup = uint64(group)
	}
	f.inner.exitSignal = uint64(unix.SIGCHLD)
	if !b.jail.without[ownUser] {
		f.inner.flags = unix.CLONE_NEWUSER
	}
	for i, write := range []func(*script){b.build, b.settle, b.enter} {
		s := &script{image: m}
		write(s)
		b.steps[i] = s.steps
		*[]*scene{&f.build, &f.settle, &f.enter}[i] = s.scene()
	}
	if len(b.spec.Args) > 0 {
		names := candidates(b.spec)
		f.names = scene{m.texts(names) - m.at, uintptr(len(names))}
		f.argv, f.envv = m.texts(b.spec.Args), m.texts(b.spec.Env)
	}
	copy(m.bytes, raw(f))
	return m
}

// build is what init does first: leave the runner's descriptors and the host's mounts behind.
func (b *builder) build(s *script) {
	j := b.jail
	s.add("die with the runner", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL))
	s.add("session", unix.SYS_SETSID)
	s.add("close descriptors", unix.SYS_CLOSE, fdZygote)
	const fs, proc = register(0), register(1)
	if !j.without[freshProc] {
		s.part = freshProc
		s.add("proc", unix.SYS_FSOPEN, "proc", unix.FSOPEN_CLOEXEC).to(fs)
		s.add("make proc", unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
		// The kernel refuses here if the host's own /proc is partly covered, as in containers. So it must still be in sight.
		s.add("mount proc", unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC).to(proc)
	}
	if b.network {
		s.part = ownNetwork
		s.add("enter the network namespace", unix.SYS_SETNS, fdMore, unix.CLONE_NEWNET)
	}
	s.part = base
	s.add("enter the view", unix.SYS_SETNS, fdView, unix.CLONE_NEWNS)
	s.add("copy the view", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	s.add("place "+Home, unix.SYS_MOVE_MOUNT, fdRoot, "", unix.AT_FDCWD, Home, unix.MOVE_MOUNT_F_EMPTY_PATH)
	top := ""
	if j.options.Chroot {
		top = Home
		s.add("place dev", unix.SYS_MOUNT, "/dev", top+"/dev", 0, unix.MS_BIND|unix.MS_REC, 0)
	}
	if !j.without[freshProc] {
		s.add("place proc", unix.SYS_MOVE_MOUNT, proc, "", unix.AT_FDCWD, top+"/proc", unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	temp := fmt.Sprintf("mode=1777,size=%d", j.options.Temp)
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		s.add("mount "+dir, unix.SYS_MOUNT, "tmp", top+dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, temp)
	}
	if j.options.Chroot {
		s.add("enter the root", unix.SYS_CHDIR, Home)
		s.add("change the root", unix.SYS_PIVOT_ROOT, ".", ".")
		s.add("leave the view", unix.SYS_UMOUNT2, ".", unix.MNT_DETACH) // it lies on top of the new root now
	}
	s.add("umask", unix.SYS_UMASK, 0o022)
}

// settle is what init does when the command's process waits at the gate: it is number 2, the first after init.
func (b *builder) settle(s *script) {
	if !b.jail.without[ownUser] {
		s.part = ownUser
		outside := 0 // the runner's own user, in its namespace
		if b.jail.asRoot {
			outside = b.jail.options.User
		}
		line := fmt.Sprintf("%d %d 1", b.jail.inside(), outside)
		const file = register(0)
		for _, name := range []string{"/proc/2/uid_map", "/proc/2/gid_map"} {
			s.add("open "+name, unix.SYS_OPENAT, unix.AT_FDCWD, name, unix.O_WRONLY|unix.O_CLOEXEC).to(file)
			s.add("write "+name, unix.SYS_WRITE, file, line, len(line))
			s.add("close "+name, unix.SYS_CLOSE, file)
		}
	}
	s.part = base
	// Nobody may read init's memory, a copy of the runner's, not even where it has the action's user on the host.
	s.add("hide memory", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	s.add("open the gate", unix.SYS_WRITE, fdGate, raw(uint64(1)), 8)
	s.add("close descriptors", unix.SYS_CLOSE_RANGE, 0, fdStatus-1, 0)
	s.add("close descriptors", unix.SYS_CLOSE_RANGE, fdStatus+1, int(^uint32(0)), 0)
}

// enter is what the command's process does before it executes the command: it gives up, one after the other, all that it does not need.
func (b *builder) enter(s *script) {
	j := b.jail
	s.add("session", unix.SYS_SETSID)
	if b.stdin < 0 {
		// The view's, so that it can be opened once more as /dev/stdin: the host's lies outside of all that is granted.
		const null = register(0)
		s.add("open /dev/null", unix.SYS_OPENAT, unix.AT_FDCWD, os.DevNull, unix.O_RDONLY).to(null)
		s.add("standard input", unix.SYS_DUP3, null, 0, 0)
	} else {
		s.add("standard input", unix.SYS_DUP3, b.stdin, 0, 0)
	}
	for i, fd := range []int{fdStdout, fdStderr} {
		s.add("standard streams", unix.SYS_DUP3, fd, i+1, 0)
	}
	s.add("wait at the gate", unix.SYS_READ, fdGate, raw(uint64(0)), 8)
	s.add("close descriptors", unix.SYS_CLOSE_RANGE, 3, int(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	kept := b.keeps()
	for n := range j.caps {
		if kept&(1<<n) != 0 {
			continue
		}
		s.add("drop capabilities", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n)
	}
	b.changeUser(s)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	s.add("drop capabilities", unix.SYS_CAPSET, raw(header), raw([2]unix.CapUserData{{Effective: kept, Permitted: kept}}))
	if !j.without[freshProc] {
		// Where memory runs out and no cgroup bounds it, an action goes before anything else does.
		const file = register(0)
		s.add("own proc files", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)
		s.add("open oom_score_adj", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC).to(file)
		s.add("write oom_score_adj", unix.SYS_WRITE, file, "1000", 4)
	}
	b.limit(s)
	if !mutant.PrivilegesGained {
		s.add("no new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	s.add("working directory "+b.spec.Dir, unix.SYS_CHDIR, path.Join(j.options.home(), b.spec.Dir))
	if !j.without[secondFence] && !mutant.PrivilegesGained {
		s.part = secondFence
		addLandlock(s, j.landlock, fdGate, j.options.Chroot)
	}
	if !j.without[callFilter] && !mutant.PrivilegesGained {
		s.part = callFilter
		size := len(j.filter) * int(unsafe.Sizeof(j.filter[0]))
		filter := s.image.put(unsafe.Slice((*byte)(unsafe.Pointer(&j.filter[0])), size))
		program := [2]uintptr{uintptr(len(j.filter)), filter} // struct sock_fprog
		s.add("seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, raw(program))
	}
	s.part = base
	s.add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, raw(uint64(0)), 0, 8)
}

// keeps returns the capabilities of the command, of the first 32. Outside of a user namespace of its own they would be about the host.
func (b *builder) keeps() uint32 {
	if b.jail.options.Chroot && !b.jail.without[ownUser] {
		return rootCapabilities
	}
	return 0
}

func (b *builder) changeUser(s *script) {
	user := b.jail.inside()
	switch {
	case !b.jail.without[ownUser]:
		s.part = ownUser
	case b.jail.asRoot:
		user = b.jail.options.User
	default:
		return // no other user can be had
	}
	if b.jail.asRoot {
		s.add("drop groups", unix.SYS_SETGROUPS, 0, 0)
	}
	s.add("change group", unix.SYS_SETRESGID, user, user, user)
	s.add("change user", unix.SYS_SETRESUID, user, user, user)
	s.part = base
}

func (b *builder) limit(s *script) {
	set := func(name string, resource int, n uint64) {
		s.add("limit "+name, unix.SYS_PRLIMIT64, 0, resource, raw(unix.Rlimit{Cur: n, Max: n}), 0)
	}
	set("core dumps", unix.RLIMIT_CORE, 0)
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		set("open files", unix.RLIMIT_NOFILE, min(uint64(b.spec.Files), files.Max))
	}
	// In a user namespace of its own an action's processes are counted by themselves.
	set("processes", unix.RLIMIT_NPROC, uint64(b.spec.Pids))
	if b.spec.Memory > 0 && (b.jail.without[groupLimits] || !b.jail.cgroup.limits("memory")) {
		set("memory", unix.RLIMIT_DATA, uint64(b.spec.Memory))
	}
}
