package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/sarsen-build/sarsen/segment"
)

// listen opens a port, or says in one sentence why not and what to do.
func listen(ctx context.Context, name, flag, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		return l, nil
	}
	free := "127.0.0.1:0"
	if host, _, err := net.SplitHostPort(address); err == nil {
		free = net.JoinHostPort(host, "0")
	}
	var why string
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		why = fmt.Sprintf("is taken by another program; stop that one, or choose another address with %s (%s picks a free port)", flag, free)
	case errors.Is(err, syscall.EACCES):
		why = fmt.Sprintf("is not for this user to listen on; choose a port above 1023 with %s (%s picks a free one)", flag, free)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		why = fmt.Sprintf("is not an address of this machine; choose one that is with %s (0.0.0.0 stands for all)", flag)
	case errors.As(err, &dns):
		why = fmt.Sprintf("has a host that is not known here; choose an address of this machine with %s", flag)
	default:
		why = fmt.Sprintf("can't be listened on (%v); choose another address with %s", err, flag)
	}
	return nil, fmt.Errorf("the %s address %s %s", name, address, why)
}

// explainOpen says in one sentence why the store in dir can't be opened and what to do.
func explainOpen(dir string, err error) error {
	var cause syscall.Errno
	errors.As(err, &cause)
	switch {
	case errors.Is(err, segment.ErrLocked):
		return fmt.Errorf("%s is in use by another Sarsen; stop that one, or choose another directory with --dir", dir)
	case cause == syscall.ENOSPC, cause == syscall.EDQUOT:
		return fmt.Errorf("the disk of %s is full; free some space, or choose a directory on another disk with --dir", dir)
	case cause == syscall.EACCES, cause == syscall.EPERM, cause == syscall.EROFS, cause == syscall.ENOENT, cause == syscall.ENOTDIR, cause == syscall.EEXIST:
		return fmt.Errorf("%s can't be written to (%w); choose another directory with --dir", dir, cause)
	}
	return fmt.Errorf("the store in %s can't be opened: %w", dir, err)
}
