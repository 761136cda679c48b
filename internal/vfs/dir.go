package vfs

import (
	"io"
	"io/fs"
	"time"
)

// A LinkFS is an FS with directories that can be held open, for whoever makes hard links.
type LinkFS interface {
	FS
	// OpenDir opens a directory. Its last element must not be a symbolic link.
	OpenDir(dir string) (Dir, error)
}

// A Dir is an open directory. Names are relative to it. What a name's last element is, is never
// followed; a name of several elements passes directories that the caller made himself.
type Dir interface {
	io.Closer
	// List returns what lies in the directory, sorted by name.
	List() ([]Entry, error)
	// Create makes a new file that is its owner's alone, with room for size bytes. The name must be new.
	Create(name string, size int64) (ModeFile, error)
	// OpenRead opens an existing file for reading only.
	OpenRead(name string) (File, error)
	// Rename gives a file another name in this directory, whatever had it before.
	Rename(from, to string) error
	// Link gives a file another name in another directory of the same file system (linkat). The name
	// must be new.
	Link(name string, into Dir, as string) error
	// Symlink makes a symbolic link. The name must be new.
	Symlink(target, name string) error
	// MakeDir makes a new directory with mode 0755.
	MakeDir(name string) error
	// Sub opens a directory in this one.
	Sub(name string) (Dir, error)
	// Remove removes a file's name.
	Remove(name string) error
	// RemoveAll removes a name and all below it, whatever it is. A name that is not there is no error.
	RemoveAll(name string) error
	// Spread tells the file system that the directories in this one have nothing to do with each other,
	// so that it puts each in a place of its own. That is advice: where it can't be given, nothing is lost.
	Spread()
}

// An Entry is what lies in a directory.
type Entry struct {
	Name string
	Mode fs.FileMode // type and permissions
	Size int64       // bytes
	// Used is when the file was last read, changed, or linked, as far as the file system says.
	Used time.Time
}

// A ModeFile is a new file, which nobody else sees yet.
type ModeFile interface {
	File
	// Chmod sets the permissions, whatever the process's umask is.
	Chmod(mode fs.FileMode) error
	// CloneFrom makes this file's bytes those of another one of size bytes: shared blocks (a reflink)
	// where the file system can, a copy elsewhere. It says which it was.
	CloneFrom(from File, size int64) (shared bool, err error)
}
