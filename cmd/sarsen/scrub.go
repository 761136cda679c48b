package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"path/filepath"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/segment"
)

// A fsckLine is a line of what a check says, also over HTTP. One field is set.
type fsckLine struct {
	Progress *fsckProgress `json:"progress,omitempty"`
	Damage   *fsckDamage   `json:"damage,omitempty"`
	Result   *fsckResult   `json:"result,omitempty"`
	Root     *fsckRoot     `json:"root,omitempty"`
	Summary  *fsckSummary  `json:"summary,omitempty"` // the last line of a check that came to its end
	Error    string        `json:"error,omitempty"`   // the last line of one that did not
}

func (l fsckLine) end() (whole bool, trouble string) { return l.Summary != nil, l.Error }

// A fsckProgress says which segment comes next.
type fsckProgress struct {
	Segment  int `json:"segment"` // from 1
	Segments int `json:"segments"`
}

// A fsckDamage is what does not verify: a blob, a record (an action result or an asset), or else a whole segment.
type fsckDamage struct {
	Blob    string `json:"blob,omitempty"`   // a digest
	Record  string `json:"record,omitempty"` // a key, in hexadecimal
	Segment string `json:"segment"`          // the file's name
	Offset  int64  `json:"offset"`
	Size    int64  `json:"size"` // bytes
	Error   string `json:"error"`
}

// A fsckResult is an action result that is damaged, or of which a part is.
type fsckResult struct {
	Instance string   `json:"instance"`
	Action   string   `json:"action"` // HASH, or blake3/HASH
	Itself   bool     `json:"itself,omitempty"`
	Blobs    []string `json:"blobs"` // digests of the damaged parts
}

// A fsckRoot is a root (a file of a backup, say) that is damaged, or of which a part is.
type fsckRoot struct {
	Name   string   `json:"name"`
	Itself bool     `json:"itself,omitempty"`
	Blobs  []string `json:"blobs"` // digests of the damaged parts
}

// A fsckSummary is what was verified in all.
type fsckSummary struct {
	Segments    int64 `json:"segments"`
	Records     int64 `json:"records"` // blobs and action results
	Bytes       int64 `json:"bytes"`   // of them
	Unfinished  int64 `json:"unfinished"`
	Damaged     int64 `json:"damaged"`
	Results     int64 `json:"results"`         // that are damaged, or name what is
	Roots       int64 `json:"roots,omitempty"` // likewise
	Quarantined bool  `json:"quarantined"`
}

// An audit turns what a check finds into lines.
type audit struct {
	say     func(fsckLine)
	blobs   map[digest.Key]bool // damaged
	survey  segment.Survey
	results int64 // that are damaged, or name one of blobs
	roots   int64 // likewise
}

func newAudit(say func(fsckLine)) *audit { return &audit{say: say, blobs: map[digest.Key]bool{}} }

func (a *audit) damaged(d segment.Damage) {
	l := &fsckDamage{Segment: filepath.Base(d.Segment), Offset: d.Offset, Size: d.Size, Error: d.Err.Error()}
	if errors.Is(d.Err, blob.ErrCorrupt) {
		l.Error = blob.ErrCorrupt.Error() // where is said already
	}
	switch {
	case d.IsRecord():
		l.Record = hex.EncodeToString(d.Record[:])
	case !d.IsSegment():
		l.Blob = d.Digest.String()
		a.blobs[d.Digest.Key()] = true
	}
	a.say(fsckLine{Damage: l})
	if k, ok := action.Owner(d.Record, d.Value); ok {
		a.affected(k, nil, true)
	}
	if root, released, err := blob.DecodeRoot(d.Value); err == nil && !released && sha256.Sum256([]byte(root.Name)) == d.Record {
		a.affectedRoot(root.Name, nil, true)
	}
}

func (a *audit) affectedRoot(name string, parts []string, itself bool) {
	a.roots++
	a.say(fsckLine{Root: &fsckRoot{name, itself, parts}})
}

func (a *audit) affected(k action.Key, parts []digest.Digest, itself bool) {
	l := &fsckResult{Instance: k.Instance, Action: k.Action.String(), Itself: itself, Blobs: []string{}}
	for _, d := range parts {
		l.Blobs = append(l.Blobs, d.String())
	}
	a.results++
	a.say(fsckLine{Result: l})
}

// A holder is what a check reads from.
type holder interface {
	action.Holder
	Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error]
}

// trace finds the action results and roots that name what is damaged.
func (a *audit) trace(ctx context.Context, from holder) error {
	if len(a.blobs) == 0 {
		return nil
	}
	damaged := func(d digest.Digest) bool { return a.blobs[d.Key()] }
	for root, err := range from.Kept(ctx, "") {
		if err != nil {
			return err
		}
		var parts []string
		blobs, err := root.Blobs(ctx, from)
		if err != nil {
			parts = append(parts, root.List.String())
		}
		for _, d := range blobs.List() {
			if damaged(d) {
				parts = append(parts, d.String())
			}
		}
		if len(parts) > 0 {
			a.affectedRoot(root.Name, parts, false)
		}
	}
	return action.Affected(ctx, from, damaged, func(k action.Key, parts []digest.Digest) { a.affected(k, parts, false) })
}

func (a *audit) end(quarantined bool) {
	n := a.survey
	a.say(fsckLine{Summary: &fsckSummary{n.Segments, n.Records, n.Bytes, n.Unfinished, n.Damaged, a.results, a.roots, quarantined}})
}

// scrub verifies a ring in use, which quarantines what is damaged, and calls say for each line.
func scrub(ctx context.Context, ring *segment.Ring, pause func() error, say func(fsckLine)) error {
	a := newAudit(say)
	at, of := 0, ring.Stats().Segments
	var err error
	a.survey, err = ring.Scrub(ctx, func() error {
		at++
		say(fsckLine{Progress: &fsckProgress{at, max(at, of)}})
		if pause == nil {
			return nil
		}
		return pause()
	}, a.damaged)
	if err == nil {
		err = a.trace(ctx, ring)
	}
	if err == nil {
		a.end(true)
	}
	return err
}

// fsck returns what POST /fsck does. It ends when the client goes or the server stops.
func (s *services) fsck(stopping context.Context) func(context.Context, func(any)) error {
	return func(ctx context.Context, say func(any)) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(stopping, func() { cancel(errStopping) })()
		err := scrub(ctx, s.ring, halfTime(ctx), func(l fsckLine) { say(l) })
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
}

var errStopping = errors.New("the server is stopping")

// halfTime returns a pause that lasts as long as the work since the last one did, so that the check takes
// half of the disk's time at most.
func halfTime(ctx context.Context) func() error {
	last := time.Now()
	return func() error {
		select {
		case <-time.After(time.Since(last)):
		case <-ctx.Done():
			return ctx.Err()
		}
		last = time.Now()
		return nil
	}
}
