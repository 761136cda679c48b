// Package format reads and writes the files of Proxmox Backup Server: data blobs, fixed and dynamic indexes,
// manifests; and the list of a snapshot's chunks, which is Sarsen's own.
//
// The layouts are those that Proxmox documents in "File Formats" of its manual: numbers are little-endian,
// checksums CRC-32 (IEEE) and SHA-256.
//
// # Invariants
//
//   - Whatever bytes come in, nothing here panics or takes more memory than its limits say.
//   - What is written is read back as the same.
//
// # Concurrency
//
// Everything is a value or a pure function.
package format

import (
	"errors"
	"fmt"
)

// ErrFormat is returned, wrapped with the reason, for bytes that are not what they should be.
var ErrFormat = errors.New("not in the format")

// The bounds of what is stored.
const (
	// MaxChunk is the most bytes that a chunk stands for.
	MaxChunk = 16 << 20
	// MaxBlob is the most bytes that the data of a blob file, like a manifest or a log, may be.
	MaxBlob = 128 << 20
	// FixedChunk is the size of all chunks of a fixed index but the last.
	FixedChunk = 4 << 20
	// MaxFixed is the largest image in bytes. Its index has half a GiB.
	MaxFixed = 64 << 40
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}
