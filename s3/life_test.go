package s3

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestAnswersLost: a session begins and ends, though the network loses an answer, or a request, at each step.
func TestAnswersLost(t *testing.T) {
	for _, f := range []bucket.Fault{bucket.Lose, bucket.Vanish, bucket.Refuse, bucket.Duplicate} {
		for nth := range 4 {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				b := &bucket.Memory{Fault: func(op, key string) bucket.Fault {
					if op != "put" || !strings.HasPrefix(key, sessions) {
						return bucket.None
					}
					if n++; n-1 == nth {
						return f
					}
					return bucket.None
				}}
				o := small
				o.Heartbeat, o.manual, o.uncompressed = time.Minute, false, true
				s := openStore(t, b, o)
				time.Sleep(20 * time.Second) // a renewal
				closeStore(t, s)
				var r session
				if _, err := s.getJSON(t.Context(), b.Keys(sessions)[0], &r); err != nil || r.State != closed || s.Stats().Sessions != 1 {
					t.Errorf("fault %d at the %dth: the record says %v, %v", f, nth, r.State, err)
				}
			})
		}
	}
}

// TestRenewalBefore: a renewal whose answer was lost is no reason to leave a session open at the end.
func TestRenewalBefore(t *testing.T) {
	b := &bucket.Memory{}
	s := openStore(t, b, small)
	b.Fault = func(op, key string) bucket.Fault {
		if op == "put" {
			return bucket.Lose
		}
		return bucket.None
	}
	if err := s.renew(t.Context(), s.now.Load()); !errors.Is(err, bucket.ErrUnknown) {
		t.Errorf("renew = %v", err)
	}
	b.Fault = nil
	closeStore(t, s)
}

// TestBeginFails: a server that can't read the listing leaves nobody to wait for.
func TestBeginFails(t *testing.T) {
	b := &bucket.Memory{Fault: func(op, key string) bucket.Fault {
		if op == "list" {
			return bucket.Refuse
		}
		return bucket.None
	}}
	if _, err := Open(t.Context(), b, small); !errors.Is(err, bucket.ErrBusy) {
		t.Errorf("Open = %v, want ErrBusy", err)
	}
	if keys := b.Keys(sessions); len(keys) > 0 {
		t.Errorf("%v is left, which said nothing to anybody", keys)
	}
}

// A writing bucket lists ETags in another way than it answers with.
type writing struct{ *bucket.Memory }

func (w writing) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	p, err := w.Memory.List(ctx, prefix, after)
	for i := range p.Objects {
		p.Objects[i].ETag = strings.Trim(p.Objects[i].ETag, `"`)
	}
	return p, err
}

// TestSilent: a session that is silent is given up, however the bucket writes its ETags.
func TestSilent(t *testing.T) {
	for name, of := range map[string]func(*bucket.Memory) bucket.Bucket{
		"plain":   func(b *bucket.Memory) bucket.Bucket { return b },
		"writing": func(b *bucket.Memory) bucket.Bucket { return writing{b} },
	} {
		synctest.Test(t, func(t *testing.T) {
			m := &bucket.Memory{}
			o := small
			o.Heartbeat, o.uncompressed = time.Minute, true
			b := of(m)
			openStore(t, b, o).stop()
			s := openStore(t, b, o)
			var c census
			for range 5 {
				var err error
				if c, err = s.takeCensus(t.Context(), s.now.Load()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				s.now.Load().renewed = s.clock()
			}
			if len(c.alive) != 1 || len(c.ended) != 1 {
				t.Errorf("%s: %d live and %d have ended, want one each", name, len(c.alive), len(c.ended))
			}
			closeStore(t, s)
		})
	}
}

// TestUnanswered: a collection that waits for a session says so, which may be that of a server that was killed just now.
func TestUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket.Memory{}
		o := small
		o.Heartbeat, o.uncompressed = time.Hour, true
		openStore(t, b, o).stop()
		s := openStore(t, b, o)
		keepAll(t, s, "root", []byte("garbage"))
		if err := s.Release(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * o.Lease)
		s.now.Load().renewed = s.clock()
		_, err := s.Collect(t.Context(), Policy{All: true, Patience: time.Second})
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "was killed: session") || strings.Contains(err.Error(), "collecting") {
			t.Errorf("Collect = %v, want that a server is busy or was killed", err)
		}
		closeStore(t, s)
	})
}

// A timeless bucket does not say what time it is.
type timeless struct{ *bucket.Memory }

func (b timeless) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	p, err := b.Memory.List(ctx, prefix, after)
	p.Date = time.Time{}
	return p, err
}

// TestTimeless: without the server's clock nobody's promises run out.
func TestTimeless(t *testing.T) {
	s := openStore(t, timeless{&bucket.Memory{}}, small)
	if _, err := s.Collect(t.Context(), Policy{All: true}); err == nil {
		t.Error("Collect = nil")
	}
	closeStore(t, s)
}

// TestReadOn: what was opened is read to its end, though the store is closed meanwhile.
func TestReadOn(t *testing.T) {
	s := openStore(t, &bucket.Memory{}, small)
	value := storetest.Bytes(1, 40000)
	d := digest.SHA256.Of(value)
	if err := blob.Put(t.Context(), s, d, value); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	got := make([]byte, len(value))
	if _, err := r.ReadAt(got, 0); err != nil || digest.SHA256.Of(got) != d {
		t.Errorf("ReadAt = %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseEnds: who closes a Reader ends what it fetches ahead.
func TestCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &bucket.Memory{}
		o := small
		o.uncompressed = true
		b := &hanging{Memory: m}
		s := openStore(t, b, o)
		value := storetest.Bytes(1, 40000)
		d := digest.SHA256.Of(value)
		if err := blob.Put(t.Context(), s, d, value); err != nil {
			t.Fatal(err)
		}
		r, err := s.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		b.hang = true
		go func() { _, _ = r.ReadAt(make([]byte, 1), 0) }()
		synctest.Wait()
		if got := len(s.slots); got == 0 {
			t.Error("nothing is under way")
		}
		_ = r.Close()
		synctest.Wait()
		if got := len(s.slots); got != 0 {
			t.Errorf("%d requests are under way for a Reader that was closed", got)
		}
		closeStore(t, s)
	})
}

// A hanging bucket does not answer until its caller gives up.
type hanging struct {
	*bucket.Memory
	hang bool
}

func (h *hanging) Get(ctx context.Context, key string, off, n int64) ([]byte, bucket.Object, error) {
	if h.hang && strings.HasPrefix(key, blobs) {
		<-ctx.Done()
		return nil, bucket.Object{}, ctx.Err()
	}
	return h.Memory.Get(ctx, key, off, n)
}

// TestDocumentGone: a proposal that is over between two requests of a session stops nobody.
func TestDocumentGone(t *testing.T) {
	b := &bucket.Memory{}
	s := openStore(t, b, small)
	r := register{Serial: 7, Epoch: 3, Session: "x", Proposal: documentKey(proposals, 3, "x")}
	if _, err := s.writeRegister(t.Context(), "", &r); err != nil {
		t.Fatal(err)
	}
	_, etag, err := s.readRegister(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Before = func(op, key string) {
		if op == "get" && key == r.Proposal && r.Epoch == 3 {
			r.Epoch, r.Proposal = 4, ""
			if _, err := s.writeRegister(t.Context(), etag, &r); err != nil {
				t.Error(err)
			}
		}
	}
	if err := s.follow(t.Context(), s.now.Load()); err != nil {
		t.Errorf("follow = %v", err)
	}
	closeStore(t, s)
}

// TestUndecided: a server that let go of a blob while another one is still asked does not say that it is gone, for that one
// may keep it. Of a record that is a miss.
func TestUndecided(t *testing.T) {
	b := &bucket.Memory{}
	o := small
	o.Lookup, o.Lease = true, time.Millisecond
	one, two := openStore(t, b, o), openStore(t, b, o)
	d := keepAll(t, two, "root", data(1))[0]
	key := [32]byte{1}
	if err := two.Put(t.Context(), key, []byte("value")); err != nil {
		t.Fatal(err)
	}
	if err := check(one, d); err != nil {
		t.Fatal(err)
	}
	l := one.now.Load()
	p := proposal{force: true}
	for _, name := range slices.Concat(b.Keys(blobs), b.Keys(records)) {
		p.lines = append(p.lines, line{name, ""})
	}
	l.letGoOf("p/2-x", p, true)
	for range 2 {
		if err := check(one, d); !errors.Is(err, blob.ErrUnavailable) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("while the other is asked, Open = %v, want ErrUnavailable", err)
		}
		if err := one.Keep(t.Context(), "second", nil, digest.SetOf(d)); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("Keep = %v, want ErrUnavailable", err)
		}
		if missing, err := one.Missing(t.Context(), digest.SetOf(d)); err != nil || missing.Len() != 1 {
			t.Errorf("Missing = %v, %v, want that it is", missing.List(), err)
		}
		if _, err := one.Get(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Get = %v, want ErrNotFound", err)
		}
	}
	l.letGoOf("d/2-x", p, false)
	if err := check(one, d); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("when a verdict names it, Open = %v, want ErrNotFound", err)
	}
	l.forget(l.heeded+1, nil)
	if err := check(one, d); err != nil {
		t.Errorf("when it is over: %v", err)
	}
	closeStore(t, one)
	closeStore(t, two)
}

// TestDeadCollector: a proposal whose collector was killed, or could not take it back, is withdrawn by a server that lives,
// and what it names is there again.
func TestDeadCollector(t *testing.T) {
	for _, killed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := &bucket.Memory{}
			o := small
			o.Heartbeat, o.uncompressed, o.Lookup, o.manual = time.Minute, true, true, false
			one, two := openStore(t, b, o), openStore(t, b, o)
			d := keepAll(t, one, "root", data(1))[0]
			if err := two.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * o.Lease)
			c := &collection{Store: one, life: one.now.Load(), policy: Policy{All: true}}
			if err := c.beginEpoch(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.propose(t.Context(), proposal{force: true, lines: []line{{b.Keys(blobs)[0], ""}}}); err != nil {
				t.Fatal(err)
			}
			if killed {
				one.stop()
			}
			time.Sleep(o.Heartbeat / 2)
			if err := check(two, d); !errors.Is(err, blob.ErrUnavailable) {
				t.Errorf("while one is about to decide, Open = %v, want ErrUnavailable", err)
			}
			time.Sleep(5 * o.Heartbeat)
			if err := check(two, d); err != nil {
				t.Errorf("killed: %v: when nobody decides any more, Open = %v", killed, err)
			}
			if now, _, err := two.readRegister(t.Context()); err != nil || now.Proposal != "" || now.Session != c.life.id {
				t.Errorf("the register is %+v, %v, want no proposal in it", now, err)
			}
			closeStore(t, two)
			if !killed {
				closeStore(t, one)
			}
		})
	}
}

// TestQuiet: nothing is proposed while the promises of a server that was killed stand: until it is decided, nobody could
// read what is proposed.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var proposed atomic.Int64
		b := &bucket.Memory{Before: func(op, key string) {
			if op == "put" && strings.HasPrefix(key, proposals) {
				proposed.Add(1)
			}
		}}
		o := small
		o.Heartbeat, o.uncompressed, o.manual = time.Minute, true, false
		openStore(t, b, o).stop()
		s := openStore(t, b, o)
		keepAll(t, s, "root", []byte("garbage"))
		if err := s.Release(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		var blocked *BlockedError
		if _, err := s.Collect(t.Context(), Policy{All: true, Patience: 10 * time.Minute}); !errors.As(err, &blocked) {
			t.Errorf("Collect = %v, want a BlockedError", err)
		}
		// The first time, the one that was killed seems to live; it was asked, and the proposal taken back.
		if n := proposed.Load(); n > 1 {
			t.Errorf("%d times something was proposed while a promise stood, want once at most", n)
		}
		if r, err := s.Collect(t.Context(), Policy{All: true, Patience: 3 * time.Hour}); err != nil || len(r.Sessions) != 1 {
			t.Errorf("Collect = %+v, %v, want one that went on when the promise was over", r, err)
		}
		if now, _, err := s.readRegister(t.Context()); err != nil || now.Proposal != "" {
			t.Errorf("the register is %+v, %v, want no proposal in it", now, err)
		}
		closeStore(t, s)
	})
}
