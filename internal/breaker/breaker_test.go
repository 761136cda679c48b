package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		allowed := func(want bool, when string) {
			t.Helper()
			if got := b.Allow(); got != want {
				t.Fatalf("%s: allowed: got %t, want %t", when, got, want)
			}
		}
		allowed(true, "at first")
		if !b.Away() {
			t.Error("the first failure: got no news")
		}
		if b.Away() {
			t.Error("another call's failure: got news again")
		}
		allowed(false, "after a failure")
		time.Sleep(First)
		allowed(true, "after the pause")
		allowed(false, "while one tries")
		b.Away()
		time.Sleep(First)
		allowed(false, "after one pause, of two")
		time.Sleep(First)
		allowed(true, "after two pauses")
		b.Well()
		allowed(true, "when it is well")
		allowed(true, "when it is well, again")
		if b.IsAway() {
			t.Error("a server that answered: got away")
		}
	})
}

func TestPauseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Away()
		for range 20 {
			time.Sleep(Last)
			if !b.Allow() {
				t.Fatalf("%v after a failure: got nobody to try", Last)
			}
			b.Away()
		}
	})
}
