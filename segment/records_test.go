package segment

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/sim/explore"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/ledger"
)

// A call is a Put of a value, a Get ("" is not found), or a Drop of what an earlier Get saw, if that
// is still there.
type call struct {
	op, value string
}

// register is a record that may be lost at any time (it is a cache), and that never comes back once
// it was seen to be gone or superseded.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, got := input.(call), output.(string)
		switch {
		case in.op == "put":
			return true, in.value
		case in.op == "drop" && got == "dropped":
			return state == in.value, ""
		case in.op == "drop":
			return true, state // superseded, or copied by the cleaner: that is another incarnation
		case got == "":
			return true, ""
		}
		return got == state, state
	},
}

// TestSeededRecords updates, gets and drops one record while the ring rotates and evicts, checks that
// some order of the calls explains every answer, and that a restart finds the last value.
func TestSeededRecords(t *testing.T) {
	explore.Run(t, 1000, func(t *testing.T, s *explore.Schedule) {
		fsys := &vfs.Mem{Before: func(op, name string) { sim.Point(op + " " + name) }}
		r := openRing(t, fsys, small)
		key := [32]byte{1}
		var clock atomic.Int64
		histories := make([][]porcupine.Operation, 4)
		record := func(client int, in call, do func() string) {
			begin := clock.Add(1)
			out := do()
			histories[client] = append(histories[client], porcupine.Operation{ClientId: client, Input: in, Output: out, Call: begin, Return: clock.Add(1)})
		}
		put := func(client int, value string) {
			record(client, call{"put", value}, func() string {
				if err := r.Put(t.Context(), key, []byte(value)); err != nil {
					t.Errorf("Put = %v", err)
				}
				return ""
			})
		}
		get := func(client int) (rec blob.Record) {
			record(client, call{op: "get"}, func() string {
				var err error
				if rec, err = r.Get(t.Context(), key); err != nil && !errors.Is(err, blob.ErrNotFound) {
					t.Errorf("Get = %v", err)
				}
				return string(rec.Value)
			})
			return rec
		}
		for i := range 2 {
			s.Go(fmt.Sprint("putter ", i), func() {
				put(i, fmt.Sprint(i, " first"))
				put(i, fmt.Sprint(i, " second"))
			})
		}
		s.Go("getter", func() {
			get(2)
			get(2)
			get(2)
		})
		s.Go("dropper", func() {
			rec := get(3)
			record(3, call{"drop", string(rec.Value)}, func() string {
				if r.ledger.Drop(recordKey(key), ledger.Place(rec.Incarnation)) {
					return "dropped"
				}
				return ""
			})
			get(3)
		})
		s.Go("evictor", func() {
			r.evictAll()
			if s.Rand.IntN(2) == 0 { // in the other half the last value is there to be found again
				time.Sleep(2 * small.Lease)
				r.evictAll()
			}
		})
		s.Run()
		last := get(3)
		var history []porcupine.Operation
		for _, h := range histories {
			history = append(history, h...)
		}
		if !porcupine.CheckOperations(register, history) {
			t.Errorf("no order of the calls explains the answers: %v", history)
		}
		closeRing(t, r)
		r = openRing(t, fsys, small)
		defer closeRing(t, r)
		if again, err := r.Get(t.Context(), key); len(last.Value) > 0 && string(again.Value) != string(last.Value) {
			t.Errorf("after a restart: %q, %v, want %q", again.Value, err, last.Value)
		}
	})
}
