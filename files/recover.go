package files

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// formatName is the file that says what the names in the directory mean.
const (
	formatName = "format"
	newFormat  = partPrefix + formatName
	// version changes whenever older files would be misread.
	version = 1
	// runShift is where the number of the run begins in an incarnation's number.
	runShift = 40
)

// A format is what the format file says.
type format struct {
	version int
	boot    string // the run of the machine in which the files were written
	run     uint64 // how many processes had the directory
}

func (f format) String() string {
	return fmt.Sprintf("sarsen files %d\nboot %q\nrun %d\n", f.version, f.boot, f.run)
}

func parseFormat(text string) (f format, ok bool) {
	_, err := fmt.Sscanf(text, "sarsen files %d\nboot %q\nrun %d\n", &f.version, &f.boot, &f.run)
	return f, err == nil && f.String() == text
}

// recover takes in what the last process left.
func (s *Store) recover() error {
	entries, err := s.dir.List()
	if err != nil {
		return err
	}
	was, trusted := s.readFormat()
	boot := s.fsys.Boot()
	trusted = trusted && was.version == version && (was.boot == boot || mutant.BootIgnored) && boot != ""
	var found []ledger.Found
	var kept []vfs.Entry
	seen := map[string]incarnation{}
	for _, e := range entries {
		n, ok := parseName(e.Name)
		if ok {
			was.run = max(was.run, uint64(n.place)>>runShift)
		}
		whole := ok && e.Mode == n.mode() && e.Size == n.size
		switch {
		case trusted && whole:
			seen[e.Name] = n
			kept = append(kept, e)
			found = append(found, ledger.Found{Key: n.key, Size: n.size, Place: n.place})
		case ok || strings.HasPrefix(e.Name, partPrefix):
			if err := s.dir.RemoveAll(e.Name); err != nil {
				return err
			}
		}
	}
	if !trusted && len(entries) > 0 {
		s.log.Info("the file store begins empty: the machine was restarted, or the format is another one", "files", len(entries))
	}
	s.incarnation.Store((was.run + 1) << runShift)
	if err := s.writeFormat(format{version, boot, was.run + 1}); err != nil {
		return err
	}
	s.ledger.Restore(found...)
	return s.restoreClock(kept, seen)
}

// restoreClock puts what was found into the clock, least recently used first, and evicts what is too
// much. Of two incarnations of one blob, which a kill may leave, the ledger names one.
func (s *Store) restoreClock(kept []vfs.Entry, seen map[string]incarnation) error {
	slices.SortFunc(kept, func(a, b vfs.Entry) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(seen[a.Name].place, seen[b.Name].place))
	})
	for _, e := range kept {
		n := seen[e.Name]
		if !s.ledger.Names(n.key, n.place) {
			if err := s.dir.Remove(e.Name); err != nil {
				return err
			}
			continue
		}
		s.room.used += charge(n.size)
		s.room.add(n)
	}
	if s.room.used > s.room.max {
		s.sweep(false)
	}
	return nil
}

func (s *Store) readFormat() (format, bool) {
	f, err := s.dir.OpenRead(formatName)
	if err != nil {
		return format{}, false
	}
	defer f.Close()
	b := make([]byte, 1024)
	n, _ := f.ReadAt(b, 0)
	return parseFormat(string(b[:n]))
}

// writeFormat replaces the format file. Nothing is synced: what a power cut leaves of it is another
// boot's, or unreadable.
func (s *Store) writeFormat(f format) error {
	file, err := s.dir.Create(newFormat, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt([]byte(f.String()), 0)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return s.dir.Rename(newFormat, formatName)
}
