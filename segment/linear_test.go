package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// A step is one call about one digest, and answer what came of it. Their order is told by a counter,
// since most happen in no time; begin and end are the instants, by which leases are judged.
type step struct {
	verb   string // "put", "lie" (a put of wrong bytes), "missing", "read"
	digest int
	begin  time.Duration // since the start
}

type answer struct {
	outcome string // "yes" (stored, present, read), "no" (refused, absent), or what must never be
	end     time.Duration
}

// held is what the model knows of one digest.
type held struct {
	present bool
	until   time.Duration // end of the lease
}

// linear is a store of one digest that forgets it after its lease, and never before.
//
// A yes promises a lease from the moment of its answer, so that is where leases are counted from. A
// later call that begins before the end of the lease must find the blob; one that begins after it may,
// but once it doesn't, only another put brings the blob back.
var linear = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		of := map[int][]porcupine.Operation{}
		for _, o := range history {
			d := o.Input.(step).digest
			of[d] = append(of[d], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range of {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return held{} },
	Step: func(state, input, output any) (bool, any) {
		h, in, out := state.(held), input.(step), output.(answer)
		leased := held{true, max(h.until, out.end+cramped.Lease)}
		switch in.verb + " " + out.outcome {
		case "put yes":
			return true, leased
		case "put no", "lie no":
			return true, h
		case "missing yes":
			return h.present, leased
		case "read yes":
			return h.present, h
		case "missing no", "read no":
			return !h.present || in.begin >= h.until, held{}
		}
		return false, h
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(step), output.(answer)
		return fmt.Sprintf("%v: %s of %d: %s, at %v", in.begin, in.verb, in.digest, out.outcome, out.end)
	},
}

// A history is a ring, and what was said about it.
type history struct {
	ring    *Ring
	samples []sample
	start   time.Time
	clock   atomic.Int64
	clients [][]porcupine.Operation
}

// TestSeededLinear puts, asks for and reads up to three blobs while the ring evicts and time passes.
// Some order of the calls must explain every answer.
func TestSeededLinear(t *testing.T) {
	histories, calls := 0, 0
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		h := &history{ring: openRing(t, fsys, cramped), start: time.Now()}
		for i := range 1 + s.Rand.IntN(3) {
			n := []int{20, 500, 3000, 15000, 40000}[s.Rand.IntN(5)]
			data := storetest.Bytes(s.Seed*4+uint64(i), n)
			h.samples = append(h.samples, sample{digest.SHA256.Of(data), data})
		}
		h.clients = make([][]porcupine.Operation, 2+s.Rand.IntN(3))
		for i := range h.clients {
			s.Go(fmt.Sprint("client ", i), h.client(i, s.Rand))
		}
		s.Go("evictor", h.evictor(s.Rand))
		s.Run()
		all := slices.Concat(h.clients...)
		if !porcupine.CheckOperations(linear, all) {
			t.Error("no order of the calls explains the answers")
			for _, o := range all {
				t.Logf("%d to %d: client %d at %s", o.Call, o.Return, o.ClientId, linear.DescribeOperation(o.Input, o.Output))
			}
		}
		if err := h.ring.leaks(fsys); err != nil {
			t.Errorf("at rest: %v", err)
		}
		closeRing(t, h.ring)
		histories, calls = histories+1, calls+len(all)
	})
	t.Logf("%d histories of %d calls have an order that explains them", histories, calls)
}

// naps are what tasks wait for. Time moves by whole minutes under the scheduler.
var naps = []time.Duration{0, 0, 0, 0, cramped.Lease / 4, cramped.Lease / 2, cramped.Lease - time.Minute, cramped.Lease, 5 * cramped.Lease / 4, 2 * cramped.Lease}

func nap(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
		sim.Point("woke") // time may wake several at once
	}
}

// client returns a task of a few calls. All is chosen beforehand, so that tasks share no randomness.
func (h *history) client(id int, r *rand.Rand) func() {
	type plan struct {
		verb   string
		digest int
		nap    time.Duration
	}
	var plans []plan
	for range 3 + r.IntN(4) {
		verb := []string{"put", "put", "lie", "missing", "missing", "missing", "read", "read", "read"}[r.IntN(9)]
		plans = append(plans, plan{verb, r.IntN(len(h.samples)), naps[r.IntN(len(naps))]})
	}
	return func() {
		for _, p := range plans {
			h.call(id, p.verb, p.digest, p.nap)
		}
	}
}

func (h *history) evictor(r *rand.Rand) func() {
	var between []time.Duration
	for range 3 + r.IntN(4) {
		between = append(between, naps[r.IntN(len(naps))])
	}
	return func() {
		for _, d := range between {
			h.ring.evictAll()
			nap(d)
		}
	}
}

// call makes one call and notes it. A put naps between its parts, a read between its; the others
// before they begin.
func (h *history) call(id int, verb string, d int, rest time.Duration) {
	if verb == "missing" {
		nap(rest)
	}
	in := step{verb, d, time.Since(h.start)}
	begin := h.clock.Add(1)
	var outcome string
	s := h.samples[d]
	switch verb {
	case "put":
		outcome = judge(h.put(s.d, s.data, rest), blob.ErrAborted, blob.ErrFull)
	case "lie":
		outcome = judge(h.put(s.d, lie(s.data), rest), blob.ErrMismatch, blob.ErrAborted, blob.ErrFull)
	case "missing":
		missing, err := h.ring.Missing(context.Background(), digest.SetOf(s.d))
		if err == nil && missing.Len() > 0 {
			err = blob.ErrNotFound
		}
		outcome = judge(err, blob.ErrNotFound)
	case "read":
		outcome = judge(h.read(s, rest), blob.ErrNotFound)
	}
	h.clients[id] = append(h.clients[id], porcupine.Operation{
		ClientId: id, Input: in, Output: answer{outcome, time.Since(h.start)}, Call: begin, Return: h.clock.Add(1),
	})
}

// judge turns an error into an outcome: those that are expected mean no.
func judge(err error, no ...error) string {
	if err == nil {
		return "yes"
	}
	if slices.ContainsFunc(no, func(target error) bool { return errors.Is(err, target) }) {
		return "no"
	}
	return err.Error()
}

func lie(data []byte) []byte {
	other := bytes.Clone(data)
	other[len(other)/2] ^= 1
	return other
}

func (h *history) put(d digest.Digest, data []byte, rest time.Duration) error {
	w, err := h.ring.Create(context.Background(), d)
	if err != nil {
		return err
	}
	defer w.Close()
	for i, part := range [][]byte{data[:len(data)/2], data[len(data)/2:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
		sim.Point("wrote a part")
		if i == 0 {
			nap(rest)
		}
	}
	return w.Commit()
}

func (h *history) read(s sample, rest time.Duration) error {
	r, err := h.ring.Open(context.Background(), s.d)
	if err != nil {
		return err
	}
	defer r.Close()
	sim.Point("holds a reader")
	nap(rest)
	got := make([]byte, r.Size())
	if n, err := r.ReadAt(got, 0); n < len(got) {
		return fmt.Errorf("an open blob could not be read: %v", err)
	}
	if !bytes.Equal(got, s.data) {
		return errors.New("an open blob has other bytes than its digest")
	}
	return nil
}

// TestLinearModel: the model accepts what may happen, and rejects every way to break the promise.
func TestLinearModel(t *testing.T) {
	l := cramped.Lease
	at := func(verb string, begin, end time.Duration, outcome string) porcupine.Operation {
		return porcupine.Operation{Input: step{verb, 0, begin}, Output: answer{outcome, end}}
	}
	for _, test := range []struct {
		name  string
		calls []porcupine.Operation
		want  bool
	}{
		{"absent at first", []porcupine.Operation{at("read", 0, 0, "no"), at("missing", 0, 0, "no")}, true},
		{"present without a put", []porcupine.Operation{at("missing", 0, 0, "yes")}, false},
		{"read without a put", []porcupine.Operation{at("read", 0, 0, "yes")}, false},
		{"gone within the lease", []porcupine.Operation{at("put", 0, 0, "yes"), at("read", l-1, l-1, "no")}, false},
		{"gone after the lease", []porcupine.Operation{at("put", 0, 0, "yes"), at("read", l, l, "no")}, true},
		{"there after the lease", []porcupine.Operation{at("put", 0, 0, "yes"), at("read", 2*l, 2*l, "yes")}, true},
		{"missing leases", []porcupine.Operation{at("put", 0, 0, "yes"), at("missing", l, l, "yes"), at("read", 2*l-1, 2*l-1, "no")}, false},
		{"reading need not lease", []porcupine.Operation{at("put", 0, 0, "yes"), at("read", l, l, "yes"), at("read", l+1, l+1, "no")}, true},
		{"back from nowhere", []porcupine.Operation{at("put", 0, 0, "yes"), at("missing", l, l, "no"), at("read", l, l, "yes")}, false},
		{"the lease counts from the answer", []porcupine.Operation{at("put", 0, l, "yes"), at("read", 2*l-1, 2*l-1, "no")}, false},
		{"a slow read began in time", []porcupine.Operation{at("put", 0, 0, "yes"), at("read", l-1, 2*l, "no")}, false},
		{"a refused put", []porcupine.Operation{at("put", 0, 0, "no"), at("read", 0, 0, "yes")}, false},
		{"wrong bytes are stored", []porcupine.Operation{at("lie", 0, 0, "yes")}, false},
		{"torn", []porcupine.Operation{at("put", 0, 0, "yes"), at("read", 0, 0, "an open blob could not be read")}, false},
	} {
		for i := range test.calls {
			test.calls[i].Call, test.calls[i].Return = int64(2*i), int64(2*i+1)
		}
		if got := porcupine.CheckOperations(linear, test.calls); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
