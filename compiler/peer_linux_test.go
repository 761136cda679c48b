package compiler_test

import (
	"syscall"
	"testing"
)

// peerOf returns the process at the other end of a socket.
func peerOf(t testing.TB, fd int) int {
	t.Helper()
	peer, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		t.Fatal(err)
	}
	return int(peer.Pid)
}
