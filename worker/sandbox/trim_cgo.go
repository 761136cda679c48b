//go:build linux && cgo && (amd64 || arm64)

package sandbox

// trim says whether the zygote lets go of memory that is not its own. With the C library there is memory of each thread that
// the kernel itself writes to (rseq).
const trim = false
