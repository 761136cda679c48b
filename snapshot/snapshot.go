// Package snapshot keeps directories on a server as trees of the Remote Execution API: it makes them, restores
// and verifies them, and says which ones to forget.
//
// A snapshot is a Directory message with all below it, as any client of the API can read it, and a name under which
// the server keeps that. Modes and times are node properties. Owners, extended attributes, hard links and special
// files are not kept.
//
// # Invariants
//
//   - A snapshot that Create returned is held whole by the server until it is released.
//   - What Restore wrote has the digest that the tree names; a file is there whole under its name, or as it was.
//   - Restore writes nothing outside its target, whatever names and links the tree has.
//
// # Concurrency
//
// Each call works by itself; calls may run at once.
package snapshot

import (
	"sync/atomic"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// Counts are what a call has done, and are read while it goes on.
type Counts struct {
	Files, Directories, Symlinks atomic.Int64
	Bytes                        atomic.Int64 // of files
	Moved                        atomic.Int64 // bytes that went over the wire
}

const (
	// smallFile is the largest file, in bytes, that is read and sent in one piece with others.
	smallFile = 1 << 20
	// lotBytes and lotFiles bound what is in memory of such files.
	lotBytes = 32 << 20
	lotFiles = 4000
	// atOnce is how many larger files are worked on at a time.
	atOnce = 2
)

// digestOf returns the digest in a message.
func digestOf(f digest.Function, p *repb.Digest) (digest.Digest, error) {
	return upstream.FromProto(f, p)
}
