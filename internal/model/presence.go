package model

import (
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Presence is what a store that forgets may answer about a blob or a record. Such a store is a cache
// with a promise: what is neither leased nor pinned may go at any time, nothing else may.
type Presence int

// What may be answered.
const (
	MustNot Presence = iota // absent
	May                     // either; once it was seen to be absent, call Forget
	Must                    // present
)

func (p Presence) String() string { return [...]string{"must not", "may", "must"}[p] }

// allowed returns what may be answered about what is gone, held by pins or roots, or leased until then.
func allowed(gone, held bool, until time.Time) Presence {
	switch {
	case gone:
		return MustNot
	case held || time.Now().Before(until):
		return Must
	}
	return May
}

func (e *entry) presence() Presence  { return allowed(e.gone, e.pins > 0 || e.keeps > 0, e.until) }
func (r *record) presence() Presence { return allowed(r.gone, false, r.until) }

// Presence returns what may be answered about d now. It leases nothing.
func (s *Store) Presence(d digest.Digest) Presence {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.IsEmpty() {
		return Must
	}
	if e := s.find(d); e != nil {
		return e.presence()
	}
	return MustNot
}

// Forget makes d absent, which may be present.
func (s *Store) Forget(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(d); e != nil && e.presence() == May {
		e.gone = true
	}
}

// RecordPresence returns what may be answered about the record of key now.
func (s *Store) RecordPresence(key [32]byte) Presence {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[key]; r != nil {
		return r.presence()
	}
	return MustNot
}

// ForgetRecord makes the record of key absent, which may be present.
func (s *Store) ForgetRecord(key [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[key]; r != nil && r.presence() == May {
		r.gone = true
	}
}

// Counts returns how many blobs and records are present, at the least and at the most.
func (s *Store) Counts() (blobs, records [2]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := func(n *[2]int, p Presence) {
		if p == Must {
			n[0]++
		}
		if p != MustNot {
			n[1]++
		}
	}
	for _, e := range s.blobs {
		count(&blobs, e.presence())
	}
	for _, r := range s.records {
		count(&records, r.presence())
	}
	return blobs, records
}

// Restart is the end of one process and the start of the next. Pins are gone, and leases stand. What
// was written whole may be there again, though it was given up, evicted or dropped; of a record only
// the value that was put last. If the power failed, only those leases stand whose blobs a record made
// durable that was put after them. Roots stand, with what they hold.
func (s *Store) Restart(powerCut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	replaced := map[*entry]*entry{}
	for k, e := range s.blobs {
		next := &entry{data: e.data, keeps: e.keeps} // an open Reader keeps its hands off this one
		replaced[e] = next
		e.pins = 0
		if e.presence() == Must && (e.durable || !powerCut) {
			next.until, next.durable = e.until, e.durable
		}
		s.blobs[k] = next
	}
	for _, r := range s.roots {
		for i, e := range r.held {
			r.held[i] = replaced[e]
		}
	}
	for k, r := range s.records {
		next := &record{Record: blob.Record{Value: r.Value, Incarnation: r.Incarnation}}
		if !r.gone {
			next.until = r.until
		}
		s.records[k] = next
	}
}
