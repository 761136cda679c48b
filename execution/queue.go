package execution

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"time"
)

// An invocation is all that one build asked for, by the id that the client gave, or all that came without one.
type invocation struct {
	id      string
	users   int    // operations that are not done, and assignments
	running int    // assignments that count as its
	served  uint64 // the number of its last assignment, or of its own beginning
}

// invocation returns the invocation of an id, with one more user.
func (s *Scheduler) invocation(id string) *invocation {
	v := s.invocations[id]
	if v == nil {
		// As if just served: a client with a new id for each action does not go before all others.
		v = &invocation{id: id, served: s.number()}
		s.invocations[id] = v
	}
	v.users++
	return v
}

// leave takes one user away.
func (s *Scheduler) leave(v *invocation) {
	if v.users--; v.users == 0 {
		delete(s.invocations, v.id)
	}
}

// A platform is the queue of the tasks that need the same of a worker.
type platform struct {
	need  need
	lines map[*invocation]*line
	tasks map[*task]struct{} // queued
	hope  *alarm             // rings when they are given up, as no worker has the platform
	warn  *alarm             // rings when somebody should know that they wait
	kept  *worker            // is kept free for them, as they starved; see starve.go
}

// A line is the queue of one invocation on one platform: a heap by priority, then by who came first.
type line []*entry

// An entry is a queued task in the line of an invocation that wants it. A task has one for each.
type entry struct {
	task     *task
	inv      *invocation
	priority int32         // the lowest number of wishes
	wishes   map[int32]int // how many operations of the invocation have which priority
	index    int
}

func (l line) Len() int { return len(l) }
func (l line) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(l[i].priority, l[j].priority), cmp.Compare(l[i].task.number, l[j].task.number)) < 0
}
func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}
func (l *line) Push(x any) {
	e := x.(*entry)
	e.index = len(*l)
	*l = append(*l, e)
}
func (l *line) Pop() any {
	old := *l
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*l = old[:len(old)-1]
	return e
}

// before says whose turn it is.
func (e *entry) before(f *entry) bool {
	return cmp.Or(
		cmp.Compare(e.priority, f.priority),
		cmp.Compare(e.inv.running, f.inv.running),
		cmp.Compare(e.inv.served, f.inv.served),
		cmp.Compare(e.task.number, f.task.number),
	) < 0
}

// enqueue puts a task that has just become queued where workers find it, and gives it to one that is free.
func (t *task) enqueue() {
	s := t.s
	t.waits = time.Now()
	p := s.platforms[t.need.key]
	if p == nil {
		p = &platform{need: t.need, lines: map[*invocation]*line{}, tasks: map[*task]struct{}{}}
		s.platforms[t.need.key] = p
		p.warn = s.after(s.o.WarnAfter, func() { s.warn(p) })
	}
	p.tasks[t] = struct{}{}
	for _, o := range t.operations {
		t.line(o)
	}
	t.changed()
	s.place(t)
	s.judge(p)
}

// line puts the queued task into the line of o's invocation, or moves it forward there.
func (t *task) line(o *operation) {
	p := t.s.platforms[t.need.key]
	if e := t.entries[o.inv]; e != nil {
		e.wishes[o.priority]++
		if o.priority < e.priority {
			e.priority = o.priority
			heap.Fix(p.lines[o.inv], e.index)
		}
		return
	}
	l := p.lines[o.inv]
	if l == nil {
		l = new(line)
		p.lines[o.inv] = l
	}
	e := &entry{task: t, inv: o.inv, priority: o.priority, wishes: map[int32]int{o.priority: 1}}
	t.entries[o.inv] = e
	heap.Push(l, e)
}

// unline takes o's invocation's wish away from the queued task, as far as no other operation has it.
func (t *task) unline(o *operation) {
	e := t.entries[o.inv]
	if e == nil {
		return
	}
	p := t.s.platforms[t.need.key]
	if p.kept != nil {
		t.s.refill(p.kept) // others may be more urgent now
	}
	if e.wishes[o.priority]--; e.wishes[o.priority] == 0 {
		delete(e.wishes, o.priority)
	}
	if len(e.wishes) > 0 {
		if _, still := e.wishes[e.priority]; !still {
			e.priority = slices.Min(slices.Collect(maps.Keys(e.wishes)))
			heap.Fix(p.lines[o.inv], e.index)
		}
		return
	}
	p.remove(e)
	delete(t.entries, o.inv)
}

func (p *platform) remove(e *entry) {
	l := p.lines[e.inv]
	heap.Remove(l, e.index)
	if len(*l) == 0 {
		delete(p.lines, e.inv)
	}
}

// dequeue takes the task out of all lines. Its state changes next.
func (t *task) dequeue() {
	p := t.s.platforms[t.need.key]
	for _, e := range t.entries {
		p.remove(e)
	}
	clear(t.entries)
	if delete(p.tasks, t); len(p.tasks) == 0 {
		t.s.silence(p.hope)
		t.s.silence(p.warn)
		p.unkeep()
		delete(t.s.platforms, t.need.key)
	}
}

// pick returns whose turn it is on w, or nil if nothing that is queued fits.
func (s *Scheduler) pick(w *worker) (best *entry) {
	if !w.open() {
		return nil
	}
	for _, p := range s.platforms {
		if !w.capacity.room(&p.need) || !w.capacity.satisfies(&p.need) {
			continue
		}
		for _, l := range p.lines {
			if e := s.first(w, *l); e != nil && !s.barred(w, e) && (best == nil || e.before(best)) {
				best = e
			}
		}
	}
	return best
}

// first returns the first of l that w may run.
func (s *Scheduler) first(w *worker, l line) (best *entry) {
	if !s.shuns(l[0].task, w) {
		return l[0]
	}
	for i, e := range l {
		if (best == nil || l.Less(i, best.index)) && !s.shuns(e.task, w) {
			best = e
		}
	}
	return best
}

// shunFor is how long a task waits for another worker than the one that failed it.
const shunFor = 10 * time.Second

// shuns reports whether w failed the task and another worker can run it soon.
func (s *Scheduler) shuns(t *task, w *worker) bool {
	if !t.shunned[w.id] || time.Since(t.waits) >= shunFor {
		return false
	}
	for _, other := range s.workers {
		if !t.shunned[other.id] && other.able(&t.need) {
			return true
		}
	}
	return false
}

// fits reports whether w may run the queued task now, if it has a slot.
func (s *Scheduler) fits(t *task, w *worker) bool {
	if !w.capacity.room(&t.need) || !w.capacity.satisfies(&t.need) || s.shuns(t, w) {
		return false
	}
	for _, e := range t.entries {
		if !s.barred(w, e) {
			return true
		}
	}
	return false
}

// place gives the queued task to the free worker that has the least to do. Should another task have its turn
// there first, that one is given out, and the next worker is looked at.
func (s *Scheduler) place(t *task) {
	for t.state == Queued {
		var best *worker
		for _, w := range s.workers {
			if w.open() && s.fits(t, w) && (best == nil || w.lighter(best)) {
				best = w
			}
		}
		if best == nil {
			return
		}
		s.fill(best)
	}
}

// fill gives w all it can take.
func (s *Scheduler) fill(w *worker) {
	for e := s.pick(w); e != nil; e = s.pick(w) {
		s.assign(w, e)
	}
}

// changed looks at everything that waits, after the workers changed: what somebody could run now, and what nobody
// can run any more.
func (s *Scheduler) changed() {
	for _, w := range s.workers {
		s.fill(w)
	}
	s.judgeAll()
}
