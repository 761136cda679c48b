package redisserver

import "syscall"

// endsWithUs ends the server when the test is killed.
var endsWithUs = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
