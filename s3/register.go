package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A register is what the object "owner" says, through which all decisions go. It is written only on the condition that it
// is what the writer read, so that its changes have one order, and whoever was stopped for a while changes nothing.
type register struct {
	Serial   int       `json:"serial"`             // of changes, so that no two contents are equal
	Epoch    int       `json:"epoch"`              // of the newest collection
	Session  string    `json:"session"`            // who collects
	Proposal string    `json:"proposal,omitempty"` // what all sessions must answer
	Verdicts []verdict `json:"verdicts,omitempty"` // what may be deleted
}

// A verdict names a list of keys that all sessions let go of.
type verdict struct {
	Key     string `json:"key"`
	Session string `json:"session"` // who deletes them
}

// readRegister returns what the register says, and its version; nothing and "" if there is none yet.
func (s *Store) readRegister(ctx context.Context) (r register, etag string, err error) {
	at, err := s.getJSON(ctx, registerKey, &r)
	if errors.Is(err, bucket.ErrNotFound) {
		return register{}, "", nil
	}
	return r, at.ETag, err
}

// errOvertaken says that the register is not what it was.
var errOvertaken = fmt.Errorf("%w: its register was changed", ErrBusy)

// writeRegister changes the register if it is still of that version.
func (s *Store) writeRegister(ctx context.Context, etag string, r *register) (string, error) {
	r.Serial++
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	var last error
	for range decisions {
		when := bucket.Condition{Absent: etag == "", ETag: etag}
		if mutant.RegisterUnfenced {
			when = bucket.Condition{}
		}
		at, err := s.bucket.Put(ctx, registerKey, bytesAt(b), int64(len(b)), when)
		if err == nil {
			return at.ETag, nil
		}
		// The answer may have been lost.
		now, at, err2 := s.bucket.Get(ctx, registerKey, 0, -1)
		switch {
		case err2 == nil && bytes.Equal(now, b):
			return at.ETag, nil
		case err2 == nil && at.ETag != etag:
			return "", errOvertaken
		}
		last = err
	}
	return "", fmt.Errorf("decide: %w", last)
}

// decisions is how often a change of the register is tried.
const decisions = 3

// change changes the register, and heeds it as every session does.
func (s *Store) change(ctx context.Context, l *life, etag string, r *register) (string, error) {
	asked := l.ledger.Now()
	etag, err := s.writeRegister(ctx, etag, r)
	if err != nil {
		return "", err
	}
	return etag, s.heed(ctx, l, *r, asked)
}
