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

func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		slow := func() { b.Answered(2*time.Second, time.Second) }
		for range 3 * Strikes {
			for range Strikes - 1 {
				slow()
			}
			b.Answered(time.Second, time.Second)
		}
		if b.IsAway() {
			t.Error("slow answers with a quick one among them: got away")
		}
		for range Strikes {
			slow()
		}
		if !b.IsAway() || b.Allow() {
			t.Errorf("%d slow answers: got a server to ask", Strikes)
		}
		time.Sleep(First)
		if !b.Allow() {
			t.Fatal("after the pause: got nobody to try")
		}
		if slow(); b.Allow() {
			t.Error("slow again: got a server to ask")
		}
		time.Sleep(2 * First)
		if !b.Allow() {
			t.Fatal("after two pauses: got nobody to try")
		}
		if b.Answered(0, time.Second); b.IsAway() {
			t.Error("quick again: got away")
		}
	})
}
