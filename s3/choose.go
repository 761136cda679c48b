package s3

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/ledger"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A choice is what a collection looked at, and proposes.
type choice struct {
	policy Policy
	marks  *marks
	life   *life
	date   time.Time // of the server's clock, at the beginning

	mu           sync.Mutex
	report       Report
	second       map[string][]found // by survivor: second copies, and records that it superseded
	secondCopies int                // how many there are in it
	oldest       oldest             // what may go by age, or for all
	pages        map[string][]found // by part of the listing: the last group, which may go on
}

// A found is an object with what decides over it.
type found struct {
	incarnation
	bytes    int64
	modified time.Time
}

// An oldest is a heap of the oldest objects, the youngest on top.
type oldest []found

func (h oldest) Len() int           { return len(h) }
func (h oldest) Less(i, j int) bool { return h[i].modified.After(h[j].modified) }
func (h oldest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *oldest) Push(x any)        { *h = append(*h, x.(found)) }
func (h *oldest) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// choose lists all objects and says which may go.
func (s *Store) choose(ctx context.Context, l *life, policy Policy, m *marks, date time.Time) (proposal, Report, error) {
	c := &choice{policy: policy, marks: m, life: l, date: date, second: map[string][]found{}, pages: map[string][]found{}}
	for _, prefix := range []string{blobs, records} {
		if err := s.listAll(ctx, l, prefix, func(_ uint64, page []bucket.Object) (bool, error) {
			c.look(page)
			if policy.Progress != nil {
				policy.Progress(c.sofar())
			}
			return false, nil
		}); err != nil {
			return proposal{}, c.report, err
		}
	}
	for _, group := range c.pages {
		c.judge(group)
	}
	return c.propose(), c.report, nil
}

func (c *choice) sofar() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report
}

// look takes a page. All copies of one blob are neighbours, but a page may end between them.
func (c *choice) look(page []bucket.Object) {
	var found_ []found
	c.life.door <- struct{}{}
	for _, o := range page {
		if i, ok := parseName(o.Key); ok && !c.life.gone(o.Key) {
			found_ = append(found_, found{i, o.Size, o.Modified})
		}
	}
	<-c.life.door
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(found_) > 0 {
		n := 1
		for n < len(found_) && found_[n].key == found_[0].key {
			n++
		}
		group := found_[:n]
		found_ = found_[n:]
		part := group[0].name()[:5] // "c/ab/": one goroutine lists it, in order
		if open := c.pages[part]; len(open) > 0 {
			if open[0].key == group[0].key {
				group = append(slices.Clone(open), group...)
			} else {
				c.judge(open)
			}
		}
		c.pages[part] = group
	}
}

// judge decides over all copies of one blob, or all incarnations of one record. The caller holds the mutex, or is alone.
func (c *choice) judge(group []found) {
	for _, f := range group {
		c.report.Objects++
		c.report.Bytes += f.bytes
	}
	stays := c.survivor(group)
	kept := stays.key.Kind != ledger.Record && c.marks.has(stays.key)
	if kept {
		c.report.Kept++
		c.report.KeptBytes += stays.bytes
	}
	for _, f := range group {
		if f != stays && c.secondCopies < 4*c.policy.limit() { // more than may go at once; the others are found again
			c.second[stays.name()] = append(c.second[stays.name()], f)
			c.secondCopies++
		}
	}
	young := c.policy.Grace > 0 && c.date.Sub(stays.modified) < c.policy.Grace
	if kept || young || !c.policy.All && c.policy.MaxSize == 0 {
		return
	}
	heap.Push(&c.oldest, stays)
	if len(c.oldest) > c.policy.limit() {
		heap.Pop(&c.oldest)
	}
}

// survivor returns which of a group stays: of a record the greatest, of a blob the one that our ledger names.
func (c *choice) survivor(group []found) found {
	last := group[len(group)-1]
	if last.key.Kind == ledger.Record {
		return slices.MaxFunc(group, func(a, b found) int {
			return cmp.Or(cmp.Compare(a.n, b.n), strings.Compare(a.session, b.session))
		})
	}
	if len(group) == 1 {
		return last
	}
	c.life.door <- struct{}{}
	defer func() { <-c.life.door }()
	for _, f := range group {
		if p := c.life.ids.place(f.incarnation); p != 0 && c.life.ledger.Names(f.key, p) {
			return f
		}
		if c.life.spoilt[last.name()] {
			last = f
		}
	}
	return last
}

// propose picks what goes: all that is superfluous, and of the rest the oldest, as the policy says.
func (c *choice) propose() proposal {
	p := proposal{force: c.policy.All}
	limit := c.policy.limit()
	add := func(f found, survivor string) {
		p.lines = append(p.lines, line{f.name(), survivor})
		c.report.Candidates++
		c.report.CandidateBytes += f.bytes
	}
	slices.SortFunc(c.oldest, func(a, b found) int { return a.modified.Compare(b.modified) })
	excess := c.report.Bytes - c.policy.MaxSize
	for _, f := range c.second {
		for _, f := range f {
			excess -= f.bytes
		}
	}
	for _, f := range c.oldest {
		if len(p.lines) >= limit || !c.policy.All && excess <= 0 {
			break
		}
		excess -= f.bytes
		add(f, "")
		for _, second := range c.second[f.name()] {
			add(second, "") // there is none that stays
		}
		delete(c.second, f.name())
	}
	for survivor, group := range c.second {
		for _, f := range group {
			if len(p.lines) < 2*limit {
				add(f, survivor)
			}
		}
	}
	slices.SortFunc(p.lines, func(a, b line) int { return strings.Compare(a.key, b.key) })
	return p
}
