//go:build unix

package ledger

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// allocate returns n bytes of zeros that the collector does not know of. Pages take memory when they
// are first written.
func allocate(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("ledger: out of memory: mmap of %d bytes: %v", n, err))
	}
	return b
}

func release(b []byte) { _ = unix.Munmap(b) } // fails only for what is not mapped
