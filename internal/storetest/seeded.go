package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
)

// schedules is how many seeds each scenario runs for each size.
const schedules = 1000

// Seeded runs the scenarios of the invariants on stores that open makes, each under many seeds and
// with blobs of each of the fixture's sizes.
func Seeded(t *testing.T, open func(t *testing.T) Fixture) {
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *explore.Schedule, Fixture, []byte)
	}{
		{"FirstWins", firstWins},
		{"OpenHolds", openHolds},
		{"NoFalseYes", noFalseYes},
		{"YesStands", yesStands},
		{"Immutable", immutable},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			explore.Run(t, schedules, func(t *testing.T, s *explore.Schedule) {
				f := open(t)
				defer f.Close()
				data := Bytes(s.Seed, f.Sizes[s.Rand.IntN(len(f.Sizes))])
				scenario.run(t, s, f, data)
				if err := f.Leaks(); err != nil {
					t.Errorf("at rest: %v", err)
				}
			})
		})
	}
}

// put uploads data as d in two pieces, with a point between them.
func put(s blob.Store, d digest.Digest, data []byte) error {
	w, err := s.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, part := range [][]byte{data[:len(data)/2], data[len(data)/2:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
		sim.Point("wrote a part")
	}
	return w.Commit()
}

// lie returns bytes of the same number that are not data.
func lie(data []byte) []byte {
	other := bytes.Clone(data)
	other[len(other)-1] ^= 1
	return other
}

// check opens d, which somebody said is there, and reads it in two pieces.
func check(s blob.Store, d digest.Digest, data []byte) error {
	r, err := s.Open(ctx, d)
	if err != nil {
		return fmt.Errorf("a yes did not stand: %w", err)
	}
	defer r.Close()
	return read(r, data)
}

func read(r blob.Reader, data []byte) error {
	got := make([]byte, len(data))
	for _, half := range [][2]int{{0, len(data) / 2}, {len(data) / 2, len(data)}} {
		if _, err := r.ReadAt(got[half[0]:half[1]], int64(half[0])); err != nil {
			return fmt.Errorf("an open blob could not be read: %w", err)
		}
		sim.Point("read a part")
	}
	if !bytes.Equal(got, data) {
		return errors.New("an open blob has other bytes than its digest")
	}
	return nil
}

// firstWins: writers of one digest, and one of them with wrong bytes. Each succeeds or fails on its own.
func firstWins(t *testing.T, s *explore.Schedule, f Fixture, data []byte) {
	d := digest.SHA256.Of(data)
	for _, name := range []string{"writer 1", "writer 2"} {
		s.Go(name, func() {
			if err := put(f.Store, d, data); err != nil {
				t.Errorf("%s: FirstWins: Commit of the right bytes = %v", name, err)
			} else if err := check(f.Store, d, data); err != nil {
				t.Errorf("%s: FirstWins: %v", name, err)
			}
		})
	}
	s.Go("liar", func() {
		if err := put(f.Store, d, lie(data)); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("FirstWins: Commit of wrong bytes = %v, want ErrMismatch", err)
		}
	})
	s.Run()
	if err := check(f.Store, d, data); err != nil {
		t.Errorf("FirstWins: at rest: %v", err)
	}
}

// openHolds: a blob whose lease is over is opened, evicted and put again, in every order.
func openHolds(t *testing.T, s *explore.Schedule, f Fixture, data []byte) {
	d := digest.SHA256.Of(data)
	if err := put(f.Store, d, data); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * f.Lease)
	s.Go("reader", func() {
		r, err := f.Store.Open(ctx, d)
		if errors.Is(err, blob.ErrNotFound) {
			return // evicted before it came
		}
		if err != nil {
			t.Errorf("OpenHolds: Open = %v", err)
			return
		}
		defer r.Close()
		time.Sleep(2 * f.Lease) // the pin holds, not the lease that Open gave
		if err := read(r, data); err != nil {
			t.Errorf("OpenHolds: %v", err)
		}
	})
	s.Go("evictor", func() {
		f.Evict()
		time.Sleep(3 * f.Lease / 2)
		f.Evict()
	})
	s.Go("writer", func() {
		if err := put(f.Store, d, data); err != nil && !errors.Is(err, blob.ErrAborted) {
			t.Errorf("OpenHolds: Commit = %v", err)
		}
	})
	s.Run()
}

// noFalseYes: an upload is under way while the store evicts all it can. Whatever Commit and Missing
// say is true.
func noFalseYes(t *testing.T, s *explore.Schedule, f Fixture, data []byte) {
	d := digest.SHA256.Of(data)
	for _, name := range []string{"writer 1", "writer 2"} {
		s.Go(name, func() {
			err := put(f.Store, d, data)
			if errors.Is(err, blob.ErrAborted) {
				return
			}
			if err == nil {
				err = check(f.Store, d, data)
			}
			if err != nil {
				t.Errorf("%s: NoFalseYes: %v", name, err)
			}
		})
	}
	s.Go("asker", func() {
		if present(t, f.Store, d) {
			if err := check(f.Store, d, data); err != nil {
				t.Errorf("NoFalseYes: Missing did not list it, but %v", err)
			}
		}
	})
	s.Go("evictor", f.Evict)
	s.Run()
}

// yesStands: Missing finds a blob whose lease is over; from then on it stays for a lease.
func yesStands(t *testing.T, s *explore.Schedule, f Fixture, data []byte) {
	d := digest.SHA256.Of(data)
	if err := put(f.Store, d, data); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * f.Lease)
	s.Go("asker", func() {
		if !present(t, f.Store, d) {
			return
		}
		time.Sleep(f.Lease - time.Millisecond)
		if err := check(f.Store, d, data); err != nil {
			t.Errorf("YesStands: at the end of the lease: %v", err)
		}
	})
	s.Go("evictor", func() {
		for range 4 {
			f.Evict()
			time.Sleep(f.Lease / 4)
		}
	})
	s.Run()
}

// immutable: whoever can open a blob sees the bytes of its digest, also while somebody lies.
func immutable(t *testing.T, s *explore.Schedule, f Fixture, data []byte) {
	d := digest.SHA256.Of(data)
	s.Go("liar", func() {
		if err := put(f.Store, d, lie(data)); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("Immutable: Commit of wrong bytes = %v, want ErrMismatch", err)
		}
	})
	for _, name := range []string{"reader 1", "reader 2"} {
		s.Go(name, func() {
			for range 3 {
				r, err := f.Store.Open(ctx, d)
				if errors.Is(err, blob.ErrNotFound) {
					sim.Point("not found")
					continue
				}
				if err == nil {
					err = read(r, data)
					r.Close()
				}
				if err != nil {
					t.Errorf("%s: Immutable: %v", name, err)
				}
			}
		})
	}
	s.Go("writer", func() {
		if err := put(f.Store, d, data); err != nil {
			t.Errorf("Immutable: Commit of the right bytes = %v", err)
		}
	})
	s.Run()
}
