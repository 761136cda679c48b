package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A BlockedError says that a session has ended whose yes may still stand.
type BlockedError struct {
	Session, Host string
	Until         time.Time // by the server's clock
	Damaged       bool      // the session's record, so that Until is the latest it can be
}

func (e *BlockedError) Error() string {
	if e.Damaged {
		return fmt.Sprintf("the record %s is damaged, so that nobody knows how long the session's promises stand: when the server that wrote it has been gone for its lease, remove that object; else wait until %s", sessions+e.Session, e.Until.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("what session %s of host %q promised stands until %s", e.Session, e.Host, e.Until.UTC().Format(time.RFC3339))
}

// A seen has what this process saw of other sessions' records.
type seen struct {
	mu       sync.Mutex
	sessions map[string]sighting
}

type sighting struct {
	session
	damaged  bool // nothing of session is known
	etag     string
	modified time.Time     // by the server's clock
	since    time.Duration // by this machine's clock: since then the record did not change
}

func (w *seen) get(id string) (sighting, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.sessions[id]
	return v, ok
}

func (w *seen) put(id string, v sighting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions[id] = v
}

func (w *seen) drop(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sessions, id)
}

// A census says which sessions there are.
type census struct {
	alive []string
	ended map[string]*BlockedError // whose yes may still stand
	date  time.Time                // by the server's clock
}

// blocked returns the last of the promises that still stand of sessions that ended and gave no answer.
func (c census) blocked(given map[string]bool) error {
	var last *BlockedError
	for id, b := range c.ended {
		if !given[id] && (last == nil || b.Until.After(last.Until)) {
			last = b
		}
	}
	if last == nil {
		return nil
	}
	return last
}

// takeCensus lists the sessions. It declares dead those that were silent for too long, and removes the records of those
// whose promises have run out.
func (s *Store) takeCensus(ctx context.Context, l *life) (c census, err error) {
	c.ended = map[string]*BlockedError{}
	var found []bucket.Object
	c.date, err = bucket.All(ctx, s.bucket, sessions, func(page []bucket.Object) error {
		found = append(found, page...)
		return nil
	})
	if err != nil {
		return c, err
	}
	if c.date.IsZero() {
		return c, errors.New("the bucket's server does not say what time it is, so nobody knows whose promises have run out")
	}
	for _, o := range found {
		id := strings.TrimPrefix(o.Key, sessions)
		if id == l.id {
			c.alive = append(c.alive, id)
			continue
		}
		v, err := s.look(ctx, id, o)
		if errors.Is(err, bucket.ErrNotFound) {
			continue
		}
		if err != nil {
			return c, err
		}
		if v.State == alive {
			if v, err = s.suspect(ctx, v); err != nil {
				return c, err
			}
		}
		switch {
		case v.State == alive:
			c.alive = append(c.alive, id)
		case c.date.Before(v.promised()):
			c.ended[id] = &BlockedError{id, v.Host, v.promised(), v.damaged}
		default:
			if _, err := s.bucket.Delete(ctx, o.Key); err != nil {
				return c, err
			}
			s.seen.drop(id)
		}
	}
	return c, nil
}

// look reads a session's record if it changed.
func (s *Store) look(ctx context.Context, id string, o bucket.Object) (sighting, error) {
	before, ok := s.seen.get(id)
	if ok && before.etag == o.ETag {
		return before, nil
	}
	v := sighting{since: s.clock()}
	at, err := s.getJSON(ctx, o.Key, &v.session)
	switch {
	case errors.Is(err, blob.ErrCorrupt):
		// A session that lives mends it, and is then seen alive.
		v.session = session{ID: id, Lease: longestLease, State: dead}
		v.damaged, v.Silent = true, at.Modified
	case err != nil:
		return v, err
	case ok && before.etag == at.ETag:
		return before, nil // the listing writes it in another way
	}
	v.etag, v.modified = at.ETag, at.Modified
	if v.modified.IsZero() {
		return v, fmt.Errorf("the bucket's server does not say when %s was written", o.Key)
	}
	s.seen.put(id, v)
	return v, nil
}

// longestLease is longer than any that may be configured.
const longestLease = 366 * 24 * time.Hour

// suspect declares a session dead whose record did not change for two heartbeats, unless it changes now. From then on
// its renewals fail.
func (s *Store) suspect(ctx context.Context, v sighting) (sighting, error) {
	if s.clock()-v.since < 2*v.Heartbeat {
		return v, nil
	}
	v.State, v.Silent = dead, v.modified
	at, err := s.putJSON(ctx, sessions+v.ID, v.session, bucket.Condition{ETag: v.etag})
	if errors.Is(err, bucket.ErrCondition) {
		v.State = alive // so it seems; the next look will tell
		s.seen.drop(v.ID)
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.etag = at.ETag
	s.seen.put(v.ID, v)
	s.log.Warn("a session was declared dead", "session", v.ID, "host", v.Host, "silent since", v.Silent)
	return v, nil
}

// coarse is by how much two times of the server may be wrong: they come in seconds, and from several machines.
const coarse = 10 * time.Second

// promised returns until when what an ended session said may hold, by the server's clock. It may have spoken until a
// heartbeat after its last renewal; its requests may come until they are too old.
func (v sighting) promised() time.Time {
	if mutant.DeadLeases {
		return time.Time{}
	}
	last := v.modified
	if v.State == dead {
		last = v.Silent.Add(2 * v.Heartbeat)
	}
	return last.Add(max(v.Lease+coarse, bucket.MaxAge))
}
