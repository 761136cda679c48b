//go:build !linux

package redisserver

import "syscall"

// endsWithUs is nothing here: a server outlives a test that is killed.
var endsWithUs *syscall.SysProcAttr
