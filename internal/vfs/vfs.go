// Package vfs is the narrow seam between the store and the operating system's files.
//
// All file access of floors 1 to 3 goes through an FS, so that tests can put another one under the
// store: Mem keeps files in memory. OS is the real one.
//
// Mem also knows what a crash may leave of them (Image, Clone) and fails where it is told to (Fault,
// FailOnce).
//
// Names are paths. Errors are the operating system's (test with errors.Is and fs.ErrNotExist,
// fs.ErrExist, syscall.ENOSPC) or ErrLocked. OS makes a call again that a signal interrupts, and
// reads and writes that stop half way go on.
//
// Concurrency: an FS and a File may be used from many goroutines at once.
package vfs

import (
	"errors"
	"io"
)

// ErrLocked is returned by Lock if another process holds the directory.
var ErrLocked = errors.New("another process holds the directory")

// An FS is a file system.
type FS interface {
	// MakeDir creates a directory and its parents, unless they are there.
	MakeDir(dir string) error
	// Lock takes a directory for this process until the Closer is closed or the process ends.
	Lock(dir string) (io.Closer, error)
	// List returns the regular files in a directory, sorted by name.
	List(dir string) ([]Info, error)
	// Create makes a new file with room for size bytes, which read as zeros. The name must be new.
	Create(name string, size int64) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Remove removes a file's name. What is open stays readable.
	Remove(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Boot returns what tells this run of the machine from every other one, or "" if that is not known.
	// What was written before and not synced is lost if it has changed.
	Boot() string
	// Free returns how many bytes the file system that holds dir can still take.
	Free(dir string) (int64, error)
}

// An Info is a file in a directory.
type Info struct {
	Name string // without the directory
	Size int64  // bytes
}

// A File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes the bytes durable, and the size, but not the times (fdatasync).
	Sync() error
	// DropCache makes later reads come from the disk, where the system can. Unsynced bytes stay.
	DropCache() error
	// Truncate sets the size in bytes.
	Truncate(size int64) error
	// Punch gives n bytes from off back to the file system; they then read as zeros.
	Punch(off, n int64) error
}
