package segment

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// TestExhaustive runs up to four tasks on one digest, or one record, in every interleaving.
func TestExhaustive(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	for _, c := range []struct {
		name string
		size int  // of the blob, in bytes
		cold bool // it is there at the start, and its lease is over
		run  func(*exhaustive)
	}{
		{"put put open evict/small absent", 100, false, putPutOpenEvict},
		{"put put open evict/small cold", 100, true, putPutOpenEvict},
		{"put put evict/large absent", 15000, false, putPutEvict},
		{"put put open evict/large cold", 3000, true, putPutOpenEvict},
		{"missing read evict put/small", 100, true, missingEvictPut},
		{"missing read evict put/large", 3000, true, missingEvictPut},
		{"put put rotate evict/small", 100, false, putPutRotateEvict},
		{"put put rotate/large", 15000, false, putPutRotate},
		{"result put put get drop", 0, false, resultPutPutGetDrop},
	} {
		t.Run(c.name, func(t *testing.T) {
			explore.Exhaust(t, 200_000, func(t *testing.T, s *explore.Schedule) {
				x := newExhaustive(t, s, c.size)
				if c.cold {
					x.put()
					x.yes = false
					time.Sleep(2 * small.Lease)
				}
				c.run(x)
				s.Run()
				x.check()
			})
		})
	}
}

// An exhaustive is a ring whose tasks all mean one blob or one record.
type exhaustive struct {
	*testing.T
	s    *explore.Schedule
	fsys *hashedFS
	ring *Ring
	data []byte
	d    digest.Digest
	key  [32]byte

	yes     bool   // somebody was told that the blob is there
	dropped string // the value of the result that was dropped
}

func newExhaustive(t *testing.T, s *explore.Schedule, size int) *exhaustive {
	x := &exhaustive{T: t, s: s, data: storetest.Bytes(1, size), key: [32]byte{1}}
	x.d = digest.SHA256.Of(x.data)
	x.fsys = &hashedFS{FS: &vfs.Mem{}, say: func() uint64 { return 0 }, note: s.Note, files: map[string]*hashedFile{}}
	x.ring = openRing(t, x.fsys, small)
	x.fsys.say = x.extents
	s.Fingerprint = x.fingerprint
	s.Only = func(point string) bool {
		op, _, _ := strings.Cut(point, " ")
		return !passed[op] && (op != "sync" || size == 0) // a result waits for its sync
	}
	return x
}

// passed are the operations before which nobody waits. Who does them holds the ring's turn and goes on
// to one that others see.
var passed = map[string]bool{
	"open": true, "close": true, "list": true, "free": true, "lock": true,
	"create": true, "syncdir": true, "truncate": true,
}

func (x *exhaustive) fingerprint() uint64 {
	r := x.ring
	h := explore.Hash(x.fsys.hash(), x.extents(), r.Stats(), len(r.turn), len(r.broom), r.closed.Load(), x.yes, x.dropped)
	for _, s := range *r.table.Load() {
		h += explore.Hash(s.generation, s.refs.Load(), s.victim.Load(), s.bad.Load())
	}
	r.ledger.Each(func(k ledger.Key, _ int64, p ledger.Place, leased bool) { h += explore.Hash(k.Hash, p, leased) })
	return h
}

// extents says what a footer would say if it were written now.
func (x *exhaustive) extents() (h uint64) {
	for _, s := range *x.ring.table.Load() {
		for _, e := range s.extents {
			h += explore.Hash(s.generation, e.off, e.state.Load())
		}
	}
	return h
}

func (x *exhaustive) put() {
	err := blob.Put(context.Background(), x.ring, x.d, x.data)
	switch {
	case err == nil:
		x.yes = true // check sees that it is true: no lease ends before
	case !errors.Is(err, blob.ErrAborted):
		x.Errorf("Put = %v", err)
	}
}

// read sees that the blob is there, as somebody was told.
func (x *exhaustive) read() {
	if got, err := blob.Get(context.Background(), x.ring, x.d); err != nil || string(got) != string(x.data) {
		x.Errorf("after a yes: %d bytes, %v", len(got), err)
	}
}

func (x *exhaustive) open() {
	rd, err := x.ring.Open(context.Background(), x.d)
	if err != nil {
		if !errors.Is(err, blob.ErrNotFound) || x.yes {
			x.Errorf("Open = %v; somebody was told yes: %v", err, x.yes)
		}
		x.s.Note(0)
		return
	}
	defer rd.Close()
	got := make([]byte, len(x.data))
	if _, err := rd.ReadAt(got, 0); err != nil || string(got) != string(x.data) {
		x.Errorf("OpenHolds: %v", err)
	}
}

func (x *exhaustive) ask() {
	missing, err := x.ring.Missing(context.Background(), digest.SetOf(x.d))
	if err != nil {
		x.Errorf("Missing = %v", err)
	}
	x.s.Note(uint64(missing.Len()))
	if missing.Len() == 0 {
		x.yes = true
		sim.Point("said yes")
		x.read()
	}
}

func (x *exhaustive) rotate() {
	x.ring.turn <- struct{}{}
	defer func() { <-x.ring.turn }()
	if err := x.ring.rotate(0, false); err != nil {
		x.Errorf("rotate = %v", err)
	}
}

func putPutOpenEvict(x *exhaustive) {
	x.s.Go("put 1", x.put)
	x.s.Go("put 2", x.put)
	x.s.Go("open", x.open)
	x.s.Go("evict", x.ring.evictAll)
}

func putPutEvict(x *exhaustive) {
	x.s.Go("put 1", x.put)
	x.s.Go("put 2", x.put)
	x.s.Go("evict", x.ring.evictAll)
}

func putPutRotate(x *exhaustive) {
	x.s.Go("put 1", x.put)
	x.s.Go("put 2", x.put)
	x.s.Go("rotate", x.rotate)
}

func missingEvictPut(x *exhaustive) {
	x.s.Go("ask", x.ask)
	x.s.Go("evict", x.ring.evictAll)
	x.s.Go("put", x.put)
}

func putPutRotateEvict(x *exhaustive) {
	putPutRotate(x)
	x.s.Go("evict", x.ring.evictAll)
}

func resultPutPutGetDrop(x *exhaustive) {
	get := func() blob.Record {
		rec, err := x.ring.Get(context.Background(), x.key)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			x.Errorf("Get = %v", err)
		}
		x.s.Note(uint64(len(rec.Value)))
		return rec
	}
	for i, value := range []string{"one", "fourth"} { // their lengths tell them apart
		x.s.Go(fmt.Sprint("put ", i), func() {
			if err := x.ring.Put(context.Background(), x.key, []byte(value)); err != nil {
				x.Errorf("Put = %v", err)
			}
		})
	}
	x.s.Go("get", func() { get() })
	x.s.Go("drop", func() {
		rec := get()
		if rec.Value == nil {
			return
		}
		if err := x.ring.Drop(context.Background(), x.key, rec.Incarnation); err != nil {
			x.Errorf("Drop = %v", err)
		}
		x.dropped = string(rec.Value)
	})
}

// check looks at the ring at rest, and at what another process would find.
func (x *exhaustive) check() {
	x.fsys.quiet = true
	if err := x.ring.leaks(x.fsys); err != nil {
		x.Errorf("at rest: %v", err)
	}
	if x.yes {
		x.read()
	}
	image := x.fsys.FS.(*vfs.Mem).Clone()
	r := openRing(x.T, image, small)
	if x.yes {
		checkBlob(x.T, r, x.d, x.data)
	}
	if len(x.data) == 0 {
		x.checkResult(r)
	}
	closeRing(x.T, r)
	closeRing(x.T, x.ring)
}

// checkResult: the result that was dropped is gone until a restart, which finds the last one; and only
// if the last one was dropped is there none.
func (x *exhaustive) checkResult(restarted *Ring) {
	last, err := x.ring.Get(context.Background(), x.key)
	want := string(last.Value)
	if err != nil {
		want = x.dropped
	} else if want == x.dropped {
		x.Errorf("at rest: the result is %q, which was dropped", want)
	}
	if want == "" {
		x.Errorf("at rest: no result, and none was dropped")
	}
	if rec, err := restarted.Get(context.Background(), x.key); string(rec.Value) != want {
		x.Errorf("after a kill: the result is %q, %v, want %q", rec.Value, err, want)
	}
}

// A hashedFS is a file system that knows what was done to its files, for fingerprints, and whose points
// say everything that an operation is about.
type hashedFS struct {
	vfs.FS
	say   func() uint64 // what a footer would say
	note  func(uint64)
	quiet bool // no more points

	mu    sync.Mutex
	dir   uint64
	files map[string]*hashedFile
}

// A hashedFile sums what was written to a file. Segments begin with random numbers, with which all
// checksums begin, so the places count and what the ring knew then, and not the bytes.
type hashedFile struct {
	vfs.File
	fsys           *hashedFS
	name           string
	written, other uint64
}

// did waits for its turn to do something to a file, and returns what adds that to a sum. What is about
// to be written was made before the wait, so what a footer would say is noted then.
func (f *hashedFS) did(op, name string, numbers ...int64) func(sum *uint64) {
	point := fmt.Sprint(op, " ", filepath.Base(name), numbers)
	say := f.say()
	f.note(say)
	if !f.quiet {
		sim.Point(point)
	}
	return func(sum *uint64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		*sum += explore.Hash(point, say)
	}
}

func (f *hashedFS) hash() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.dir
	for _, file := range f.files {
		h += explore.Hash(file.name, file.written, file.other)
	}
	return h
}

func (f *hashedFS) add(name string, file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &hashedFile{File: file, fsys: f, name: name}
	f.files[name] = h
	return h, nil
}

func (f *hashedFS) Create(name string, size int64) (vfs.File, error) {
	f.did("create", name, size)(&f.dir)
	file, err := f.FS.Create(name, size)
	return f.add(name, file, err)
}

func (f *hashedFS) Remove(name string) error {
	f.did("remove", name)(&f.dir)
	return f.FS.Remove(name)
}

func (f *hashedFS) SyncDir(dir string) error {
	f.did("syncdir", dir)(&f.dir)
	return f.FS.SyncDir(dir)
}

func (h *hashedFile) ReadAt(p []byte, off int64) (int, error) {
	h.fsys.did("read", h.name, off, int64(len(p)))
	return h.File.ReadAt(p, off)
}

func (h *hashedFile) WriteAt(p []byte, off int64) (int, error) {
	h.fsys.did("write", h.name, off, int64(len(p)))(&h.written)
	return h.File.WriteAt(p, off)
}

func (h *hashedFile) Sync() error {
	sum := h.fsys.did("sync", h.name)
	sum(&h.other)
	h.fsys.mu.Lock()
	h.other += explore.Hash(h.written)
	h.fsys.mu.Unlock()
	return h.File.Sync()
}

func (h *hashedFile) Truncate(size int64) error {
	h.fsys.did("truncate", h.name, size)(&h.other)
	return h.File.Truncate(size)
}

func (h *hashedFile) Punch(off, n int64) error {
	h.fsys.did("punch", h.name, off, n)(&h.written)
	return h.File.Punch(off, n)
}
