package turns

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestOneAfterTheOther(t *testing.T) {
	var b By[string]
	var all sync.WaitGroup
	n := 0 // which the race detector watches
	for range 100 {
		all.Go(func() {
			done, err := b.Take(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer done()
			n++
		})
	}
	all.Wait()
	if n != 100 {
		t.Errorf("%d turns were taken, want 100", n)
	}
	if len(b.turns) != 0 {
		t.Errorf("%d turns are remembered that nobody has", len(b.turns))
	}
}

func TestTry(t *testing.T) {
	var b By[int]
	done, ok := b.Try(1)
	if !ok {
		t.Fatal("Try of a free turn = false")
	}
	if _, ok := b.Try(1); ok {
		t.Error("Try of a turn that somebody has = true")
	}
	if other, ok := b.Try(2); !ok {
		t.Error("Try of another key's turn = false")
	} else {
		other()
	}
	done()
	if done, ok = b.Try(1); !ok {
		t.Fatal("Try of a turn that was given back = false")
	}
	done()
}

// TestGivenUp: who gives up waiting is let go, and the turn goes on.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b By[string]
		done, err := b.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := b.Take(ctx, "a")
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Take of who gave up = %v, want Canceled", err)
		}
		done()
		if done, err = b.Take(ctx, "a"); err != nil { // though ctx is over
			t.Fatalf("Take of a free turn = %v", err)
		}
		done()
		if len(b.turns) != 0 {
			t.Errorf("%d turns are remembered that nobody has", len(b.turns))
		}
	})
}
