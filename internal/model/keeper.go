package model

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

var _ blob.Keeper = (*Store)(nil)

// Keep implements blob.Keeper.
func (s *Store) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keep(name, value, blobs)
}

// KeepIf implements blob.Keeper.
func (s *Store) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !was.Is(s.kept(name)) {
		return blob.ErrChanged
	}
	return s.keep(name, value, blobs)
}

// kept returns the root of that name, or nil.
func (s *Store) kept(name string) *blob.Root {
	if r := s.roots[name]; r != nil {
		return &r.Root
	}
	return nil
}

// keep keeps. The caller holds the mutex.
func (s *Store) keep(name string, value []byte, blobs digest.Set) error {
	r, list, err := blob.NewRoot(name, value, blobs)
	if err != nil {
		return err
	}
	var held []*entry
	var missing []digest.Digest
	for _, d := range blobs.List() {
		if d.IsEmpty() {
			continue
		}
		if e := s.find(d); e != nil {
			held = append(held, e)
		} else {
			missing = append(missing, d)
		}
	}
	if len(missing) > 0 {
		return &blob.MissingError{Blobs: missing}
	}
	if list != nil {
		e := s.blobs[r.List.Key()]
		if e == nil {
			e = &entry{data: list}
			s.blobs[r.List.Key()] = e
		}
		e.gone = false
		held = append(held, e)
	}
	for _, e := range held {
		e.keeps++
	}
	s.letGo(name)
	s.roots[name] = &root{r, held}
	return nil
}

// A root is what is kept under a name. Whoever replaces an entry replaces it here too.
type root struct {
	blob.Root
	held []*entry
}

func (s *Store) letGo(name string) {
	if old := s.roots[name]; old != nil {
		for _, e := range old.held {
			e.keeps--
		}
		delete(s.roots, name)
	}
}

// Release implements blob.Keeper.
func (s *Store) Release(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letGo(name)
	return nil
}

// ReleaseIf implements blob.Keeper.
func (s *Store) ReleaseIf(ctx context.Context, was blob.Root) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !was.Is(s.kept(was.Name)) {
		return blob.ErrChanged
	}
	s.letGo(was.Name)
	return nil
}

// Kept implements blob.Keeper.
func (s *Store) Kept(ctx context.Context, prefix string) iter.Seq2[blob.Root, error] {
	return func(yield func(blob.Root, error) bool) {
		s.mu.Lock()
		var found []blob.Root
		for _, name := range slices.Sorted(maps.Keys(s.roots)) {
			if strings.HasPrefix(name, prefix) {
				found = append(found, s.roots[name].Root)
			}
		}
		s.mu.Unlock()
		for _, r := range found {
			if !yield(r, nil) {
				return
			}
		}
	}
}
