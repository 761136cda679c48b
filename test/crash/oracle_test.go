//go:build crash && linux

package crash

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/digest"
)

// forever is the lease of servers that have none: what they acknowledge they never take back.
const forever = 100 * 365 * 24 * time.Hour

// A fact is what the oracle knows of one blob.
type fact struct {
	digest digest.Digest
	seed   uint64    // of its bytes; 0 if they are a tree's
	born   time.Time // when it was first sent
	until  time.Time // when the lease of the last yes ends; zero if there was none
	named  bool      // by a result that was acknowledged
}

// A version is one result that was sent for an action.
type version struct {
	closure []digest.Digest // everything that it names, trees' files too
}

// A record is what the oracle knows of the results of one action, which one writer sends in order.
type record struct {
	action   digest.Digest
	born     time.Time
	until    time.Time
	versions []version
	acked    int // the newest version that got a yes, or -1
}

// A sample is what to ask a server for, as the oracle knew it at one instant.
type sample struct {
	blobs   []fact
	records []record
	roots   map[int]rootFact
	latest  map[int]rootFact // of roots, at the instant of the crash
}

// An oracle knows what was sent and what was acknowledged. Its methods may be called from many
// goroutines at once.
type oracle struct {
	lease time.Duration
	roots roots

	mu           sync.Mutex
	blobs        map[digest.Digest]*fact
	records      map[digest.Digest]*record
	recent       []digest.Digest // blobs that were sent last, for those who ask or send again
	recentKeys   []digest.Digest // actions, likewise
	acknowledged int64           // blobs and results that got their first yes, ever
	bytes        int64           // of blobs that were sent since reset
}

func newOracle(lease time.Duration) *oracle {
	o := &oracle{lease: lease}
	o.reset()
	return o
}

// reset forgets everything but the counts, for a server that starts with an empty directory.
func (o *oracle) reset() {
	o.roots.reset()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blobs, o.records = map[digest.Digest]*fact{}, map[digest.Digest]*record{}
	o.recent, o.recentKeys, o.bytes = nil, nil, 0
}

// remember appends d to list, which holds the last few hundred.
func remember(list []digest.Digest, d digest.Digest) []digest.Digest {
	if len(list) >= 1024 {
		list = append(list[:0], list[512:]...)
	}
	return append(list, d)
}

// sending notes that a blob is about to be sent.
func (o *oracle) sending(d digest.Digest, seed uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes += d.Size
	if o.blobs[d] == nil {
		o.blobs[d] = &fact{digest: d, seed: seed, born: time.Now()}
		o.recent = remember(o.recent, d)
	}
}

// yes notes a yes to a question about d that was asked at the time asked. The yes that a blob gets when
// it is older than a lease is not noted, or nothing would ever be forgotten and evicted.
func (o *oracle) yes(d digest.Digest, asked time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.blobs[d]; f != nil {
		o.leased(f, asked)
	}
}

func (o *oracle) leased(f *fact, asked time.Time) {
	if asked.Sub(f.born) > o.lease {
		return
	}
	if f.until.IsZero() {
		o.acknowledged++
	}
	if until := asked.Add(o.lease); until.After(f.until) {
		f.until = until
	}
}

// updating notes that a result is about to be sent and returns its version.
func (o *oracle) updating(action digest.Digest, closure []digest.Digest) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.records[action]
	if r == nil {
		r = &record{action: action, born: time.Now(), acked: -1}
		o.records[action] = r
		o.recentKeys = remember(o.recentKeys, action)
	}
	r.versions = append(r.versions, version{closure})
	return len(r.versions) - 1
}

// next returns the version that the next result of action will have.
func (o *oracle) next(action digest.Digest) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.records[action]; r != nil {
		return len(r.versions)
	}
	return 0
}

// resulted notes a yes for a version of action's result: to an update or to a get.
func (o *oracle) resulted(action digest.Digest, v int, asked time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.records[action]
	if r == nil || v < r.acked || v >= len(r.versions) || asked.Sub(r.born) > o.lease {
		return
	}
	if r.acked < 0 {
		o.acknowledged++
	}
	r.acked = v
	if until := asked.Add(o.lease); until.After(r.until) {
		r.until = until
	}
	for _, d := range r.versions[v].closure {
		if f := o.blobs[d]; f != nil {
			f.named = true
			o.leased(f, asked)
		}
	}
}

// lost forgets what a server lost, so that each loss counts once.
func (o *oracle) lost(d digest.Digest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.blobs, d)
	delete(o.records, d)
}

// promised returns all that must be there now, and forgets what need not be there any more.
func (o *oracle) promised() sample {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := sample{roots: o.roots.promised()}
	s.latest = s.roots
	now := time.Now()
	for d, f := range o.blobs {
		if f.until.After(now) {
			s.blobs = append(s.blobs, *f)
		} else if now.Sub(f.born) > o.lease {
			delete(o.blobs, d)
		}
	}
	for d, r := range o.records {
		if r.until.After(now) {
			s.records = append(s.records, *r)
		} else if now.Sub(r.born) > o.lease {
			delete(o.records, d)
		}
	}
	return s
}

// some returns a few of the latest blobs and results, acknowledged or not: what asks for those that are
// on their way may get a yes before their writers do.
func (o *oracle) some(r *rand.Rand, n int) sample {
	o.mu.Lock()
	defer o.mu.Unlock()
	var s sample
	for range min(n, len(o.recent)) {
		if f := o.blobs[o.recent[r.IntN(len(o.recent))]]; f != nil && time.Since(f.born) < o.lease {
			s.blobs = append(s.blobs, *f)
		}
	}
	for range min(n/8, len(o.recentKeys)) {
		if k := o.records[o.recentKeys[r.IntN(len(o.recentKeys))]]; k != nil && time.Since(k.born) < o.lease {
			s.records = append(s.records, *k)
		}
	}
	return s
}

// counts returns how many blobs and results were acknowledged, and the bytes sent since reset.
func (o *oracle) counts() (acknowledged, bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acknowledged + o.roots.answers(), o.bytes
}
