package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A world is a bucket, servers on it, and what they promised.
type world struct {
	*testing.T
	s       *explore.Schedule
	mem     *bucket.Memory
	begin   time.Time
	servers []*server
	done    atomic.Bool     // the collector is through
	begins  bool            // sessions begin while the schedule runs
	rested  map[uint64]bool // states at rest that were looked at

	mu    sync.Mutex
	yeses []yes
	kept  map[string][]digest.Digest // acknowledged
}

// A yes is what a client was told, and until when it holds.
type yes struct {
	d     digest.Digest
	until time.Time
	by    *server
}

// A server is a store whose process can be stopped, go on, and crash.
type server struct {
	*Store
	w       *world
	name    string
	link    *link
	crashed bool
}

// A server that was given up is so within the age at which its requests are refused.
var worldOptions = Options{Lease: 30 * time.Minute, Heartbeat: 4 * time.Minute, parallel: 4, uncompressed: true, blockSize: 1 << 10, chunk: 2, manual: true}

func newWorld(t *testing.T, s *explore.Schedule) *world {
	w := &world{T: t, s: s, begin: time.Now(), kept: map[string][]digest.Digest{}}
	s.Only = w.matters
	w.mem = &bucket.Memory{Before: func(op, key string) { sim.Point(op + " " + key) }}
	s.Fingerprint = w.fingerprint
	return w
}

// matters reports whether another process may come before a request with an effect that it has not right after the
// one before. What documents say never changes, and they are nothing before the register names them.
func (w *world) matters(point string) bool {
	op, key, _ := strings.Cut(point, " ")
	switch {
	case strings.HasPrefix(key, sessions):
		return op == "list" || op == "put" && w.begins
	case strings.HasPrefix(key, proposals):
		return op == "put" && strings.Contains(key, ".") // an answer
	case strings.HasPrefix(key, verdicts), strings.HasPrefix(key, records):
		return false
	case strings.HasPrefix(key, roots):
		return op != "get"
	}
	return true
}

// serve begins a server. What it does before the schedule runs is not explored.
func (w *world) serve(name string) *server {
	sv := &server{w: w, name: name}
	sv.link = &link{Bucket: w.mem, w: w}
	o := worldOptions
	o.Host = name
	o.clock = func() time.Duration { return time.Since(w.begin) }
	n := 0
	o.newID = func() string { n++; return fmt.Sprintf("%s%d", name, n) }
	st, err := Open(context.Background(), sv.link, o)
	if err != nil {
		if !errors.Is(err, errCrashed) {
			w.Errorf("%s: Open = %v", name, err)
		}
		sv.crashed = true
		return sv
	}
	sv.Store = st
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = append(w.servers, sv)
	return sv
}

var errCrashed = errors.New("the process was killed")

// A link is how one server reaches the bucket. The process may be stopped before and after each request.
type link struct {
	bucket.Bucket
	w *world

	mu      sync.Mutex
	stopped chan struct{} // closed when the process goes on
	dead    bool
}

func (l *link) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = make(chan struct{})
}

func (l *link) goOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped != nil {
		close(l.stopped)
	}
	l.stopped = nil
}

func (l *link) crash() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// wait waits while the process is stopped.
func (l *link) wait() error {
	for {
		l.mu.Lock()
		stopped, dead := l.stopped, l.dead
		l.mu.Unlock()
		if dead {
			return errCrashed
		}
		if stopped == nil {
			return nil
		}
		<-stopped
	}
}

// around does a request between two instants at which the process may be stopped, and notes what it learned.
func (l *link) around(do func() (learned any, err error)) error {
	if err := l.wait(); err != nil {
		return err
	}
	learned, err := do()
	l.w.s.Note(explore.Hash(learned, err))
	if dead := l.wait(); dead != nil {
		return dead
	}
	return err
}

func (l *link) Get(ctx context.Context, key string, off, n int64) (b []byte, o bucket.Object, err error) {
	err = l.around(func() (any, error) {
		b, o, err = l.Bucket.Get(ctx, key, off, n)
		return bucket.ETag(b), err
	})
	return b, o, err
}

func (l *link) Head(ctx context.Context, key string) (o bucket.Object, err error) {
	err = l.around(func() (any, error) {
		o, err = l.Bucket.Head(ctx, key)
		return o.ETag, err
	})
	return o, err
}

func (l *link) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (o bucket.Object, err error) {
	err = l.around(func() (any, error) {
		o, err = l.Bucket.Put(ctx, key, body, size, when)
		return o.ETag, err
	})
	return o, err
}

func (l *link) List(ctx context.Context, prefix, after string) (p bucket.Page, err error) {
	err = l.around(func() (any, error) {
		p, err = l.Bucket.List(ctx, prefix, after)
		return p.Objects, err
	})
	return p, err
}

func (l *link) Delete(ctx context.Context, keys ...string) (left []string, err error) {
	err = l.around(func() (any, error) {
		left, err = l.Bucket.Delete(ctx, keys...)
		l.w.stand("after a DELETE")
		return left, err
	})
	return left, err
}

// has reports whether the bucket has an object of a blob.
func (w *world) has(d digest.Digest) bool { return len(w.mem.Keys(blobPrefix(keyOf(d))+"-")) > 0 }

// stand sees that what was promised still holds: every yes whose lease goes on, and every root that stands in the bucket,
// acknowledged or not.
func (w *world) stand(when string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, y := range w.yeses {
		if time.Now().Before(y.until) && !w.has(y.d) {
			w.Errorf("%s: YesStands: the object is gone of %v, which %s said is there", when, y.d, y.by.name)
		}
	}
	var last string
	keys := w.mem.Keys(roots)
	for i, key := range keys {
		which, _, _, _ := splitRoot(key)
		if i+1 < len(keys) && strings.HasPrefix(keys[i+1], which+".") {
			continue
		}
		last = key
		r, released, err := decodeRootObject(key, w.mem.Value(last))
		if err != nil {
			w.Errorf("%s: root %s: %v", when, key, err)
		}
		for _, d := range r.Few {
			if !released && !w.has(d) {
				w.Errorf("%s: CollectorSpares: root %s has a missing blob %v", when, key, d)
			}
		}
	}
}

// said notes a yes. Its lease began at the latest when the store was asked; what came of a stop in between is the
// network's.
func (sv *server) said(d digest.Digest, asked time.Time) {
	sv.w.mu.Lock()
	defer sv.w.mu.Unlock()
	sv.w.yeses = append(sv.w.yeses, yes{d, asked.Add(worldOptions.Lease), sv})
}

// put uploads data, and reads it if it was told yes.
func (sv *server) put(data []byte) error {
	asked := time.Now()
	d := digest.SHA256.Of(data)
	if sv.Store == nil {
		return errCrashed
	}
	err := blob.Put(context.Background(), sv.Store, d, data)
	sv.w.s.Note(explore.Hash(err))
	if err != nil {
		return err
	}
	sv.said(d, asked)
	return nil
}

// ask asks for data, and reports whether it is there.
func (sv *server) ask(data []byte) bool {
	asked := time.Now()
	d := digest.SHA256.Of(data)
	missing, err := sv.Missing(context.Background(), digest.SetOf(d))
	sv.w.s.Note(explore.Hash(err, missing.Len()))
	if err != nil || missing.Len() > 0 {
		return false
	}
	sv.said(d, asked)
	return true
}

// keep keeps data under name.
func (sv *server) keep(name string, all ...[]byte) error {
	var ds digest.Set
	for _, data := range all {
		ds.Add(digest.SHA256.Of(data))
	}
	err := sv.Keep(context.Background(), name, nil, ds)
	sv.w.s.Note(explore.Hash(err))
	if err == nil {
		sv.w.mu.Lock()
		defer sv.w.mu.Unlock()
		sv.w.kept[name] = ds.List()
	}
	return err
}

// add adds a blob to what a root keeps, whoever else changes it meanwhile.
func (sv *server) add(name string, data []byte) {
	d := digest.SHA256.Of(data)
	err := blob.WhileChanged(context.Background(), func() error {
		was, ds := (*blob.Root)(nil), digest.SetOf(d)
		r, err := blob.KeptRoot(context.Background(), sv.Store, name)
		if err == nil {
			was = &r
			for _, few := range r.Few {
				ds.Add(few)
			}
		} else if !errors.Is(err, blob.ErrNotFound) {
			return err
		}
		return sv.KeepIf(context.Background(), name, was, nil, ds)
	})
	sv.w.s.Note(explore.Hash(err))
	if err == nil {
		sv.w.mu.Lock()
		defer sv.w.mu.Unlock()
		sv.w.kept[name] = append(sv.w.kept[name], d)
	}
}

// poll does what the background does, until the collector is through.
func (sv *server) poll() {
	for !sv.w.done.Load() {
		l := sv.now.Load()
		_ = sv.renew(context.Background(), l)
		if err := sv.follow(context.Background(), l); errors.Is(err, errCrashed) {
			return
		}
		time.Sleep(worldOptions.Heartbeat / 4)
	}
}

// collect removes all that may go, as sv.
func (sv *server) collect(patience time.Duration) {
	defer func() { sv.w.done.Store(true) }()
	_, err := sv.Collect(context.Background(), Policy{All: true, Patience: patience})
	var blocked *BlockedError
	if err != nil && !errors.Is(err, ErrBusy) && !errors.As(err, &blocked) && !errors.Is(err, errCrashed) && !errors.Is(err, ErrSuspended) && !errors.Is(err, bucket.ErrUnknown) && !errors.Is(err, bucket.ErrNotFound) && !errors.Is(err, bucket.ErrBusy) {
		sv.w.Errorf("%s: Collect = %v", sv.name, err)
	}
}

// takeOver waits until the one that collects is given up, and withdraws its proposal. Nothing goes but second copies.
func (sv *server) takeOver() {
	time.Sleep(worldOptions.Heartbeat + 30*time.Second) // it has gone as far as it goes
	for i := range 2 {
		if i > 0 {
			time.Sleep(2*worldOptions.Heartbeat + time.Minute)
		}
		_, err := sv.Collect(context.Background(), Policy{Patience: time.Second})
		sv.w.s.Note(explore.Hash(err))
	}
	_ = sv.follow(context.Background(), sv.now.Load())
}

// stopFor stops a process at this instant, for so long that others give it up, and lets it go on.
func (sv *server) stopFor(d time.Duration) {
	sv.link.stop()
	time.Sleep(d)
	sv.link.goOn()
}

// once makes the first request of a kind fail in a way.
func (w *world) once(f bucket.Fault, op, prefix string) {
	used := false
	w.mem.Fault = func(o, key string) bucket.Fault {
		if used || o != op || !strings.HasPrefix(key, prefix) {
			return bucket.None
		}
		used = true
		return f
	}
}

// rest sees that all holds at rest: what was promised, and that two collections leave nothing that nobody wants.
func (w *world) rest() {
	w.mem.Fault = nil
	w.mem.Land("")
	for _, sv := range w.servers {
		defer sv.stop()
	}
	w.stand("at rest")
	for name, ds := range w.kept {
		keys := w.mem.Keys(rootPrefix(name))
		if len(keys) == 0 {
			w.Errorf("at rest: root %q of %d blobs is gone", name, len(ds))
			continue
		}
		r, _, err := decodeRootObject(last(keys), w.mem.Value(last(keys)))
		for _, d := range ds {
			if !slices.Contains(r.Few, d) {
				w.Errorf("at rest: lost update: root %q was told to keep %v, and does not: %v", name, d, err)
			}
		}
	}
	w.reads()
	h := explore.Hash(w.mem.Keys(""), time.Now().UnixNano())
	if w.rested == nil || !w.rested[h] {
		w.leaks()
	}
	if w.rested != nil {
		w.rested[h] = true
	}
}

// reads sees that a server that lives can read what it said yes to, and what is kept.
func (w *world) reads() {
	for _, y := range w.yeses {
		l := y.by.now.Load()
		if y.by.link.dead || !l.stands() || !time.Now().Before(y.until) {
			continue
		}
		if err := check(y.by.Store, y.d); err != nil {
			w.Errorf("at rest: YesStands: %s: %v", y.by.name, err)
		}
	}
}

func check(s *Store, d digest.Digest) error {
	got, err := blob.Get(context.Background(), s, d)
	if err == nil && digest.SHA256.Of(got) != d {
		err = errors.New("other bytes")
	}
	if err != nil {
		return fmt.Errorf("a yes did not stand: %w", err)
	}
	return nil
}

// leaks lets all promises run out, collects as a new server, and looks at what is left.
func (w *world) leaks() {
	for _, sv := range w.servers {
		sv.link.crash()
	}
	if w.Failed() {
		return
	}
	last := w.serve("z")
	left := 0
	for range 6 {
		time.Sleep(worldOptions.Lease)
		last.now.Load().renewed = last.clock() // it lives all the time
		_, err := last.Collect(context.Background(), Policy{All: true, Patience: time.Second})
		var blocked *BlockedError
		if err != nil && !errors.As(err, &blocked) && !errors.Is(err, ErrBusy) {
			w.Errorf("at rest: Collect = %v", err)
		}
	}
	want := map[string]bool{}
	for _, key := range w.mem.Keys(roots) {
		r, _, _ := decodeRootObject(key, w.mem.Value(key))
		for _, d := range r.Few {
			want[blobPrefix(keyOf(d))] = true
		}
	}
	for _, key := range w.mem.Keys("") {
		i, ok := parseName(key)
		switch {
		case ok && want[blobPrefix(i.key)]:
			delete(want, blobPrefix(i.key))
		case key == registerKey, strings.HasPrefix(key, sessions+"z"), strings.HasPrefix(key, roots):
		default:
			left++
			w.Errorf("at rest: leak: %s", key)
		}
	}
	closeStore(w.T, last.Store)
}

// fingerprint is what all tasks share.
func (w *world) fingerprint() uint64 {
	h := explore.Hash(w.mem.Pending(), w.done.Load(), len(w.kept))
	for _, key := range w.mem.Keys("") {
		h += explore.Hash(key, bucket.ETag(w.mem.Value(key)))
	}
	w.mu.Lock()
	for _, y := range w.yeses {
		h += explore.Hash(y.d.Hash, y.until.UnixNano(), y.by.name)
	}
	servers := w.servers
	w.mu.Unlock()
	for _, sv := range servers {
		h += sv.fingerprint()
	}
	return h
}

func (sv *server) fingerprint() uint64 {
	l := sv.now.Load()
	sv.link.mu.Lock()
	h := explore.Hash(sv.name, sv.link.dead, sv.link.stopped != nil, len(sv.collecting), len(sv.slots))
	sv.link.mu.Unlock()
	l.ledger.Each(func(k ledger.Key, _ int64, p ledger.Place, leased bool) {
		h += explore.Hash(sv.name, k.Hash, p, leased)
	})
	_, _, pins := l.ledger.Counts()
	h += explore.Hash(sv.name, pins, l.id, len(l.door), l.drops, l.heeded, l.epoch, l.floor, l.lastSeen, l.lost.Load(), l.nextBlob.Load())
	for document, keys := range l.letGo {
		for key := range keys {
			h += explore.Hash(sv.name, document, key)
		}
		h += explore.Hash(sv.name, document)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.uploading {
		h += explore.Hash(sv.name, "up", key)
	}
	return h + explore.Hash(sv.name, l.over, l.etag, l.renewed, len(l.flights))
}

// data returns the n-th blob.
func data(n uint64) []byte { return storetest.Bytes(n, 10) }

// cold puts blobs as a server that has ended long ago.
func (w *world) cold(all ...[]byte) {
	for i, d := range all {
		i := incarnation{key: keyOf(digest.SHA256.Of(d)), size: int64(len(d)), session: "0", n: uint64(i + 1)}
		w.mem.Set(i.name(), packer{block: 1 << 10, plain: true}.seal(i.key, bytes.Clone(d)))
	}
}
