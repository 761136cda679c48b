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

func yes() bool { return true }

func TestPublish(t *testing.T) {
	l := New(time.Hour)
	k := key(1)
	if l.Lease(k, 5) {
		t.Error("Lease of an absent key = true")
	}
	if got := l.Publish(k, 5, 10, func() bool { return false }); got != Refused {
		t.Errorf("Publish that is not admitted = %v, want Refused", got)
	}
	if got := l.Publish(k, 5, 11, yes); got != Won {
		t.Errorf("first Publish = %v, want Won", got)
	}
	if got := l.Publish(k, 5, 12, yes); got != Lost {
		t.Errorf("second Publish = %v, want Lost", got)
	}
	if !l.Lease(k, 5) || !l.Lease(k, -1) || l.Lease(k, 6) {
		t.Error("Lease must hold for size 5 and any, and not for 6")
	}
	if l.Lease(Key{Kind: 9, Hash: k.Hash}, 5) {
		t.Error("another kind with the same hash is present")
	}
}

func TestSupersede(t *testing.T) {
	l := New(time.Hour)
	k := Key{Kind: Record}
	for _, p := range []Place{1, 2, 3} {
		if got := l.Supersede(k, int64(p), p, yes); got != Won {
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
				if !l.Lease(key(1), 1) {
					t.Fatal("absent")
				}
				time.Sleep(lease - 1)
				if !l.Held(key(1), 1) || l.Condemn(key(1), 1) {
					t.Error("condemned a nanosecond before the lease was over")
				}
				time.Sleep(lease/4 + 2)
				if l.Held(key(1), 1) || !l.Condemn(key(1), 1) {
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
		if l.Condemn(key(1), 7) {
			t.Error("condemned while pinned")
		}
		l.Drop(key(1), 7) // the entry lives on for the pin
		l.Publish(key(1), 1, 8, yes)
		b.Release()
		if _, _, pins := l.Counts(); pins != 0 {
			t.Errorf("%d pins left", pins)
		}
		if !l.Lease(key(1), 1) {
			t.Error("the release of a dropped entry took its successor with it")
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
				if got := l.Publish(k, 1, next, yes); got != want {
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
			l.Lease(keys[i%len(keys)], 1)
		}
	})
}
