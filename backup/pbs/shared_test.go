package pbs_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// A shy store says for some calls that it does not have some blobs, as one does that shares a bucket which is collected.
type shy struct {
	*model.Store
	mu     sync.Mutex
	hidden digest.Set
	calls  int // for which they are hidden
}

func (s *shy) hide(calls int, ds ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden, s.calls = digest.SetOf(ds...), calls
}

// lacks returns those of ds that are hidden.
func (s *shy) lacks(ds ...digest.Digest) (missing []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range ds {
		if s.calls > 0 && s.hidden.Has(d) {
			missing = append(missing, d)
		}
	}
	if len(missing) > 0 {
		s.calls--
	}
	return missing
}

// Open implements blob.Store.
func (s *shy) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if len(s.lacks(d)) > 0 {
		return nil, fmt.Errorf("open %s: %w", d, blob.ErrNotFound)
	}
	return s.Store.Open(ctx, d)
}

// Keep implements blob.Keeper.
func (s *shy) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	if missing := s.lacks(blobs.List()...); len(missing) > 0 {
		return &blob.MissingError{Blobs: missing}
	}
	return s.Store.Keep(ctx, name, value, blobs)
}

// KeepIf implements blob.Keeper.
func (s *shy) KeepIf(ctx context.Context, name string, was *blob.Root, value []byte, blobs digest.Set) error {
	if missing := s.lacks(blobs.List()...); len(missing) > 0 {
		return &blob.MissingError{Blobs: missing}
	}
	return s.Store.KeepIf(ctx, name, was, value, blobs)
}

// TestMissingForAWhile: what another server wrote may be said to be missing while a collection asks about it. A
// snapshot loses nothing by that, and restores wait.
func TestMissingForAWhile(t *testing.T) {
	store := &shy{Store: forgets()}
	f, hasty := startPatient(t, store, time.Minute), startPatient(t, store, 100*time.Millisecond)
	data := bytesOf(1, 50<<10)
	backUp(t, f.Client, host, nil, data)
	atRest(t, &fixture{server: f.server, store: store.Store})
	root, err := blob.KeptRoot(t.Context(), store, "pbs/main/host/box/2023-11-14T22:13:20Z")
	if err != nil {
		t.Fatal(err)
	}
	all, err := root.Blobs(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all.List() {
		store.hide(3, d)
		restore(t, f.Client, host, nil, "root.pxar.didx", data)
	}
	for _, d := range all.List() {
		store.hide(1000, d)
		err := hasty.Admin(t.Context(), "PUT", "protected", with(host.Query(), "protected", "1"), nil)
		if err == nil {
			t.Fatal("a change of a snapshot of which a blob seems to be missing = <nil>")
		}
		store.hide(0)
		store.Evict()
		restore(t, f.Client, host, nil, "root.pxar.didx", data)
	}
	// Nor is it called damaged for that.
	store.hide(3, all.List()...)
	if exit, log := task(t, f.Client, "verify", nil); exit != "OK" {
		t.Errorf("verify ended %s: %s", exit, log)
	}
}
