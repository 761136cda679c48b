package s3

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
)

// TestPin: what is pinned outlives a collection of all that may go, and nothing is downloaded for it; if some of it is
// missing, nothing is held.
func TestPin(t *testing.T) {
	b := newMemory()
	o := small
	o.Lease = time.Nanosecond
	s := openStore(t, b, o)
	defer closeStore(t, s)
	var ds digest.Set
	for i, n := range sizes {
		data := storetest.Bytes(uint64(i), n)
		ds.Add(digest.SHA256.Of(data))
		if err := blob.Put(t.Context(), s, ds.List()[i], data); err != nil {
			t.Fatal(err)
		}
	}
	gone := digest.SHA256.Of([]byte("gone"))
	more := digest.SetOf(append(slices.Clone(ds.List()), gone)...)
	var missing *blob.MissingError
	if _, err := s.Pin(t.Context(), more); !errors.As(err, &missing) || len(missing.Blobs) != 1 || missing.Blobs[0] != gone {
		t.Errorf("Pin = %v, want that %s is missing", err, gone)
	}
	if n := s.Stats().Pins; n > 0 {
		t.Errorf("%d pins are held for what is not whole", n)
	}
	before := s.Stats().Downloads
	release, err := s.Pin(t.Context(), ds)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().Downloads - before; n > 0 {
		t.Errorf("%d downloads for pins", n)
	}
	s.evictAll(t)
	for i, n := range sizes {
		if got, err := blob.Get(t.Context(), s, ds.List()[i]); err != nil || !bytes.Equal(got, storetest.Bytes(uint64(i), n)) {
			t.Errorf("a pinned blob of %d bytes: got %d, %v", n, len(got), err)
		}
	}
	release()
	if n := s.Stats().Pins; n > 0 {
		t.Errorf("%d pins are left", n)
	}
}
