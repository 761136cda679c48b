package model_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// TestPresence follows one blob and one record through what makes them stay and what lets them go.
func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := model.New(time.Hour)
		data := []byte("data")
		d, key := digest.SHA256.Of(data), [32]byte{1}
		step := func(what string, blobWant, recordWant model.Presence) {
			t.Helper()
			if got := s.Presence(d); got != blobWant {
				t.Errorf("%s: the blob %v be there, want %v", what, got, blobWant)
			}
			if got := s.RecordPresence(key); got != recordWant {
				t.Errorf("%s: the record %v be there, want %v", what, got, recordWant)
			}
		}
		put := func() {
			if err := blob.Put(t.Context(), s, d, data); err != nil {
				t.Fatal(err)
			}
		}
		record := func() {
			if err := s.Put(t.Context(), key, []byte("value")); err != nil {
				t.Fatal(err)
			}
		}
		const must, may, mustNot = model.Must, model.May, model.MustNot
		step("at first", mustNot, mustNot)
		put()
		step("put", must, mustNot)
		s.Restart(true)
		step("a power cut", may, mustNot)
		put()
		record()
		s.Restart(true)
		step("a power cut after a record", must, must)
		time.Sleep(time.Hour)
		step("after the lease", may, may)
		r, err := s.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		step("opened", must, may)
		s.Forget(d)
		s.ForgetRecord(key)
		step("forgotten but pinned", must, mustNot)
		r.Close()
		step("closed: reading does not lease", may, mustNot)
		s.Forget(d)
		step("forgotten", mustNot, mustNot)
		s.Restart(false)
		step("a restart", may, may)
		if _, err := s.Missing(t.Context(), digest.SetOf(d)); err != nil {
			t.Fatal(err)
		}
		step("asked for", must, may)
		if err := s.Drop(t.Context(), key, 1); err != nil {
			t.Fatal(err)
		}
		step("dropped", must, mustNot)
		time.Sleep(time.Hour)
		s.Evict()
		step("evicted", mustNot, mustNot)
	})
}

// TestGivenUp: what was written whole may be found by the next process, what was not may not.
func TestGivenUp(t *testing.T) {
	for n, want := range map[int]model.Presence{3: model.MustNot, 4: model.May} {
		s := model.New(time.Hour)
		d := digest.SHA256.Of([]byte("data"))
		w, err := s.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("data")[:n]); err != nil {
			t.Fatal(err)
		}
		if got := s.Presence(d); got != model.MustNot {
			t.Errorf("%d of 4 bytes written: %v be there, want must not", n, got)
		}
		w.Close()
		s.Restart(false)
		if got := s.Presence(d); got != want {
			t.Errorf("%d of 4 bytes written, and a restart: %v be there, want %v", n, got, want)
		}
	}
}
