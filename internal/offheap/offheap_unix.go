//go:build unix

package offheap

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Allocate returns n bytes of zeros. Pages take memory when they are first written. It panics if the
// system has none left.
func Allocate(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("offheap: mmap of %d bytes: %v", n, err))
	}
	preferHugePages(b)
	return b
}

// Release gives back what Allocate returned.
func Release(b []byte) { _ = unix.Munmap(b) } // fails only for what is not mapped
