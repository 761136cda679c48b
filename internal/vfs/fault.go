package vfs

import (
	"fmt"
	"sync"
	"syscall"
)

// ErrShort, as the error of a Fault, makes a write stop half way, as on a disk that is full.
var ErrShort = fmt.Errorf("short write: %w", syscall.ENOSPC)

// A FailOnce fails one operation of a Mem, the K-th counted from 0, with Err, and lets all others be.
// Its Fault is Mem's. A loop over K from 0 on, until nothing failed, has failed each operation once.
type FailOnce struct {
	K   int
	Err error
	// Op is the only operation that is counted, if set.
	Op string

	mu sync.Mutex
	n  int
	at string
}

// Fault returns Err for the K-th operation.
func (f *FailOnce) Fault(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Op != "" && f.Op != op {
		return nil
	}
	f.n++
	if f.n != f.K+1 {
		return nil
	}
	f.at = op + " " + name
	return f.Err
}

// At returns what failed, as operation and name, or "" if nothing has yet.
func (f *FailOnce) At() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}
