package s3

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A session is what s/<session> says.
type session struct {
	ID        string        `json:"id"`
	Host      string        `json:"host"`
	Started   time.Time     `json:"started"`
	Lease     time.Duration `json:"lease"`     // of its yes
	Heartbeat time.Duration `json:"heartbeat"` // for how long it gives a yes after a renewal began
	Beat      int           `json:"beat"`      // how often it was renewed
	State     state         `json:"state"`
	// Silent is when the record was changed last, by the server's clock, before the session was declared dead.
	Silent time.Time `json:"silent,omitzero"`
}

type state string

// The states of a session.
const (
	alive  state = "alive"
	closed state = "closed" // by itself
	dead   state = "dead"   // declared so by another one
)

// newSession returns a name that no other session ever has. Later ones compare greater, as far as clocks agree.
func newSession() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%0*x%05x", nameDigits, stamp(), binary.LittleEndian.Uint32(b[:])&0xfffff)
}

// stamp returns the time in milliseconds since 2026, which is never zero.
func stamp() uint64 {
	return uint64(max(1, time.Since(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Milliseconds()))
}

// begin writes the record of a new session. Only then may the session put anything.
func (s *Store) begin(ctx context.Context) (_ *life, err error) {
	l := s.newLife()
	l.record = session{ID: l.id, Host: s.host, Started: time.Now().UTC().Round(time.Second), Lease: s.lease, Heartbeat: s.heartbeat, State: alive}
	for range decisions {
		o, err2 := s.putJSON(ctx, sessions+l.id, l.record, bucket.Condition{Absent: true})
		if err = err2; err != nil {
			// The answer may have been lost. Nobody else writes under this name.
			var now session
			if o, err2 = s.getJSON(ctx, sessions+l.id, &now); err2 == nil && now == l.record {
				err = nil
			}
		}
		if l.etag = o.ETag; err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("begin a session: %w", err)
}

// renew says in the session's record that it lives. A session that another one declared dead learns it here.
func (s *Store) renew(ctx context.Context, l *life) error {
	if !l.stands() {
		return ErrSuspended
	}
	l.mu.Lock()
	l.record.Beat++
	rec, etag := l.record, l.etag
	l.began[rec.Beat] = l.clock()
	l.mu.Unlock()
	o, err := s.putJSON(ctx, sessions+l.id, rec, bucket.Condition{ETag: etag})
	if err == nil {
		l.succeeded(rec.Beat, o.ETag)
		return nil
	}
	if !errors.Is(err, bucket.ErrCondition) {
		return err
	}
	// A renewal whose answer was lost may have come before this one.
	var now session
	o, err = s.getJSON(ctx, sessions+l.id, &now)
	switch {
	case err == nil && now.State == alive:
		l.succeeded(now.Beat, o.ETag)
		return nil
	case err == nil || errors.Is(err, bucket.ErrNotFound):
		l.end()
		return ErrSuspended
	case errors.Is(err, blob.ErrCorrupt) && l.stands():
		// Nobody can have declared it dead in so short a time, so that is no loss. The next renewal writes it anew.
		l.succeeded(0, o.ETag)
	}
	return err
}

func (l *life) succeeded(beat int, etag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.etag = etag
	if began, ok := l.began[beat]; ok {
		l.renewed = max(l.renewed, began)
	}
	for b := range l.began {
		if b <= beat {
			delete(l.began, b)
		}
	}
}

// finish says in the session's record that it has ended, unless that says so already.
func (s *Store) finish(ctx context.Context, l *life) (err error) {
	l.mu.Lock()
	l.over = true
	rec, etag := l.record, l.etag
	l.mu.Unlock()
	rec.State = closed
	for range decisions {
		if _, err = s.putJSON(ctx, sessions+l.id, rec, bucket.Condition{ETag: etag}); err == nil {
			return nil
		}
		// The answer may have been lost, or that of a renewal that came before.
		var now session
		o, err2 := s.getJSON(ctx, sessions+l.id, &now)
		if err2 == nil && now.State != alive || errors.Is(err2, bucket.ErrNotFound) {
			return nil
		}
		if o.ETag != "" {
			etag = o.ETag
		}
	}
	return err
}

// forsake ends a session that has said nothing and put nothing. Nobody has to wait for what it promised, so its record
// goes.
func (s *Store) forsake(ctx context.Context, l *life) error {
	ctx, cancel := context.WithTimeout(ctx, s.heartbeat)
	defer cancel()
	l.end()
	_, err := s.bucket.Delete(ctx, sessions+l.id)
	return err
}

func (s *Store) putJSON(ctx context.Context, key string, value any, when bucket.Condition) (bucket.Object, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return bucket.Object{}, err
	}
	return s.bucket.Put(ctx, key, bytesAt(b), int64(len(b)), when)
}

func (s *Store) getJSON(ctx context.Context, key string, value any) (bucket.Object, error) {
	b, o, err := s.bucket.Get(ctx, key, 0, -1)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(b, value); err != nil {
		return o, fmt.Errorf("%w: %s: %w", blob.ErrCorrupt, key, err)
	}
	return o, nil
}
