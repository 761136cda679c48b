package s3

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/ledger"
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

// A life is one session of this process: its ledger, and what it let go of. One that was not renewed in time gives no
// yes any more; another one takes its place.
type life struct {
	id        string
	heartbeat time.Duration
	clock     func() time.Duration
	ledger    *ledger.Ledger
	ids       ids
	nextBlob  atomic.Uint64

	// door is held by whoever adopts what lies in the bucket, and by whoever lets go of it. No I/O is done inside.
	door   chan struct{}
	letGo  map[string]map[string]bool // by proposal or verdict: keys that may be deleted
	unread map[string]bool            // documents that are damaged: what they name is not known, so nothing is adopted
	spoilt map[string]bool            // keys whose bytes were found damaged: they are not adopted again, and no copy is let go for them
	drops  uint64                     // how often a set was dropped from letGo
	adds   uint64                     // how often one was added
	epoch  int                        // the greatest that the register was seen to have
	floor  ledger.Quarter             // of that epoch's collection
	before ledger.Quarter             // when that epoch was seen last
	lost   atomic.Bool                // something was let go in vain
	listed atomic.Bool                // for that the bucket is being listed
	heeded int                        // the newest serial number of the register that was heeded

	mu        sync.Mutex // guards what follows
	record    session
	etag      string
	began     map[int]time.Duration // by beat: when that renewal began
	renewed   time.Duration         // when the last one that succeeded began
	over      bool                  // it was not renewed in time, or was declared dead
	lastStamp uint64                // the greatest n of a record
	uploading map[string]bool       // keys that are not in the ledger yet, and will be
	flights   map[ledger.Key]*flight
	answers   map[string]*answer // by proposal
	open      string             // the proposal that the register names
	openSince time.Duration      // when that was seen first
}

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
	began := s.clock()
	l := &life{
		heartbeat: s.heartbeat, clock: s.clock, ledger: ledger.New(s.lease), id: s.newID(),
		door: make(chan struct{}, 1), floor: 1, before: 1, letGo: map[string]map[string]bool{}, unread: map[string]bool{}, spoilt: map[string]bool{}, began: map[int]time.Duration{},
		renewed: began, lastStamp: stamp(), uploading: map[string]bool{}, flights: map[ledger.Key]*flight{}, answers: map[string]*answer{},
	}
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

// stands reports whether a yes that was stamped before the call may be given: others believe that this session lives.
// Once it does not, it never does again.
func (l *life) stands() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clock()-l.renewed > l.heartbeat && !mutant.ShortFence {
		l.over = true
	}
	return !l.over
}

func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
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

// forsake ends a session that has said nothing and put nothing. Nobody has to wait for what it promised, so its record goes.
func (s *Store) forsake(ctx context.Context, l *life) error {
	ctx, cancel := context.WithTimeout(ctx, s.heartbeat)
	defer cancel()
	l.end()
	_, err := s.bucket.Delete(ctx, sessions+l.id)
	return err
}

// claim returns a new incarnation of a blob, which the session defends from now on until settle.
func (l *life) claim(k ledger.Key, size int64) incarnation {
	i := incarnation{key: k, size: size, session: l.id, n: l.nextBlob.Add(1)}
	if mutant.KeyReused {
		i.session, i.n = "0", 1
	}
	l.defend(i.name())
	return i
}

// claimRecord returns a new incarnation of a record, greater than the one that is known.
func (l *life) claimRecord(k ledger.Key, known uint64) incarnation {
	i := incarnation{key: k, session: l.id, n: l.stamp(known)}
	l.defend(i.name())
	return i
}

// stamp returns a number for something that may supersede: the time, if all who superseded it had a clock.
func (l *life) stamp(known uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastStamp = max(l.lastStamp+1, known+1, stamp())
	return l.lastStamp
}

func (l *life) defend(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploading[name] = true
}

// settle ends the defence of what is in the ledger, or never will be.
func (l *life) settle(i incarnation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.uploading, i.name())
}

func (l *life) defended(name string) bool {
	if mutant.UploadUndefended {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uploading[name]
}

// An ids gives sessions small numbers, so that a place is 64 bits.
type ids struct {
	mu     sync.Mutex
	names  []string
	number map[string]uint64
}

// sessionBits is how many bits of a place say which session it was. The greater part is n, since of a record the
// greatest place stands.
const sessionBits = 20

// place returns the ledger's name of an incarnation, or zero if there are too many sessions.
func (t *ids) place(i incarnation) ledger.Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.number[i.session]
	if !ok {
		n = uint64(len(t.names))
		if n >= 1<<sessionBits {
			return 0
		}
		if t.number == nil {
			t.number = map[string]uint64{}
		}
		t.number[i.session] = n
		t.names = append(t.names, i.session)
	}
	return ledger.Place(i.n<<sessionBits | n)
}

// at returns what lies at a place that place gave.
func (t *ids) at(k ledger.Key, size int64, p ledger.Place) incarnation {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := incarnation{key: k, size: size, session: t.names[p&(1<<sessionBits-1)], n: uint64(p >> sessionBits)}
	if k.Kind == ledger.Record {
		i.size = 0
	}
	return i
}

// adopt lets the ledger name what lies in the bucket, unless it may be deleted. drops is what l.drops was before it was
// looked for: if sets were dropped since, what was seen may have been deleted meanwhile, and adopt does nothing.
func (l *life) adopt(drops uint64, found []incarnation, fresh bool) (ok bool) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	if l.drops != drops {
		return false
	}
	if !mutant.AdoptBlind {
		found = slices.DeleteFunc(found, func(i incarnation) bool { return l.gone(i.name()) || l.spoilt[i.name()] })
	}
	batch := make([]ledger.Found, 0, len(found))
	for _, i := range found {
		p := l.ids.place(i)
		switch {
		case p == 0:
		case fresh: // nobody was told anything yet
			batch = append(batch, ledger.Found{Key: i.key, Size: i.size, Place: p})
		default:
			l.ledger.Adopt(i.key, i.size, p)
		}
	}
	l.ledger.Restore(batch...)
	return true
}

// gone reports whether a key may be deleted. The caller holds the door.
func (l *life) gone(name string) bool {
	if len(l.unread) > 0 {
		return true // it may be
	}
	for _, keys := range l.letGo {
		if keys[name] {
			return true
		}
	}
	return false
}

// undecided reports whether a collection asks for i and has given no verdict on it yet, as far as this session knows.
func (l *life) undecided(i incarnation) bool {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	asked := len(l.unread) > 0
	for document, keys := range l.letGo {
		switch {
		case !keys[i.name()]:
		case strings.HasPrefix(document, verdicts):
			return false
		default:
			asked = true
		}
	}
	return asked
}

// spoil remembers that an object's bytes are damaged.
func (l *life) spoil(name string) {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	l.spoilt[name] = true
}

// changeCount returns how often sets were dropped and added.
func (l *life) changeCount() uint64 {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	return l.drops + l.adds
}

// dropCount returns how often sets were dropped.
func (l *life) dropCount() uint64 {
	l.door <- struct{}{}
	defer func() { <-l.door }()
	return l.drops
}
