package gocache

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// errBusy says that a trimmer holds the directory for longer than it should: it was stopped.
var errBusy = errors.New("another process holds the directory's lock")

const (
	// patience is how long the lock is waited for.
	patience = time.Second
	// impatience is for how long nobody waits for the lock after somebody waited in vain.
	impatience = 5 * time.Second
)

// lock takes the directory's lock: shared by all who look up and publish, or for one trimmer alone. The kernel
// takes it from a process that dies.
func (d *directory) lock(exclusive bool) (unlock func(), ok bool) {
	f, err := os.OpenFile(filepath.Join(d.name, lockName), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, false
	}
	begun := time.Now()
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		if flock(f, exclusive) == nil {
			return func() { f.Close() }, true
		}
		now := time.Now()
		if now.UnixNano() < d.busyUntil.Load() {
			break
		}
		if now.Sub(begun) > patience {
			d.busyUntil.Store(now.Add(impatience).UnixNano())
			break
		}
		time.Sleep(pause)
	}
	f.Close()
	return nil, false
}

// flock locks f until it is closed, and does not wait.
func flock(f *os.File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}
