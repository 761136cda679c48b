package backup

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// quotas count what repositories take that have a quota. What is under way counts already.
type quotas struct {
	keeper blob.Keeper
	shared bool // other servers keep roots there too
	mu     sync.Mutex
	used   map[string]*usage // by the prefix of their roots
}

// A usage is of one repository.
type usage struct {
	turn chan struct{} // held by who counts

	mu      sync.Mutex
	known   bool
	counted time.Time // when the last count began
	kept    int64     // by roots, in bytes
	taken   int64     // by requests that are under way
	grown   int64     // what this server added since then, which the count may have seen or not
}

// Where other servers write too, a count is old after countsFor, and after refusesFor none to refuse by.
const (
	countsFor  = time.Minute
	refusesFor = 5 * time.Second
)

// of returns the usage of a repository, which is known.
func (s *quotas) of(ctx context.Context, prefix string) (*usage, error) {
	s.mu.Lock()
	if s.used == nil {
		s.used = map[string]*usage{}
	}
	u := s.used[prefix]
	if u == nil {
		u = &usage{turn: make(chan struct{}, 1)}
		s.used[prefix] = u
	}
	s.mu.Unlock()
	return u, s.count(ctx, u, prefix, countsFor)
}

// count counts what a repository keeps, unless that is known and not too old. Others wait for it.
func (s *quotas) count(ctx context.Context, u *usage, prefix string, age time.Duration) error {
	if s.knows(u, age) {
		return nil
	}
	select {
	case u.turn <- struct{}{}:
		defer func() { <-u.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.knows(u, age) {
		return nil
	}
	u.mu.Lock()
	u.grown = 0
	u.mu.Unlock()
	began, kept := time.Now(), int64(0)
	for root, err := range s.keeper.Kept(ctx, prefix) {
		if err != nil {
			return err
		}
		kept += root.Bytes
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.known, u.counted, u.kept = true, began, kept+u.grown
	return nil
}

func (s *quotas) knows(u *usage, age time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.known && (!s.shared || time.Since(u.counted) < age)
}

// A share is what a request takes of its repository's quota.
type share struct {
	usage *usage
	bytes int64
}

// take takes n bytes of the quota, or refuses. The caller calls giveBack unless the bytes stay. Whoever deletes takes nothing,
// but does so first: what went while the repository was counted would be taken off though it was never put on.
func (q *request) take(n int64) (*share, error) {
	if q.rights.quota == 0 {
		return &share{}, nil
	}
	u, err := q.quotas.of(q.r.Context(), q.prefix())
	if err != nil {
		return nil, err
	}
	s := &share{usage: u}
	return s, q.more(s, n)
}

// more makes s a share of n bytes at least, or refuses.
func (q *request) more(s *share, n int64) error {
	if s.usage == nil || n <= s.bytes {
		return nil
	}
	if s.grow(n, q.rights.quota) {
		return nil
	}
	if err := q.quotas.count(q.r.Context(), s.usage, q.prefix(), refusesFor); err != nil {
		return err
	}
	if s.grow(n, q.rights.quota) {
		return nil
	}
	return refusal.New(http.StatusInsufficientStorage, "the quota of %s is full: %s of %s are taken, and %s more are wanted",
		q.prefix(), humanize.IBytes(uint64(s.usage.all())), humanize.IBytes(uint64(q.rights.quota)), humanize.IBytes(uint64(n)))
}

// grow makes s a share of n bytes, if the quota has them.
func (s *share) grow(n, quota int64) bool {
	u := s.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.kept+u.taken+n-s.bytes > quota {
		return false
	}
	u.taken += n - s.bytes
	s.bytes = n
	return true
}

// all returns what is kept and under way, in bytes.
func (u *usage) all() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.kept + u.taken
}

// giveBack gives back what is left of the share. It may be called again, to no effect.
func (s *share) giveBack() { s.becomes(0) }

// becomes says that the repository takes n bytes more than before, or less, in place of the share.
func (s *share) becomes(n int64) {
	if s.usage == nil {
		return
	}
	u := s.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken -= s.bytes
	u.kept += n
	u.grown += max(n, 0)
	s.bytes = 0
}
