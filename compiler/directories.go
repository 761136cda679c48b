package compiler

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

// directories remembers what directories do not have. A directory whose stamp is the same has the same
// names.
type directories struct {
	mu    sync.Mutex
	known map[string]*listing
}

type listing struct {
	stamp  stamp
	absent map[string]bool
}

// What is known of a directory that can't be looked into.
var (
	gone    = &listing{}
	unknown = &listing{}
)

func newDirectories() *directories { return &directories{known: map[string]*listing{}} }

// A look asks for the stamp of each directory once. It is for the questions of one moment, which are often hundreds
// about the same few directories.
type look struct {
	dirs *directories
	seen map[string]*listing
}

func (d *directories) look() *look { return &look{dirs: d, seen: map[string]*listing{}} }

// at returns what is known of a directory.
func (l *look) at(dir string) *listing {
	found, ok := l.seen[dir]
	if !ok {
		if found = gone; !l.goneAbove(dir) {
			found = l.dirs.at(dir)
		}
		l.seen[dir] = found
	}
	return found
}

// goneAbove reports whether a directory is known not to be there that dir leads through.
func (l *look) goneAbove(dir string) bool {
	for i := len(dir) - 1; i > 0; i-- {
		if dir[i] == '/' && l.seen[dir[:i]] == gone {
			return true
		}
	}
	return false
}

// lacks reports whether dir has none of names.
func (l *look) lacks(dir string, names ...string) bool {
	switch found := l.at(dir); found {
	case gone:
		return true
	case unknown:
		return false
	default:
		return l.dirs.lack(dir, found, names)
	}
}

// at returns what is known of a directory as it is now.
func (d *directories) at(dir string) *listing {
	began := time.Now()
	now, err := stampOf(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return gone
	}
	if err != nil {
		return unknown
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.known[dir]
	if l == nil || l.stamp != now {
		l = &listing{stamp: now, absent: map[string]bool{}}
		if began.UnixNano()-now.newest() > int64(settled) {
			if len(d.known) > 50_000 {
				clear(d.known)
			}
			d.known[dir] = l
		}
	}
	return l
}

// lack reports whether dir has none of names. The lock is held across what the system has in memory.
func (d *directories) lack(dir string, l *listing, names []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		if l.absent[name] {
			continue
		}
		if _, err := os.Lstat(dir + "/" + name); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		l.absent[name] = true
	}
	return true
}
