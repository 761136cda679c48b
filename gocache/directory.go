package gocache

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What is in a directory.
const (
	indexDir  = "a"    // a/<2 hex>/<action>: which output an action has (entry.go)
	outputDir = "o"    // o/<2 hex>/<sha256>-<size>: the bytes
	partDir   = "part" // part/<run>.<n>: what is being written
	runDir    = "run"  // run/<run>: a process, which has its file locked and began at its mtime
	lockName  = "lock" // see lock.go
	sizeName  = "size" // see trim.go
)

// A directory keeps entries for any number of processes.
type directory struct {
	name  string
	alias string // another name of it, for the go command
	start time.Time
	run   string
	alive *os.File

	parts     atomic.Uint64
	published atomic.Int64 // bytes of disk
	full      atomic.Bool  // the disk, not this directory
	busyUntil atomic.Int64 // when the lock may be waited for again, in nanoseconds since 1970
}

// openDirectory opens a directory, which it makes if need be, as one more process. goCache is Go's own, or "".
func openDirectory(name, goCache string) (*directory, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{indexDir, outputDir, partDir, runDir} {
		if err := os.MkdirAll(filepath.Join(name, sub), 0o777); err != nil {
			return nil, err
		}
	}
	d := &directory{name: name, alias: name, start: time.Now(), run: rand.Text()}
	if err := d.register(); err != nil {
		return nil, err
	}
	d.link(goCache)
	return d, nil
}

// link gives the directory a name inside Go's own cache. 'go build -o x.a' and 'go install' copy what has a name that
// begins so, and move anything else away, as if it were a file of their own.
func (d *directory) link(goCache string) {
	if goCache == "" || strings.HasPrefix(d.name, goCache) {
		return
	}
	alias := aliasOf(d.name, goCache)
	if os.MkdirAll(goCache, 0o777) != nil {
		return
	}
	// Somebody else may have made it.
	if err := os.Symlink(d.name, alias); err == nil || errors.Is(err, fs.ErrExist) {
		if to, err := os.Readlink(alias); err == nil && to == d.name {
			d.alias = alias
		}
	}
}

// aliasOf returns the name that the directory called name has inside goCache, or name if there is none.
func aliasOf(name, goCache string) string {
	if goCache == "" {
		return name
	}
	hash := sha256.Sum256([]byte(name))
	return filepath.Join(goCache, fmt.Sprintf("sarsen-%x", hash[:8]))
}

// register makes this process known to trimmers.
func (d *directory) register() error {
	unlock, ok := d.lock(false)
	if !ok {
		return errBusy
	}
	defer unlock()
	f, err := os.OpenFile(filepath.Join(d.name, runDir, d.run), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	// Trimmers, which the lock keeps out, would take the file of a process without its lock for a dead one's.
	if err := errors.Join(flock(f, true), os.Chtimes(f.Name(), d.start, d.start)); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	d.alive = f
	return nil
}

// unregister lets trimmers take what this process was given.
func (d *directory) unregister() error {
	return errors.Join(os.Remove(d.alive.Name()), d.alive.Close())
}

// temporaryPrefix begins the names of temporary directories.
const temporaryPrefix = "sarsen-gocache-"

// openTemporary opens a directory that lasts as long as the process. No trimmer knows it.
func openTemporary(goCache string) (*directory, error) {
	buryTemporaries(goCache)
	name, err := os.MkdirTemp("", temporaryPrefix)
	if err != nil {
		return nil, err
	}
	d, err := openDirectory(name, goCache)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(name))
	}
	return d, nil
}

// buryTemporaries removes the temporary directories of processes that were killed.
func buryTemporaries(goCache string) {
	names, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*"))
	for _, name := range names {
		var s unix.Stat_t
		if unix.Lstat(name, &s) != nil || s.Mode&unix.S_IFMT != unix.S_IFDIR || int(s.Uid) != os.Getuid() {
			continue // not ours, whatever it leads to
		}
		d := &directory{name: name, alias: aliasOf(name, goCache)}
		d.busyUntil.Store(math.MaxInt64) // nobody waits for its lock
		// Who begins has no file there yet, or one that has no lock, but then the directory's.
		runs, _ := os.ReadDir(filepath.Join(name, runDir))
		unlock, ok := d.lock(true)
		if !ok {
			continue
		}
		if len(runs) == 1 {
			d.alive, _ = os.Open(filepath.Join(name, runDir, runs[0].Name()))
		}
		if d.alive != nil && flock(d.alive, true) == nil {
			d.remove()
		}
		d.alive.Close()
		unlock()
	}
}

// remove removes a temporary directory.
func (d *directory) remove() {
	d.alive.Close()
	os.RemoveAll(d.name)
	if d.alias != d.name {
		os.Remove(d.alias)
	}
}

// failed takes note of an error, and reports whether it is one of the file system.
func (d *directory) failed(err error) bool {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		d.full.Store(true)
	}
	var of *fs.PathError
	return errors.As(err, &of)
}

func (d *directory) begin() (*part, error) {
	name := fmt.Sprintf("%s.%d", d.run, d.parts.Add(1))
	f, err := os.OpenFile(filepath.Join(d.name, partDir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &part{dir: d, file: f}, nil
}

func (d *directory) indexName(action id) string {
	s := action.String()
	return filepath.Join(d.name, indexDir, s[:2], s)
}

func (d *directory) outputName(e entry) string {
	s := e.content.String()
	return filepath.Join(d.name, outputDir, s[:2], s+"-"+strconv.FormatInt(e.size, 10))
}

// get returns the entry of an action and the file with its bytes, which stays until this process closes.
func (d *directory) get(action id) (e entry, name string, ok bool) {
	unlock, ok := d.lock(false)
	if !ok {
		return e, "", false
	}
	defer unlock()
	text, err := readSmall(d.indexName(action))
	if err != nil {
		return e, "", false
	}
	if e, err = parseEntry(text); err != nil || e.action != action {
		return e, "", false
	}
	name = d.outputName(e)
	return e, d.public(name), d.use(name, e)
}

// public returns the name of a file for the go command.
func (d *directory) public(name string) string { return d.alias + strings.TrimPrefix(name, d.name) }

// publish gives p the name of its content, unless there is such a file, and makes it the output of e.action.
// It returns the file's name. p is gone then.
func (d *directory) publish(p *part, e entry) (string, error) {
	unlock, ok := d.lock(false)
	if !ok {
		return "", errBusy
	}
	defer unlock()
	name := d.outputName(e)
	if d.use(name, e) {
		p.discard()
	} else if err := d.settle(p, name, e); err != nil {
		return "", err
	}
	index, err := d.begin()
	if err != nil {
		return d.public(name), nil // the next go command will do without
	}
	defer index.discard()
	if _, err := index.file.WriteString(e.text()); err != nil {
		return d.public(name), nil
	}
	if rename(index.file.Name(), d.indexName(e.action)) == nil {
		index.file.Close()
		index.file = nil
		d.published.Add(block)
	}
	return d.public(name), nil
}

// settle gives p, which has the bytes of e, its name. What is there under that name is damaged.
func (d *directory) settle(p *part, name string, e entry) error {
	part := p.file.Name()
	// A file that had another link could be changed through it.
	if err := errors.Join(p.file.Chmod(0o444), seal(part, e, time.Now())); err != nil {
		return err
	}
	// COMMIT: other processes see the output from here on.
	if err := rename(part, name); err != nil {
		return err
	}
	p.file.Close()
	p.file = nil
	d.published.Add(charge(e.size))
	return nil
}

// rename is os.Rename, which makes the folder above the new name if need be.
func rename(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(to), 0o777); err == nil {
			err = os.Rename(from, to)
		}
	}
	return err
}

// readSmall reads a file of one line.
func readSmall(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEntry+1))
	return string(b), err
}
