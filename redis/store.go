package redis

import (
	"context"
	"errors"
	"sync"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A Shared store is on a bucket that others write to.
type Shared interface {
	blob.Batcher
	blob.Records
	blob.Keeper
	// Adopt lets the ledger name an object of the bucket, if it is there.
	Adopt(ctx context.Context, key string) error
}

// A Store is a Shared store that learns from Redis what others wrote. Every yes is the Shared store's own.
type Store struct {
	Shared
	client *Client
}

var (
	_ blob.Batcher = (*Store)(nil)
	_ blob.Records = (*Store)(nil)
	_ blob.Keeper  = (*Store)(nil)
)

// Store returns s with what Redis knows. s must be on a bucket that Bucket returned, and stays the caller's to close.
func (c *Client) Store(s Shared) *Store { return &Store{s, c} }

// heads is how many objects that were announced are looked for at once.
const heads = 64

// adoptAll looks in the bucket for objects that were announced, and reports which of them are there now.
func (s *Store) adoptAll(ctx context.Context, lookups, names []string) []bool {
	there := make([]bool, len(names))
	next := make(chan int)
	var group sync.WaitGroup
	for range min(heads, len(names)) {
		group.Go(func() {
			for i := range next {
				there[i] = s.client.found(lookups[i], names[i], s.Adopt(ctx, names[i]))
			}
		})
	}
	for i := range names {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	group.Wait()
	return there
}

// Missing implements blob.Store. Of what the store knows nothing of, Redis is asked in one round trip.
func (s *Store) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	absent, err := s.Shared.Missing(ctx, ds)
	if err != nil || absent.Len() == 0 {
		return absent, err
	}
	lookups := make([]string, absent.Len())
	for i, d := range absent.List() {
		lookups[i] = blobLookup(d)
	}
	entries := s.client.get(ctx, lookups, false)
	var of, names []string
	var wanted []digest.Digest
	for i, d := range absent.List() {
		if fits(entries[i].name, d) {
			of, names, wanted = append(of, lookups[i]), append(names, entries[i].name), append(wanted, d)
		}
	}
	var adopted digest.Set
	for i, ok := range s.adoptAll(ctx, of, names) {
		if ok || mutant.RedisSaysYes {
			adopted.Add(wanted[i])
		}
	}
	if adopted.Len() == 0 {
		return absent, ctx.Err()
	}
	lacking, err := s.Shared.Missing(ctx, adopted)
	if mutant.RedisSaysYes {
		lacking = digest.Set{}
	}
	var missing digest.Set
	for _, d := range absent.List() {
		if !adopted.Has(d) || lacking.Has(d) {
			missing.Add(d)
		}
	}
	return missing, err
}

// Open implements blob.Store. The store's ledger holds the blob; a small one's bytes may come from Redis.
func (s *Store) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if d.IsEmpty() {
		return s.Shared.Open(ctx, d)
	}
	lookup := blobLookup(d)
	k := s.client.newCall(s.client.isSmall(d))
	r, err := s.Shared.Open(k.in(ctx), d)
	if notHere(err) {
		if k.from(lookup) != "" {
			k.distrust(lookup) // it was not even an object
		}
		if s.find(ctx, k, lookup, d) {
			r, err = s.Shared.Open(k.in(ctx), d)
		}
	}
	if err != nil || k.from(lookup) == "" {
		return r, err
	}
	data := make([]byte, r.Size())
	if n, _ := r.ReadAt(data, 0); d.Function.Of(data[:n]).Hash == d.Hash || mutant.RedisUnhashed {
		return r, nil
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	k.distrust(lookup)
	return s.Shared.Open(k.in(ctx), d) // from the bucket: a call takes bytes from Redis once
}

// notHere reports whether another copy than the one that was looked at is worth looking for: there was none, or a collection
// has not decided whether it goes.
func notHere(err error) bool {
	return errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrUnavailable)
}

func (c *Client) isSmall(d digest.Digest) bool {
	return d.Size == digest.AnySize || d.Size <= c.o.MaxBlob
}

// find adopts the object that Redis names, unless that was tried in this call, and reports whether it is worth trying
// again.
func (s *Store) find(ctx context.Context, k *call, lookup string, d digest.Digest) bool {
	e := k.entry(ctx, lookup)
	switch {
	case !fits(e.name, d):
		return false
	case k.look(e.name):
		return s.client.found(lookup, e.name, s.Adopt(ctx, e.name))
	}
	return k.cutShort(e.name)
}

// GetAll implements blob.Batcher. Redis is asked for all small blobs in one round trip.
func (s *Store) GetAll(ctx context.Context, ds []digest.Digest) ([][]byte, []error) {
	k := s.client.newCall(false)
	var small []string
	for _, d := range ds {
		if !d.IsEmpty() && s.client.isSmall(d) {
			small = append(small, blobLookup(d))
		}
	}
	k.fetch(ctx, small, true)
	data, errs := s.Shared.GetAll(k.in(ctx), ds)
	again := s.findAll(ctx, k, ds, errs)
	if len(again) == 0 {
		return data, errs
	}
	wanted := make([]digest.Digest, len(again))
	for n, i := range again {
		wanted[n] = ds[i]
	}
	some, failures := s.Shared.GetAll(k.in(ctx), wanted)
	for n, i := range again {
		data[i], errs[i] = some[n], failures[n]
	}
	return data, errs
}

// findAll adopts what Redis names of what was not found, and returns the places of what is there now. A blob whose
// bytes from Redis were not its own is adopted again.
func (s *Store) findAll(ctx context.Context, k *call, ds []digest.Digest, errs []error) []int {
	var places []int
	var of []string
	for i, err := range errs {
		if notHere(err) {
			places, of = append(places, i), append(of, blobLookup(ds[i]))
		}
	}
	k.fetch(ctx, of, false)
	var try, again []int
	var lookups, names []string
	for n, i := range places {
		name := k.entry(ctx, of[n]).name
		if k.from(of[n]) != "" {
			name = k.distrust(of[n])
		}
		switch {
		case !fits(name, ds[i]):
		case k.look(name):
			try, lookups, names = append(try, i), append(lookups, of[n]), append(names, name)
		case k.cutShort(name):
			again = append(again, i)
		}
	}
	for n, ok := range s.adoptAll(ctx, lookups, names) {
		if ok {
			again = append(again, try[n])
		}
	}
	return again
}

// Get implements blob.Records. If Redis names a newer object than the store knows of, the store adopts it first.
func (s *Store) Get(ctx context.Context, key [32]byte) (blob.Record, error) {
	k := s.client.newCall(true)
	rec, err := s.Shared.Get(k.in(ctx), key)
	if err != nil && !errors.Is(err, blob.ErrNotFound) {
		return rec, err
	}
	lookup := recordLookup(key)
	e := k.entry(ctx, lookup)
	switch {
	case err == nil && e.name <= k.lastRead():
	case k.look(e.name):
		if s.client.found(lookup, e.name, s.Adopt(ctx, e.name)) {
			return s.Shared.Get(k.in(ctx), key)
		}
	}
	return rec, err
}

// Keep implements blob.Keeper. What others wrote is adopted first.
func (s *Store) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	if _, err := s.Missing(ctx, blobs); err != nil {
		return err
	}
	return s.Shared.Keep(ctx, name, value, blobs)
}

// KeepIf implements blob.Keeper, as Keep does.
func (s *Store) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	if _, err := s.Missing(ctx, blobs); err != nil {
		return err
	}
	return s.Shared.KeepIf(ctx, name, was, value, blobs)
}
