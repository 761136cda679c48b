package gocache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

const (
	// unused is how long an output stays that nobody uses, as in Go's own cache.
	unused = 5 * 24 * time.Hour
	// grace is how long an output stays that somebody used: 'go list -export' names files to programs that
	// read them when it has ended.
	grace = 10 * time.Minute
	// between is the time after which a directory is looked through though it has not grown.
	between = 24 * time.Hour
	// slack is the part of the size that a trimmer makes free, so that not each process has to.
	slack = 16
	// batch is how many files are removed under one lock.
	batch = 64
	// trimTime bounds the work of one trimmer.
	trimTime = time.Minute
)

// errTime says that a trimmer had to leave some for the next one.
var errTime = errors.New("there is more to trim than a minute allows")

// close ends this process's part in the directory, and trims it if it has grown beyond maxSize, or
// what the disk has room for.
func (d *directory) close(maxSize int64) error {
	if err := d.unregister(); err != nil {
		return err
	}
	unlock, ok := d.lock(true)
	if !ok {
		return errBusy
	}
	oldest, crashed := d.bury()
	size, known := d.readSize()
	size += d.published.Load()
	err := d.writeSize(size, known)
	unlock()
	if crashed || d.full.Load() || size > maxSize || time.Since(known) > between {
		return errors.Join(err, d.trim(maxSize, oldest))
	}
	return err
}

// bury removes what processes left that are gone. It returns when the oldest began that lives. The caller has the
// lock for itself.
func (d *directory) bury() (oldest time.Time, crashed bool) {
	oldest = time.Now()
	entries, _ := os.ReadDir(filepath.Join(d.name, runDir))
	live := map[string]bool{}
	for _, e := range entries {
		name := filepath.Join(d.name, runDir, e.Name())
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		switch {
		case err != nil:
		case flock(f, true) != nil:
			live[e.Name()] = true
			if info.ModTime().Before(oldest) {
				oldest = info.ModTime()
			}
		default:
			crashed = os.Remove(name) == nil || crashed
		}
		f.Close()
	}
	entries, _ = os.ReadDir(filepath.Join(d.name, partDir))
	for _, e := range entries {
		if run, _, _ := strings.Cut(e.Name(), "."); !live[run] || mutant.PartBuried {
			os.Remove(filepath.Join(d.name, partDir, e.Name()))
		}
	}
	return oldest, crashed
}

// readSize returns the size that was written down, and when it was counted.
func (d *directory) readSize() (size int64, counted time.Time) {
	text, err := readSmall(filepath.Join(d.name, sizeName))
	var at int64
	if err != nil {
		return 0, time.Time{}
	}
	if n, _ := fmt.Sscanf(text, "%d bytes, counted %d\n", &size, &at); n != 2 || size < 0 {
		return 0, time.Time{}
	}
	return size, time.Unix(at, 0)
}

// writeSize is called with the lock, so that no addition is lost.
func (d *directory) writeSize(size int64, counted time.Time) error {
	p, err := d.begin()
	if err != nil {
		return err
	}
	defer p.discard()
	if _, err := fmt.Fprintf(p.file, "%d bytes, counted %d\n", size, counted.Unix()); err != nil {
		return err
	}
	return os.Rename(p.file.Name(), filepath.Join(d.name, sizeName))
}

// An old is an output, which may go.
type old struct {
	name string
	used time.Time
	size int64
}

// trim removes outputs that nobody used for long, and then those that were used longest ago until the rest fits.
// What was used since oldest, or just now, stays.
func (d *directory) trim(maxSize int64, oldest time.Time) error {
	now := time.Now()
	spared := now.Add(-grace)
	if oldest.Before(spared) && !mutant.RunForgotten {
		spared = oldest
	}
	outputs, size := d.outputs()
	if d.full.Load() {
		maxSize = min(maxSize, size-size/slack)
	}
	goal := maxSize
	if size > maxSize {
		goal = maxSize - maxSize/slack
	}
	var victims []old
	left := size
	for _, o := range outputs {
		if o.used.Before(spared) && (left > goal || now.Sub(o.used) > unused) {
			victims = append(victims, o)
			left -= o.size
		}
	}
	gone, err := d.removeAll(victims, spared, now.Add(trimTime))
	if err == nil && gone > 0 {
		var index int64
		index, err = d.trimIndex(now.Add(trimTime))
		gone += index
	}
	unlock, ok := d.lock(true)
	if !ok {
		return errors.Join(err, errBusy)
	}
	defer unlock()
	return errors.Join(err, d.writeSize(max(size-gone, 0), now))
}

// outputs lists all, the one that was used longest ago first, and the bytes of all with their index.
func (d *directory) outputs() (all []old, size int64) {
	walk(filepath.Join(d.name, outputDir), func(name string) {
		if used, n, err := usedAt(name); err == nil {
			all = append(all, old{name, used, n})
			size += n
		}
	})
	walk(filepath.Join(d.name, indexDir), func(string) { size += block })
	slices.SortFunc(all, func(a, b old) int { return a.used.Compare(b.used) })
	return all, size
}

// walk calls do for each file two levels below dir.
func walk(dir string, do func(name string)) {
	_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			do(name)
		}
		return nil
	})
}

// removeAll removes the victims that nobody used meanwhile, and returns how many bytes went.
func (d *directory) removeAll(victims []old, spared, until time.Time) (gone int64, err error) {
	for some := range slices.Chunk(victims, batch) {
		if time.Now().After(until) {
			return gone, errTime
		}
		unlock, ok := d.lock(true)
		if !ok {
			return gone, errBusy
		}
		for _, v := range some {
			if used, _, err := usedAt(v.name); err != nil || !used.Before(spared) && !mutant.VictimUsed {
				continue
			}
			// COMMIT: the output is absent from here on.
			if os.Remove(v.name) == nil {
				gone += v.size
			}
		}
		unlock()
	}
	return gone, nil
}

// trimIndex removes the entries whose outputs are gone, and returns how many bytes went.
func (d *directory) trimIndex(until time.Time) (gone int64, err error) {
	var all []string
	walk(filepath.Join(d.name, indexDir), func(name string) { all = append(all, name) })
	for some := range slices.Chunk(all, batch) {
		if time.Now().After(until) {
			return gone, errTime
		}
		unlock, ok := d.lock(true)
		if !ok {
			return gone, errBusy
		}
		for _, name := range some {
			text, err := readSmall(name)
			if err != nil {
				continue
			}
			if e, err := parseEntry(text); err == nil {
				if _, err := os.Lstat(d.outputName(e)); err == nil {
					continue
				}
			}
			if os.Remove(name) == nil {
				gone += block
			}
		}
		unlock()
	}
	return gone, nil
}
