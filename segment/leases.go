package segment

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/cespare/xxhash/v2"

	"github.com/sarsen-build/sarsen/ledger"
)

// A lease outlives a restart. Close writes down what is leased, in a file whose generation is above
// that of every segment; start-up leases just that anew. Where the newest file is a segment, the
// process ended without Close, and start-up leases everything: too much, never too little.
const (
	segmentExt = ".seg"
	leaseExt   = ".leases"

	leaseMagic = "SARSENl1"
)

// leases says what to lease at start-up; nil is everything.
type leases struct{ tags map[uint64]struct{} }

func (l *leases) has(k ledger.Key) bool {
	if l == nil {
		return true
	}
	_, ok := l.tags[k.Tag()]
	return ok
}

func leaseName(dir string, generation uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", generation, leaseExt))
}

// writeLeases writes the tags of all leased keys. The caller holds the turn.
func (r *Ring) writeLeases() error {
	b := []byte(leaseMagic)
	r.ledger.Each(func(k ledger.Key, _ ledger.Place, leased bool) {
		if leased {
			b = le.AppendUint64(b, k.Tag())
		}
	})
	b = le.AppendUint64(b, xxhash.Sum64(b))
	r.generation++
	file, err := r.fsys.Create(leaseName(r.dir, r.generation), int64(len(b)))
	if err != nil {
		return err
	}
	_, err = file.WriteAt(b, 0)
	return errors.Join(err, file.Sync(), file.Close(), r.fsys.SyncDir(r.dir))
}

// readLeases returns what the newest lease file says, if it is newer than every segment and whole.
func (r *Ring) readLeases(files []found) *leases {
	if len(files) == 0 || files[len(files)-1].generation != r.generation {
		return nil
	}
	newest := files[len(files)-1]
	name := leaseName(r.dir, newest.generation)
	file, err := r.fsys.Open(name)
	if err != nil {
		r.log.Debug("everything is leased anew", slog.Any("error", err))
		return nil
	}
	defer file.Close()
	b := make([]byte, newest.size)
	if _, err := file.ReadAt(b, 0); err != nil {
		r.log.Warn("everything is leased anew", slog.Any("error", err))
		return nil
	}
	l, err := decodeLeases(b)
	if err != nil {
		r.log.Warn("everything is leased anew", slog.String("file", name), slog.Any("error", err))
		return nil
	}
	return l
}

func decodeLeases(b []byte) (*leases, error) {
	n := len(b) - 8
	if n < len(leaseMagic) || n%8 != 0 || string(b[:len(leaseMagic)]) != leaseMagic || le.Uint64(b[n:]) != xxhash.Sum64(b[:n]) {
		return nil, fmt.Errorf("leases: %w", errFormat)
	}
	l := &leases{make(map[uint64]struct{}, n/8)}
	for i := len(leaseMagic); i < n; i += 8 {
		l.tags[le.Uint64(b[i:])] = struct{}{}
	}
	return l, nil
}
