package vfs

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRetry: a call that a signal interrupts is made again; another error is the answer.
func TestRetry(t *testing.T) {
	for _, want := range []error{nil, unix.EIO} {
		calls := 0
		err := retry(func() error {
			if calls++; calls < 3 {
				return unix.EINTR
			}
			return want
		})
		if err != want || calls != 3 {
			t.Errorf("retry = %v after %d calls, want %v after 3", err, calls, want)
		}
	}
}

func TestBoot(t *testing.T) {
	if got := (OS{}).Boot(); runtime.GOOS == "linux" && len(got) != 36 {
		t.Errorf("Boot = %q, want the kernel's 36 characters", got)
	}
}
