// Package model is the store in its simplest form: a map under one mutex.
//
// It says what a Store, a Batcher, a Records and a Keeper must answer, without disk, ring or eviction, so that
// tests can compare any other store with it and front ends can be tested on a real one. Blobs stay
// until Evict is called. Of a store that forgets by itself, Presence says what it may have forgotten.
//
// Committed blobs, blobs that Missing does not list, and records that were put are leased; reading
// leases nothing. What a root holds stays, lease or not.
//
// # Concurrency
//
// All methods may be called from many goroutines at once.
package model

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Store keeps blobs and records in memory. Its zero value is not usable; call New.
type Store struct {
	lease time.Duration

	mu      sync.Mutex
	blobs   map[digest.Key]*entry
	records map[[32]byte]*record
	roots   map[string]*root
	last    uint64 // the newest record's incarnation
}

type entry struct {
	data    []byte
	until   time.Time // end of the lease
	pins    int
	keeps   int  // by roots
	durable bool // a record was put since the blob was committed
	gone    bool // absent, but its bytes were once written whole, so a restart may find them
}

type record struct {
	blob.Record
	until time.Time // end of the lease
	gone  bool      // absent, but a restart may find it
}

var (
	_ blob.Batcher = (*Store)(nil)
	_ blob.Records = (*Store)(nil)
)

// New returns an empty store whose yes holds for lease.
func New(lease time.Duration) *Store {
	return &Store{lease: lease, blobs: map[digest.Key]*entry{}, records: map[[32]byte]*record{}, roots: map[string]*root{}}
}

// find returns the entry of d, or nil.
func (s *Store) find(d digest.Digest) *entry {
	e := s.blobs[d.Key()]
	if e == nil || e.gone || !d.Fits(int64(len(e.data))) {
		return nil
	}
	return e
}

func (s *Store) leaseEnd() time.Time { return time.Now().Add(s.lease) }

// Missing implements blob.Store.
func (s *Store) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing digest.Set
	for _, d := range ds.List() {
		if d.IsEmpty() {
			continue
		}
		if e := s.find(d); e != nil {
			e.until = s.leaseEnd()
		} else {
			missing.Add(d)
		}
	}
	return missing, ctx.Err()
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d.IsEmpty() {
		return &reader{Reader: bytes.NewReader(nil)}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(d)
	if e == nil {
		return nil, &blob.Error{Op: "open", Digest: d, Err: blob.ErrNotFound}
	}
	e.pins++
	return &reader{Reader: bytes.NewReader(e.data), close: func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.pins--
	}}, nil
}

type reader struct {
	*bytes.Reader
	close func()
}

func (r *reader) Close() error {
	if r.close != nil {
		r.close()
		r.close = nil
	}
	return nil
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	if d.Size < 0 || !d.Function.Valid() {
		return nil, &blob.Error{Op: "create", Digest: d, Err: blob.ErrInvalid}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.blobs[d.Key()]; e != nil && !e.gone && !d.Fits(int64(len(e.data))) {
		return nil, &blob.Error{Op: "create", Digest: d, Err: blob.ErrMismatch}
	}
	return &writer{store: s, want: d}, nil
}

type writer struct {
	store *Store
	want  digest.Digest
	data  []byte
	done  bool
}

func (w *writer) Write(p []byte) (int, error) {
	if w.done {
		return 0, &blob.Error{Op: "write", Digest: w.want, Err: blob.ErrClosed}
	}
	if int64(len(w.data)+len(p)) > w.want.Size {
		return 0, &blob.Error{Op: "write", Digest: w.want, Err: blob.ErrMismatch}
	}
	w.data = append(w.data, p...)
	if int64(len(w.data)) == w.want.Size && w.want.Function.Of(w.data) == w.want {
		w.store.whole(w.want.Key(), w.data)
	}
	return len(p), nil
}

// whole notes that the bytes of k were written, if only to be given up.
func (s *Store) whole(k digest.Key, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs[k] == nil {
		s.blobs[k] = &entry{data: data, gone: true}
	}
}

func (w *writer) Commit() error {
	if w.done {
		return &blob.Error{Op: "commit", Digest: w.want, Err: blob.ErrClosed}
	}
	w.done = true
	if got := w.want.Function.Of(w.data); got != w.want {
		return &blob.Error{Op: "commit", Digest: w.want, Err: blob.Mismatch(w.want, got)}
	}
	if w.want.IsEmpty() {
		return nil
	}
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(w.want)
	if e == nil {
		e = &entry{data: w.data}
		s.blobs[w.want.Key()] = e
	}
	// A store that forgets may have written a blob that is not held anew.
	e.durable = e.durable && e.presence() == Must
	e.until = s.leaseEnd()
	return nil
}

func (w *writer) Close() error {
	w.done = true
	return nil
}

// GetAll implements blob.Batcher.
func (s *Store) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	data, errs := make([][]byte, len(ds)), make([]error, len(ds))
	for i, d := range ds {
		data[i], errs[i] = blob.Get(ctx, s, d)
	}
	return data, errs
}

// PutAll implements blob.Batcher.
func (s *Store) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	for i, d := range ds {
		errs[i] = blob.Put(ctx, s, d, data[i])
	}
	return errs
}

// Get implements blob.Records.
func (s *Store) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[key]
	if r == nil || r.gone {
		return blob.Record{}, blob.ErrNotFound
	}
	return r.Record, nil
}

// Put implements blob.Records.
func (s *Store) Put(ctx context.Context, key [32]byte, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.records[key] = &record{Record: blob.Record{Value: slices.Clone(value), Incarnation: s.last}, until: s.leaseEnd()}
	for _, e := range s.blobs {
		e.durable = !e.gone
	}
	return nil
}

// Drop implements blob.Records.
func (s *Store) Drop(ctx context.Context, key [32]byte, incarnation uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[key]; r != nil && r.Incarnation == incarnation {
		r.gone = true
	}
	return nil
}

// Evict removes every blob that is neither pinned nor leased. Records stay.
func (s *Store) Evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.blobs {
		e.gone = e.presence() != Must
	}
}

// Pins returns how many Readers are open.
func (s *Store) Pins() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.blobs {
		n += e.pins
	}
	return n
}
