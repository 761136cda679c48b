package s3

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/ledger"
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
	door chan struct{}
	// What must not be adopted, guarded by the door.
	letGo  map[string]map[string]bool // by proposal or verdict: keys that may be deleted
	unread map[string]bool            // documents that are damaged: what they name is not known, so nothing is adopted
	spoilt map[string]bool            // keys whose bytes were found damaged: nor is another copy let go for one of them
	drops  uint64                     // how often a set was dropped from letGo
	adds   uint64                     // how often one was added
	// What the register said, guarded by the door.
	heeded   int            // the newest serial number that was heeded
	epoch    int            // the greatest that was seen
	floor    ledger.Quarter // of that epoch's collection
	lastSeen ledger.Quarter // when that epoch was seen last

	lost    atomic.Bool // something was let go in vain
	listing atomic.Bool // the bucket is being listed for that

	mu sync.Mutex // guards what follows
	// The session's record.
	record  session
	etag    string
	began   map[int]time.Duration // by beat: when that renewal began
	renewed time.Duration         // when the last one that succeeded began
	over    bool                  // it was not renewed in time, or was declared dead
	// Uploads.
	lastStamp uint64          // the greatest n of a record
	uploading map[string]bool // keys that are not in the ledger yet, and will be
	flights   map[ledger.Key]*flight
	// The proposal that the register names, and what was said to it and to others.
	open      string
	openSince time.Duration      // when that was seen first
	answers   map[string]*answer // by proposal
}

// newLife returns the life of a new session, which nobody knows of yet.
func (s *Store) newLife() *life {
	return &life{
		id: s.newID(), heartbeat: s.heartbeat, clock: s.clock, ledger: ledger.New(s.lease),
		door: make(chan struct{}, 1), letGo: map[string]map[string]bool{}, unread: map[string]bool{}, spoilt: map[string]bool{},
		floor: 1, lastSeen: 1,
		began: map[int]time.Duration{}, renewed: s.clock(),
		lastStamp: stamp(), uploading: map[string]bool{}, flights: map[ledger.Key]*flight{},
		answers: map[string]*answer{},
	}
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

// yes returns nil while what was stamped before the call may be told, and ErrSuspended from then on.
func (l *life) yes() error {
	if !l.stands() {
		return ErrSuspended
	}
	return nil
}

// end says that the session does not stand any more.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

// claim returns a new incarnation of a blob and its place. The session defends it from now on until settle.
func (l *life) claim(k ledger.Key, size int64) (incarnation, ledger.Place, error) {
	i := incarnation{key: k, size: size, session: l.id, n: l.nextBlob.Add(1)}
	if mutant.KeyReused {
		i.session, i.n = "0", 1
	}
	p, err := l.defend(i)
	return i, p, err
}

// claimRecord is claim for a record. Its incarnation is greater than the one that is known.
func (l *life) claimRecord(k ledger.Key, known uint64) (incarnation, ledger.Place, error) {
	i := incarnation{key: k, session: l.id, n: l.stamp(known)}
	p, err := l.defend(i)
	return i, p, err
}

// stamp returns a number for something that may supersede: the time, if all who superseded it had a clock.
func (l *life) stamp(known uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastStamp = max(l.lastStamp+1, known+1, stamp())
	return l.lastStamp
}

// defend refuses from now on to let go of an incarnation, and returns its place.
func (l *life) defend(i incarnation) (ledger.Place, error) {
	p := l.ids.place(i)
	if p == 0 {
		return 0, errors.New("the bucket has had too many sessions since this one began")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploading[i.name()] = true
	return p, nil
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
