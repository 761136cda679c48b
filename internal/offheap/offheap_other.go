//go:build !unix

package offheap

// Allocate returns n bytes of zeros, on the heap where there is no other memory.
func Allocate(n int) []byte { return make([]byte, n) }

// Release does nothing: the collector does it.
func Release([]byte) {}
