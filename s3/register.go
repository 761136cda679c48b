package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/ledger"
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

// change changes the register, and heeds it as every session does.
func (s *Store) change(ctx context.Context, l *life, etag string, r *register) (string, error) {
	asked := l.ledger.Now()
	etag, err := s.writeRegister(ctx, etag, r)
	if err != nil {
		return "", err
	}
	return etag, s.heed(ctx, l, *r, asked)
}

// decisions is how often a change of the register is tried.
const decisions = 3

// A proposal is what sessions are asked to let go of, and a verdict's list what they all did.
type proposal struct {
	force bool // what was used since the last look may go too
	lines []line
}

// A line is a key, and, if that is a second copy, the one that stays.
type line struct{ key, survivor string }

const (
	documentHead = "sarsen proposal 1\n"
	forced       = "force\n"
)

func (p proposal) encode() []byte {
	b := []byte(documentHead)
	if p.force {
		b = append(b, forced...)
	}
	for _, l := range p.lines {
		b = append(b, l.key...)
		if l.survivor != "" {
			b = append(append(b, ' '), l.survivor...)
		}
		b = append(b, '\n')
	}
	return b
}

func decodeProposal(text string) (p proposal, err error) {
	text, ok := strings.CutPrefix(text, documentHead)
	if !ok {
		return p, errors.New("a proposal of another version")
	}
	text, p.force = strings.CutPrefix(text, forced)
	for row := range strings.Lines(text) {
		key, survivor, _ := strings.Cut(strings.TrimSuffix(row, "\n"), " ")
		p.lines = append(p.lines, line{key, survivor})
	}
	return p, nil
}

func (p proposal) keys() map[string]bool {
	keys := make(map[string]bool, len(p.lines))
	for _, l := range p.lines {
		keys[l.key] = true
	}
	return keys
}

func (s *Store) readProposal(ctx context.Context, key string) (proposal, error) {
	text, err := s.readLines(ctx, key)
	if err != nil {
		return proposal{}, err
	}
	p, err := decodeProposal(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return p, err
}

// writeLines writes a document, which ends with the XXH3 of what comes before.
func (s *Store) writeLines(ctx context.Context, key string, b []byte) error {
	b = fmt.Appendf(b, "%0*x\n", sumDigits, xxh3.Hash(b))
	_, err := s.bucket.Put(ctx, key, bytesAt(b), int64(len(b)), bucket.Condition{})
	return err
}

const sumDigits = 16

func (s *Store) readLines(ctx context.Context, key string) (string, error) {
	b, _, err := s.bucket.Get(ctx, key, 0, -1)
	if err != nil {
		return "", err
	}
	end := len(b) - sumDigits - 1
	if end < 0 || fmt.Sprintf("%0*x\n", sumDigits, xxh3.Hash(b[:end])) != string(b[end:]) {
		return "", fmt.Errorf("%w: %s", blob.ErrCorrupt, key)
	}
	return string(b[:end]), nil
}

// follow does what the register asks of every session: it answers the proposal, and does not adopt what may be
// deleted.
func (s *Store) follow(ctx context.Context, l *life) error {
	if err := s.answer(ctx, l); err != nil {
		return err
	}
	return s.regain(ctx, l)
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

// answerKey returns where a session's answer lies. It is not below the proposal: where keys are files, nothing can lie
// below an object.
func answerKey(proposal, session string) string { return proposal + "." + session }

// An answer is what a session said to a proposal.
type answer struct {
	refused []string
	forgot  []string // keys that the ledger named until then
	sent    bool
}

func (l *life) answerTo(proposal string) *answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[proposal]
}

// heed lets go of what the register says may be deleted, and forgets what it does not say any more.
func (s *Store) heed(ctx context.Context, l *life, r register, asked ledger.Quarter) error {
	l.saw(r.Epoch, asked)
	open := map[string]bool{}
	if r.Proposal != "" {
		open[r.Proposal] = true
	}
	for _, v := range r.Verdicts {
		open[v.Key] = true
	}
	for key := range open {
		if l.heeds(key) {
			continue
		}
		p, err := s.readProposal(ctx, key)
		if errors.Is(err, blob.ErrCorrupt) {
			s.log.Error("what may be deleted is not known, so nothing that is found in the bucket is taken up", "damaged", key)
			l.adoptNothing(key)
			continue
		}
		if err != nil {
			return err
		}
		l.letGoOf(key, p, key == r.Proposal)
	}
	l.forget(r.Serial, open)
	return nil
}

// heeds reports whether the session let go of what a document names.
func (l *life) heeds(key string) bool {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	return l.letGo[key] != nil
}

// adoptNothing lets nothing be adopted until a document that is damaged is not open any more. It gets no answer.
func (l *life) adoptNothing(document string) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	l.unread[document] = true
	l.adds++
}

// forget drops what was let go for documents that are not open any more, unless something newer was heeded already.
func (l *life) forget(serial int, open map[string]bool) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	if serial < l.heeded {
		return
	}
	l.heeded = serial
	var over []*answer
	for key := range l.unread {
		if !open[key] {
			l.readAgain(key)
		}
	}
	for key := range l.letGo {
		if !open[key] {
			delete(l.letGo, key)
			l.drops++
		}
	}
	l.mu.Lock()
	for key, a := range l.answers {
		if !open[key] {
			delete(l.answers, key)
			over = append(over, a)
		}
	}
	l.mu.Unlock()
	for _, a := range over {
		for _, key := range a.forgot {
			if !l.gone(key) {
				l.lost.Store(true)
			}
		}
	}
}

// readAgain ends what adoptNothing began. The caller holds the door.
func (l *life) readAgain(document string) {
	delete(l.unread, document)
	l.drops++
	l.lost.Store(true)
}

// saw notes that the register had an epoch when it was asked, or later. A collection reads roots only when its epoch has
// begun. So the last time that an earlier one was seen is the floor: a root that was there then will be read, and what
// others name was leased since.
func (l *life) saw(epoch int, asked ledger.Quarter) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	switch {
	case epoch > l.epoch:
		l.epoch, l.floor, l.before = epoch, l.before, asked
	case epoch == l.epoch:
		l.before = max(l.before, asked)
	}
}

// letGoOf lets go of what a proposal names, but for what it must refuse: what is leased, held or on its way. From then
// on nothing of it is adopted. Of a second copy the survivor takes the place, with its leases and pins. What a verdict
// names was let go of before, or was never here.
func (l *life) letGoOf(document string, p proposal, ask bool) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	if l.letGo[document] != nil {
		return
	}
	keys := p.keys()
	a := &answer{}
	floor := l.floor
	if epochOf(document) != l.epoch {
		floor = 1 // hold what was ever leased
	}
	for _, named := range p.lines {
		if !ask {
			continue
		}
		switch agreed, forgot := l.condemn(named, p.force, floor); {
		case !agreed:
			a.refused = append(a.refused, named.key)
			delete(keys, named.key)
		case forgot:
			a.forgot = append(a.forgot, named.key)
		}
	}
	l.letGo[document] = keys
	l.adds++
	if l.unread[document] { // it came damaged, and is not
		l.readAgain(document)
	}
	if ask {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.answers[document] = a
	}
}

// condemn makes the ledger forget an incarnation. It reports whether the ledger does not name it any more, and whether
// it did. The caller holds the door.
func (l *life) condemn(named line, force bool, floor ledger.Quarter) (agreed, forgot bool) {
	i, ok := parseName(named.key)
	if !ok {
		return true, false
	}
	if l.defended(named.key) {
		return false, false
	}
	p := l.ids.place(i)
	if p == 0 {
		return true, false // it could not be adopted
	}
	if l.spoilt[named.survivor] {
		return false, false
	}
	if survivor, ok := parseName(named.survivor); ok && survivor.key == i.key && survivor.size == i.size {
		if to := l.ids.place(survivor); to != 0 && l.ledger.Move(i.key, p, to, always) {
			return true, false
		}
	}
	switch l.ledger.CondemnBefore(i.key, p, force, floor) {
	case ledger.Held, ledger.Warm:
		return mutant.RefusalsIgnored, false
	case ledger.Condemned:
		return true, true
	}
	return true, false
}

func always() (ok, recorded bool) { return true, true }

// epochOf returns the epoch of a proposal or verdict.
func epochOf(key string) int {
	number, _, _ := strings.Cut(key[min(len(key), len(proposals)):], "-")
	n, _ := strconv.Atoi(strings.TrimLeft(number, "0"))
	return n
}

func documentKey(prefix string, epoch int, session string) string {
	return fmt.Sprintf("%s%010d-%s", prefix, epoch, session)
}
