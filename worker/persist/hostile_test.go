package persist

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMisbehaviour: what a tool does wrong fails that request with the reason, and the next one has a new process.
func TestMisbehaviour(t *testing.T) {
	r := newRig(t, Options{})
	for _, c := range []struct {
		flags string
		verb  []string
		err   error
		says  []string
	}{
		{"", []string{"say", "Compiling... "}, ErrProtocol, []string{"no WorkResponse", `began with "Compiling... "`}},
		{"--json", []string{"say", "Compiling... "}, ErrProtocol, []string{"no JSON object", `began with "Compiling... "`}},
		{"--json", []string{"say", `"well"`}, ErrProtocol, []string{"no JSON object"}},
		{"--json", []string{"say", `{"exit":1}`}, ErrProtocol, []string{"unknown field"}},
		{"", []string{"die"}, ErrProtocol, []string{"does not support --persistent_worker", "exit code 3", "I am not well"}},
		{"--old", []string{"number"}, ErrProtocol, []string{"does not support --persistent_worker", "exit code 2", "unknown option"}},
		{"", []string{"kill"}, ErrDied, []string{"exit code 137", "I am not well"}},
		{"", []string{"close"}, ErrProtocol, []string{"closed its standard output"}},
		{"", []string{"wrong id"}, ErrProtocol, []string{"answered request 7"}},
		{"", []string{"flood"}, ErrProtocol, []string{"more than"}},
		{"--json", []string{"flood json"}, ErrProtocol, []string{"more than"}},
	} {
		got := r.run(t.Context(), r.stage(c.flags, c.verb))
		if !errors.Is(got.err, c.err) {
			t.Errorf("%s %q: got %v, want %v", c.flags, c.verb, got.err, c.err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(got.err.Error(), text) {
				t.Errorf("%s %q: got %v, want %q in it", c.flags, c.verb, got.err, text)
			}
		}
	}
	r.stats(Stats{Started: 11, Died: 11})
	// In its second request a process that ends is one that died.
	r.ask("1", "", []string{"number"})
	if got := r.run(t.Context(), r.stage("", []string{"die"})); !errors.Is(got.err, ErrDied) || !strings.Contains(got.err.Error(), "request 2; on standard error it said: I am not well") {
		t.Errorf("got %v, want a death in request 2", got.err)
	}
	r.ask("1", "", []string{"number"})
}

// TestTwice: a second answer is nobody's.
func TestTwice(t *testing.T) {
	for _, flags := range []string{"", "--json"} {
		r := newRig(t, Options{})
		r.ask("once", flags, []string{"twice"})
		if idle := r.pool.idle; len(idle) > 0 { // it may have been seen already
			for idle[0].quiet() == nil {
				time.Sleep(time.Millisecond)
			}
			// What was looked at is gone from the pipe, and that this process is spoilt is known to the test alone.
			idle[0].why = ErrProtocol
			r.pool.expire(idle[0])
		}
		r.ask("1", flags, []string{"number"})
	}
}

// TestNothingStays: a request finds no file of another, whatever that one left.
func TestNothingStays(t *testing.T) {
	r := newRig(t, Options{})
	r.ask("done", "", []string{"copy", "secret", "sub/out"}, "secret=s", "sub/x=x")
	r.ask(". args tool done", "", []string{"list", "."})
	r.ask("", "", []string{"litter"})
	for { // until the tool has done it
		if _, err := os.Stat(filepath.Join(r.pool.idle[0].dir, "root", "litter")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.ask(". args tool done", "", []string{"list", "."})
	// A directory that it is in, or holds open, is no way to the host either.
	r.ask("done", "", []string{"go", "sub"}, "sub/x=x")
	a := r.stage("", []string{"list", "../.."})
	got := r.run(t.Context(), a)
	if got.err != nil || strings.Contains(got.stderr, "store") || strings.Contains(got.stderr, "action-") {
		t.Errorf("from a directory that went: got %q, %v, want nothing of the host", got.stderr, got.err)
	}
	r.stats(Stats{Started: 1, Reused: 5, Idle: 1})
}

// TestHold: a file that is held open over requests changes nothing of what was collected and nothing of what others get.
func TestHold(t *testing.T) {
	r := newRig(t, Options{})
	first := r.ask("done", "", []string{"hold", "out"})
	if got := r.read(filepath.Join(first.root, "out")); got != "first" {
		t.Errorf("got %q, want first", got)
	}
	second := r.ask("done", "", []string{"spoil"})
	if _, err := os.Stat(filepath.Join(second.root, "out")); err == nil {
		t.Error("the second request has the first one's output")
	}
}

// TestStore: nobody writes to a stored file through its link.
func TestStore(t *testing.T) {
	r := newRig(t, Options{})
	for range 2 {
		a := r.stage("", []string{"write", "in"}, "in=good")
		if got := r.run(t.Context(), a); got.err != nil || os.Geteuid() == 0 && !strings.Contains(got.stderr, "not permitted") {
			t.Errorf("got %+v, want that it was not permitted", got)
		}
		if got := r.read(filepath.Join(r.store, a.Spec.ID+"-0")); got != "good" {
			t.Errorf("the stored file: got %q, want good", got)
		}
	}
}

// TestReplace: a tool that puts something else in the place of its working directory gets no more requests.
func TestReplace(t *testing.T) {
	r := newRig(t, Options{})
	a := r.stage("", []string{"replace"}, "a/b/in=x")
	a.Spec.Dir, a.Spec.Args[1] = "a/b", "@../../args"
	if got := r.run(t.Context(), a); !errors.Is(got.err, ErrProtocol) || !strings.Contains(got.err.Error(), "working directory") {
		t.Errorf("got %v, want the reason", got.err)
	}
	r.stats(Stats{Started: 1, Died: 1})
}
