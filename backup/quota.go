package backup

import (
	"context"
	"net/http"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// quotas count what repositories take that have a quota. What is under way counts already.
type quotas struct {
	keeper blob.Keeper
	mu     sync.Mutex
	used   map[string]*usage // by the prefix of their roots
}

// A usage is of one repository. Whoever makes it counts what is there, and others wait for that.
type usage struct {
	once  sync.Once
	err   error
	mu    sync.Mutex
	bytes int64
}

func (s *quotas) of(ctx context.Context, prefix string) (*usage, error) {
	s.mu.Lock()
	if s.used == nil {
		s.used = map[string]*usage{}
	}
	u := s.used[prefix]
	if u == nil {
		u = new(usage)
		s.used[prefix] = u
	}
	s.mu.Unlock()
	u.once.Do(func() {
		for root, err := range s.keeper.Kept(ctx, prefix) {
			if err != nil {
				u.err = err
				return
			}
			u.bytes += root.Bytes
		}
	})
	if u.err != nil { // the next request counts again
		s.mu.Lock()
		if s.used[prefix] == u { // else it does already
			delete(s.used, prefix)
		}
		s.mu.Unlock()
	}
	return u, u.err
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
	u := s.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bytes+n-s.bytes > q.rights.quota {
		return refusal.New(http.StatusInsufficientStorage, "the quota of %s is full: %s of %s are taken, and %s more are wanted",
			q.prefix(), humanize.IBytes(uint64(u.bytes)), humanize.IBytes(uint64(q.rights.quota)), humanize.IBytes(uint64(n)))
	}
	u.bytes += n - s.bytes
	s.bytes = n
	return nil
}

// giveBack gives back what is left of the share. It may be called again, to no effect.
func (s *share) giveBack() { s.becomes(0) }

// becomes says that the repository takes n bytes more than before, or less, in place of the share.
func (s *share) becomes(n int64) {
	if s.usage == nil {
		return
	}
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	s.usage.bytes += n - s.bytes
	s.bytes = 0
}
