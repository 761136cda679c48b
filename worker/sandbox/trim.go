//go:build linux && !cgo && (amd64 || arm64)

package sandbox

// trim says whether the zygote lets go of memory that is not its own.
const trim = true
