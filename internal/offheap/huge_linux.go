package offheap

import "golang.org/x/sys/unix"

// preferHugePages saves what is read in no order a walk of the page tables for every read. It is a wish:
// a kernel that doesn't know it goes on with small pages.
func preferHugePages(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
