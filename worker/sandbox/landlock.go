//go:build linux && (amd64 || arm64)

package sandbox

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Access rights by the version of the interface that brought them.
const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockFirst = 1<<13 - 1
)

// landlockVersion returns what the kernel has: 0 is none.
func landlockVersion() (int, error) {
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0, e
	}
	return int(v), nil
}

// addLandlock forbids, whatever the mounts say, to write outside the action's own directories, and to reach processes outside
// the domain by signals or abstract sockets. spare is a descriptor that may be replaced.
func addLandlock(s *script, version, spare int, chroot bool) {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockFirst | unix.LANDLOCK_ACCESS_FS_REFER}
	size := unsafe.Offsetof(attr.Handled_access_net)
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	type grant struct {
		name   string
		access uint64
	}
	write := attr.Handled_access_fs & (unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE)
	grants := []grant{{"/", landlockRead}, {Home, attr.Handled_access_fs}, {"/tmp", attr.Handled_access_fs}, {"/dev/shm", attr.Handled_access_fs}, {"/dev", write}, {"/proc", write}}
	if chroot {
		grants = []grant{{"/", attr.Handled_access_fs}} // there is nothing that is not the action's own
	}
	const rules, dir = register(0), register(1)
	s.add("landlock ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, raw(attr), size, 0).to(rules)
	for _, r := range grants {
		rule := unix.LandlockPathBeneathAttr{Allowed_access: r.access, Parent_fd: int32(spare)}
		s.add("landlock open "+r.name, unix.SYS_OPENAT, unix.AT_FDCWD, r.name, unix.O_PATH|unix.O_CLOEXEC, 0).to(dir)
		s.add("landlock name "+r.name, unix.SYS_DUP3, dir, spare, unix.O_CLOEXEC)
		s.add("landlock rule "+r.name, unix.SYS_LANDLOCK_ADD_RULE, rules, unix.LANDLOCK_RULE_PATH_BENEATH, raw(rule), 0)
		s.add("landlock close "+r.name, unix.SYS_CLOSE, dir)
	}
	s.add("landlock", unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0)
	s.add("landlock close", unix.SYS_CLOSE, rules)
}
