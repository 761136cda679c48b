package ledger

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeep: what a root keeps is refused to Condemn, and counted once and apart from leases.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Hour)
		k := key(1)
		if ok, _ := l.Keep(k, 5); ok {
			t.Error("Keep of an absent key = true")
		}
		l.Publish(k, 5, 10, yes)
		if ok, _ := l.Keep(k, 6); ok {
			t.Error("Keep with another size = true")
		}
		if ok, first := l.Keep(k, 5); !ok || !first {
			t.Errorf("the first Keep = %v, %v", ok, first)
		}
		if ok, first := l.Keep(k, -1); !ok || first {
			t.Errorf("the second Keep = %v, %v", ok, first)
		}
		if n, bytes := l.Kept(); n != 1 || bytes != 5 {
			t.Errorf("Kept = %d, %d, want 1, 5", n, bytes)
		}
		if n, bytes := l.Leased(); n != 0 || bytes != 0 {
			t.Errorf("Leased of what is kept = %d, %d", n, bytes)
		}
		if got := l.Condemn(k, 10, true); got != Held {
			t.Errorf("Condemn of what is leased and kept = %v, want Held", got)
		}
		l.Unkeep(k)
		time.Sleep(2 * time.Hour)
		if got := l.Condemn(k, 10, true); got != Kept {
			t.Errorf("Condemn of what is kept = %v, want Kept", got)
		}
		l.lease(k, 5)
		l.Unkeep(k)
		if n, bytes := l.Leased(); n != 1 || bytes != 5 {
			t.Errorf("Leased after the last Unkeep = %d, %d, want 1, 5", n, bytes)
		}
		time.Sleep(2 * time.Hour)
		if got := l.Condemn(k, 10, true); got != Condemned {
			t.Errorf("Condemn after all = %v, want Condemned", got)
		}
	})
}

// TestKeepOutlivesDrop: keeps are of the key, so what is uploaded again after damage is kept.
func TestKeepOutlivesDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Hour)
		k := key(1)
		if l.Owe(k) {
			t.Error("Owe of an absent key = true")
		}
		l.Publish(k, 5, 10, yes)
		l.Keep(k, 5)
		l.Drop(k, 10)
		if n, bytes := l.Kept(); n != 0 || bytes != 0 {
			t.Errorf("Kept of what was dropped = %d, %d", n, bytes)
		}
		l.Unkeep(k)
		l.Publish(k, 5, 11, yes)
		time.Sleep(2 * time.Hour)
		if got := l.Condemn(k, 11, true); got != Kept {
			t.Errorf("Condemn after the second upload = %v, want Kept", got)
		}
		l.Unkeep(k)
		if got := l.Condemn(k, 11, true); got != Condemned {
			t.Errorf("Condemn after the last Unkeep = %v, want Condemned", got)
		}
	})
}

// TestKeepCounts: whatever is done in whatever order, the counts are those of a walk.
func TestKeepCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(time.Hour)
		keeps := map[Key]int{}
		next := Place(1)
		for step := range 2000 {
			k := key(byte(rand.IntN(8)))
			k.Hash[0] = 0 // one shard
			switch rand.IntN(7) {
			case 0:
				l.Publish(k, int64(rand.IntN(9)+1), next, yes)
				next++
			case 1:
				l.lease(k, -1)
			case 2:
				if ok, _ := l.Keep(k, -1); ok {
					keeps[k]++
				}
			case 3:
				if keeps[k] > 0 {
					l.Unkeep(k)
					keeps[k]--
				}
			case 4:
				var p Place
				if pin, ok := l.Pin(k, -1, func(at Place, _ int64) { p = at }); ok {
					pin.Release()
					l.Drop(k, p)
				}
			case 5:
				l.Owe(k)
				keeps[k]++
			default:
				time.Sleep(time.Duration(rand.IntN(40)) * time.Minute)
			}
			var want, wantLeased lent
			l.Each(func(k Key, size int64, _ Place, leased bool) {
				if keeps[k] > 0 {
					want.entries++
					want.bytes += size
				} else if leased {
					wantLeased.entries++
					wantLeased.bytes += size
				}
			})
			n, bytes := l.Kept()
			m, leased := l.Leased()
			if n != want.entries || bytes != want.bytes || m != wantLeased.entries || leased != wantLeased.bytes {
				t.Fatalf("step %d: kept %d, %d, leased %d, %d, want %v, %v", step, n, bytes, m, leased, want, wantLeased)
			}
		}
	})
}

// TestKeptByVeryMany: where counting ends, nothing is let go of.
func TestKeptByVeryMany(t *testing.T) {
	l := New(time.Hour)
	k := key(1)
	for range mostKeeps + 2 {
		l.Owe(k)
	}
	for range mostKeeps + 2 {
		l.Unkeep(k)
	}
	l.Publish(k, 5, 10, yes)
	if n, _ := l.Kept(); n != 1 {
		t.Errorf("Kept = %d, want what can't be counted to be kept", n)
	}
}
