package backup

import (
	"context"
	"net/http"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/sarsen-build/sarsen/blob"
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
		delete(s.used, prefix)
		s.mu.Unlock()
	}
	return u, u.err
}

// A share is what an upload takes of its repository's quota.
type share struct {
	usage *usage
	bytes int64
}

// take takes n bytes of the quota, or refuses. The caller calls giveBack unless the bytes stay.
func (q *request) take(n int64) (*share, error) {
	if q.rights.quota == 0 {
		return &share{}, nil
	}
	u, err := q.quotas.of(q.r.Context(), q.prefix())
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bytes+n > q.rights.quota {
		return nil, refuse(http.StatusInsufficientStorage, "the quota of %s is full: %s of %s are taken, and %s more are wanted",
			q.prefix(), humanize.IBytes(uint64(u.bytes)), humanize.IBytes(uint64(q.rights.quota)), humanize.IBytes(uint64(n)))
	}
	u.bytes += n
	return &share{u, n}, nil
}

// giveBack gives back what is left of the share. It may be called again, to no effect.
func (s *share) giveBack() {
	if s.usage != nil {
		s.usage.add(-s.bytes)
		s.bytes = 0
	}
}

// stays says that the bytes were stored.
func (s *share) stays() { s.bytes = 0 }

func (u *usage) add(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes += n
}

// gone says that n bytes of a repository were deleted.
func (q *request) gone(n int64) {
	q.quotas.mu.Lock()
	u := q.quotas.used[q.prefix()]
	q.quotas.mu.Unlock()
	if u != nil {
		u.add(-n)
	}
}
