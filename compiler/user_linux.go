package compiler

import (
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// sameUser reports whether the other end is a process of this user.
func sameUser(conn *net.UnixConn) bool {
	peer, err := credentials(conn)
	return err == nil && int(peer.Uid) == os.Geteuid()
}

// sameGroup reports whether the other end is a process of this group.
func sameGroup(conn *net.UnixConn) bool {
	peer, err := credentials(conn)
	return err == nil && int(peer.Gid) == os.Getegid()
}

func credentials(conn *net.UnixConn) (peer *syscall.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if failed := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); failed != nil {
		return nil, failed
	}
	return peer, err
}

var processorLine = regexp.MustCompile(`(?m)^(vendor_id|cpu family|model|stepping|flags|Features|CPU \w+)\s*:.*$`)

// processor returns what tells processors apart for -march=native.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), "\n\n")
	return strings.Join(processorLine.FindAllString(first, -1), "\n")
}
