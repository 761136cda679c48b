package pbs_test

import (
	"context"
	"errors"
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

// TestTwoServers: one protects a snapshot while the other one writes its notes, or forgets it. Neither is lost.
func TestTwoServers(t *testing.T) {
	store := model.Slow{Store: forgets()}
	a, b := start(t, store), start(t, store)
	backUp(t, a.Client, host, nil, bytesOf(1, 50<<10))
	put := func(f *fixture, what, name, value string) error {
		return f.Admin(t.Context(), "PUT", what, with(host.Query(), name, value), nil)
	}
	at := func(f *fixture, what string) (text string) {
		var answer any
		if err := f.Admin(t.Context(), "GET", what, host.Query(), &answer); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(answer)
	}
	for i := range 5 {
		protect, note := fmt.Sprint(i%2 == 0), fmt.Sprint("round ", i)
		var group sync.WaitGroup
		var errs [2]error
		group.Go(func() { errs[0] = put(a, "protected", "protected", protect) })
		group.Go(func() { errs[1] = put(b, "notes", "notes", note) })
		group.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		if got, want := at(b, "protected")+", "+at(a, "notes"), protect+", "+note; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if err := put(a, "protected", "protected", "false"); err != nil {
		t.Fatal(err)
	}
	var protected, forgotten error
	var group sync.WaitGroup
	group.Go(func() { protected = put(a, "protected", "protected", "true") })
	group.Go(func() { forgotten = b.Admin(t.Context(), "DELETE", "snapshots", host.Query(), nil) })
	group.Wait()
	if protected == nil && forgotten == nil {
		t.Error("a snapshot was protected, and forgotten")
	}
}
