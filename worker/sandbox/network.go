//go:build linux && (amd64 || arm64)

package sandbox

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// networks are network namespaces with a loopback and nothing else. To make one takes longer than all the rest of a
// sandbox, so they are used again, by one action at a time. No action may change one, all its sockets
// die with the action, and they are set up to keep no closed connections (TIME_WAIT), so the next action finds it as new.
type networks struct {
	mu   sync.Mutex
	free []int
}

const maxFreeNetworks = 256

func (n *networks) take() (int, error) {
	n.mu.Lock()
	if k := len(n.free) - 1; k >= 0 {
		fd := n.free[k]
		n.free = n.free[:k]
		n.mu.Unlock()
		return fd, nil
	}
	n.mu.Unlock()
	return newNetwork()
}

func (n *networks) give(fd int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.free) < maxFreeNetworks {
		n.free = append(n.free, fd)
		return
	}
	_ = unix.Close(fd)
}

func newNetwork() (int, error) {
	fd := -1
	err := inThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		lo.SetUint16(unix.IFF_UP)
		if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("0"), 0); err != nil {
			return err
		}
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}
