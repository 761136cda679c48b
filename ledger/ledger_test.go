package ledger

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

func key(n byte) Key { return Key{Kind: 1, Hash: [32]byte{n, n, n}} }

func yes() (ok, recorded bool) { return true, true }

// lease is Lease for who does not ask whether a record of it is due.
func (l *Ledger) lease(k Key, size int64) bool {
	ok, _ := l.Lease(k, size)
	return ok
}

func TestPublish(t *testing.T) {
	l := New(time.Hour)
	k := key(1)
	if l.lease(k, 5) {
		t.Error("Lease of an absent key = true")
	}
	if got, _ := l.Publish(k, 5, 10, func() (ok, recorded bool) { return false, true }); got != Refused {
		t.Errorf("Publish that is not admitted = %v, want Refused", got)
	}
	if got, _ := l.Publish(k, 5, 11, yes); got != Won {
		t.Errorf("first Publish = %v, want Won", got)
	}
	if got, _ := l.Publish(k, 5, 12, yes); got != Lost {
		t.Errorf("second Publish = %v, want Lost", got)
	}
	if !l.lease(k, 5) || !l.lease(k, -1) || l.lease(k, 6) {
		t.Error("Lease must hold for size 5 and any, and not for 6")
	}
	if l.lease(Key{Kind: 9, Hash: k.Hash}, 5) {
		t.Error("another kind with the same hash is present")
	}
}

func TestSupersede(t *testing.T) {
	l := New(time.Hour)
	k := Key{Kind: Record}
	for _, p := range []Place{1, 2, 3} {
		if got, _ := l.Supersede(k, int64(p), p, yes); got != Won {
			t.Errorf("Supersede = %v, want Won", got)
		}
	}
	l.Drop(k, 2)
	if size, ok := l.SizeOf(k); !ok || size != 3 {
		t.Errorf("after the Drop of an older place: %d, %v, want 3", size, ok)
	}
	l.Drop(k, 3)
	if _, ok := l.SizeOf(k); ok {
		t.Error("still there after Drop")
	}
}

// TestLease checks the promise at its edges: never condemned before a lease has passed since the last
// yes, and gone at the latest a quarter after that.
func TestLease(t *testing.T) {
	for _, lease := range []time.Duration{time.Second, time.Hour, 7 * time.Minute} {
		for i := range 50 {
			synctest.Test(t, func(t *testing.T) {
				l := New(lease)
				time.Sleep(time.Duration(i) * lease / 40)
				l.Publish(key(1), 1, 1, yes)
				time.Sleep(lease / 3)
				if !l.lease(key(1), 1) {
					t.Fatal("absent")
				}
				time.Sleep(lease - 1)
				if l.Condemn(key(1), 1, true) != Held {
					t.Error("condemned a nanosecond before the lease was over")
				}
				time.Sleep(lease/4 + 2)
				if l.Condemn(key(1), 1, true) != Condemned {
					t.Error("not condemned a quarter after the lease was over")
				}
			})
		}
	}
}

func TestPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Second)
		l.Publish(key(1), 1, 7, yes)
		var got Place
		a, ok := l.Pin(key(1), 1, func(p Place, size int64) { got = p })
		b, _ := l.Pin(key(1), -1, func(Place, int64) {})
		if !ok || got != 7 {
			t.Fatalf("Pin = %v at %d, want place 7", ok, got)
		}
		time.Sleep(time.Minute)
		a.Release()
		if l.Condemn(key(1), 7, true) != Held {
			t.Error("condemned while pinned")
		}
		l.Drop(key(1), 7) // the entry lives on for the pin
		l.Publish(key(1), 1, 8, yes)
		b.Release()
		if _, _, pins := l.Counts(); pins != 0 {
			t.Errorf("%d pins left", pins)
		}
		if !l.lease(key(1), 1) {
			t.Error("the release of a dropped entry took its successor with it")
		}
	})
}

// TestRecorded: until somebody says that the lease of a quarter is written down, everybody is told that
// it is due.
func TestRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Hour)
		k := key(1)
		if _, due := l.Publish(k, 1, 1, func() (ok, recorded bool) { return true, false }); due != l.Now() {
			t.Errorf("Publish: due = %d, want %d", due, l.Now())
		}
		for range 2 {
			time.Sleep(15 * time.Minute)
			_, first := l.Lease(k, 1)
			_, second := l.Lease(k, 1)
			_, third := l.Publish(k, 1, 2, yes)
			if first != l.Now() || second != first || third != first {
				t.Errorf("due = %d, %d, %d, want %d each time", first, second, third, l.Now())
			}
			l.Recorded(k, first-1) // too late
			if _, due := l.Lease(k, 1); due == 0 {
				t.Error("a record of an older lease counts for this one")
			}
			l.Recorded(k, first)
			if _, due := l.Lease(k, 1); due != 0 {
				t.Errorf("due = %d after Recorded", due)
			}
		}
	})
}

// TestMove: a copy replaces what it is a copy of, and nothing else.
func TestMove(t *testing.T) {
	l := New(time.Hour)
	k := Key{Kind: Record}
	l.Supersede(k, 5, 1, yes)
	if l.Move(k, 1, 2, func() (ok, recorded bool) { return false, true }) {
		t.Error("Move that is not admitted = true")
	}
	if !l.Move(k, 1, 2, yes) || !l.Names(k, 2) {
		t.Error("Move of what is there = false")
	}
	l.Supersede(k, 6, 3, yes)
	if l.Move(k, 2, 4, yes) || !l.Names(k, 3) {
		t.Error("Move replaced what was written since")
	}
	if got := l.Condemn(k, 2, true); got != Gone {
		t.Errorf("Condemn of the place before = %v, want Gone", got)
	}
}

// TestWarm: a use keeps an entry for one look.
func TestWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Second)
		k := key(1)
		l.Publish(k, 5, 1, yes)
		time.Sleep(time.Minute)
		pin, _ := l.Pin(k, 5, func(Place, int64) {})
		pin.Release()
		for i, want := range []Fate{Warm, Condemned, Gone} {
			if got := l.Condemn(k, 1, false); got != want {
				t.Errorf("look %d = %v, want %v", i, got, want)
			}
		}
		l.Publish(k, 5, 2, yes)
		l.lease(k, 5)
		time.Sleep(time.Minute)
		if got := l.Condemn(k, 2, true); got != Condemned {
			t.Errorf("forced Condemn of what was used = %v", got)
		}
	})
}

// TestLeased: the count is that of a map, through every change.
func TestLeased(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := New(time.Hour)
		size, until := map[Key]int64{}, map[Key]Quarter{}
		draw := func(t *rapid.T) Key { return key(rapid.ByteMax(20).Draw(t, "key")) }
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				k, n := draw(t), rapid.Int64Range(0, 100).Draw(t, "size")
				if _, ok := size[k]; !ok {
					size[k] = n
				}
				l.Publish(k, n, 1, yes)
				until[k] = l.Now() + Span
			},
			"lease": func(t *rapid.T) {
				if k := draw(t); l.lease(k, -1) {
					until[k] = l.Now() + Span
				}
			},
			"drop": func(t *rapid.T) {
				k := draw(t)
				l.Drop(k, 1)
				delete(size, k)
				delete(until, k)
			},
			"time passes": func(t *rapid.T) {
				l.start = l.start.Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, "eighths")) * time.Hour / 8)
			},
			"": func(t *rapid.T) {
				var entries, bytes int64
				for k, n := range size {
					if l.Now() < until[k] {
						entries++
						bytes += n
					}
				}
				if e, b := l.Leased(); e != entries || b != bytes {
					t.Fatalf("Leased = %d, %d, want %d, %d", e, b, entries, bytes)
				}
			},
		})
	})
}

// TestRestore: whatever the order, the greatest place stands.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, order := range [][]Place{{1, 2, 3}, {3, 2, 1}, {2, 3, 1}} {
			l := New(time.Hour)
			for _, p := range order {
				l.Restore(Found{key(1), int64(p), p, p == 2})
			}
			if size, _ := l.SizeOf(key(1)); size != 3 || !l.Names(key(1), 3) {
				t.Errorf("restored in order %v: size %d, want that of place 3", order, size)
			}
			if n, bytes := l.Leased(); n != 1 || bytes != 3 {
				t.Errorf("restored in order %v: %d leased with %d bytes, want 1 with 3", order, n, bytes)
			}
		}
	})
}

// TestEntrySize keeps ten million blobs within a GiB: entries must not grow by accident.
func TestEntrySize(t *testing.T) {
	if got := unsafe.Sizeof(entry{}); got != 64 {
		t.Errorf("an entry has %d bytes, want 64", got)
	}
}

// TestModel compares a ledger with a map, over random calls.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := New(time.Hour)
		model := map[Key]Place{}
		next := Place(0)
		// Few shards and slots, so that chains are long; many keys, so that the index grows.
		draw := func(t *rapid.T) Key {
			n := rapid.IntRange(0, 99).Draw(t, "key")
			return Key{Kind: 1, Hash: [32]byte{byte(n % 2), byte(n % 3), 0, 0, 0, 0, 0, 0, 0, byte(n)}}
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				k := draw(t)
				next++
				want := Won
				if model[k] != 0 {
					want = Lost
				} else {
					model[k] = next
				}
				if got, _ := l.Publish(k, 1, next, yes); got != want {
					t.Fatalf("Publish = %v, want %v", got, want)
				}
			},
			"drop": func(t *rapid.T) {
				k := draw(t)
				l.Drop(k, model[k])
				delete(model, k)
			},
			"pin": func(t *rapid.T) {
				k := draw(t)
				var got Place
				pin, ok := l.Pin(k, 1, func(p Place, size int64) { got = p })
				if ok != (model[k] != 0) || got != model[k] {
					t.Fatalf("Pin = %v at %d, want %d", ok, got, model[k])
				}
				if ok {
					if rapid.Bool().Draw(t, "dropped") {
						l.Drop(k, model[k])
						delete(model, k)
					}
					pin.Release()
				}
			},
			"": func(t *rapid.T) {
				if blobs, records, pins := l.Counts(); blobs != len(model) || records != 0 || pins != 0 {
					t.Fatalf("Counts = %d, %d, %d, want %d, 0, 0", blobs, records, pins, len(model))
				}
			},
		})
	})
}

func BenchmarkLease(b *testing.B) {
	l := New(time.Hour)
	keys := make([]Key, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	for i := range keys {
		keys[i].Kind = 1
		_, _ = random.Read(keys[i].Hash[:])
		l.Publish(keys[i], 1, Place(i+1), yes)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			l.lease(keys[i%len(keys)], 1)
		}
	})
}
