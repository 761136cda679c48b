package s3

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/s3/bucket"
)

// An answer is what a session said to a proposal.
type answer struct {
	refused []string
	forgot  []string // keys that the ledger named until then
	sent    bool
}

// follow does what the register asks of every session: it answers the proposal, and does not adopt what may be
// deleted.
func (s *Store) follow(ctx context.Context, l *life) error {
	if err := s.answer(ctx, l); err != nil {
		return err
	}
	return s.regain(ctx, l)
}

// answer reads the register, and answers the proposal that it names.
func (s *Store) answer(ctx context.Context, l *life) error {
	var r register
	var etag string
	for before := -1; ; before = r.Serial {
		asked := l.ledger.Now()
		var err error
		if r, etag, err = s.readRegister(ctx); err != nil {
			return err
		}
		err = s.heed(ctx, l, r, asked)
		if err == nil {
			break
		}
		if !errors.Is(err, bucket.ErrNotFound) || r.Serial == before {
			return err
		}
		// A document that is gone was of a collection that is over by now.
	}
	a := l.answerTo(r.Proposal)
	if a == nil || a.sent || r.Session == l.id {
		return s.withdrawStale(ctx, l, r, etag)
	}
	if err := s.writeLines(ctx, answerKey(r.Proposal, l.id), []byte(strings.Join(a.refused, "\n"))); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a.sent = true
	return nil
}

func (l *life) answerTo(proposal string) *answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[proposal]
}

// withdrawStale withdraws a proposal whose collector can't decide any more: it ended, or gave up and could not say so.
// While it is open, nobody can say of what it names whether it stays.
func (s *Store) withdrawStale(ctx context.Context, l *life, r register, etag string) error {
	if !l.stale(r.Proposal) {
		return nil
	}
	if r.Session == l.id {
		select {
		case s.collecting <- struct{}{}:
			defer func() { <-s.collecting }()
		default:
			return nil
		}
	} else if c, err := s.takeCensus(ctx, l); err != nil || slices.Contains(c.alive, r.Session) {
		return err
	}
	r.Proposal = ""
	if _, err := s.change(ctx, l, etag, &r); !errors.Is(err, errOvertaken) {
		return err
	}
	return nil
}

// stale reports whether a proposal has been open for longer than sessions that live take to answer.
func (l *life) stale(proposal string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != proposal {
		l.open, l.openSince = proposal, l.clock()
	}
	return proposal != "" && l.clock()-l.openSince > l.heartbeat
}

// regain lists the bucket if something was let go in vain: what a proposal named that came to nothing is still there.
func (s *Store) regain(ctx context.Context, l *life) error {
	if !l.lost.Swap(false) {
		return nil
	}
	err := s.list(ctx, l, false)
	if err != nil {
		l.lost.Store(true)
	}
	return err
}
