package execution

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// A former is what a worker offered that is gone.
type former struct {
	capacity capacity
	left     time.Time
}

// able reports whether w can run actions of n, at some time.
func (w *worker) able(n *need) bool { return !w.draining && w.capacity.satisfies(n) }

// judge sees to it that what waits on p does not wait for ever: if no worker has the platform, it is given up now
// or after a while. It is to be called whenever p or the workers change.
func (s *Scheduler) judge(p *platform) {
	if len(p.tasks) == 0 {
		return
	}
	if slices.ContainsFunc(s.workers, func(w *worker) bool { return w.able(&p.need) }) {
		s.silence(p.hope)
		p.hope = nil
		return
	}
	wait := s.patience(p)
	if wait <= 0 {
		s.giveUp(p)
		return
	}
	if at := time.Now().Add(wait); p.hope == nil || at.Before(p.hope.at) {
		s.silence(p.hope)
		p.hope = s.after(wait, func() {
			p.hope = nil
			s.giveUp(p)
		})
	}
}

// patienceUnset is how long to wait for a worker, if nobody says so and there is hope.
const patienceUnset = time.Minute

// patience returns how long to wait for a worker that has p, now that none has.
func (s *Scheduler) patience(p *platform) time.Duration {
	if s.o.UnsatisfiableTimeout > 0 {
		return s.o.UnsatisfiableTimeout
	}
	if len(s.workers) == 0 {
		return patienceUnset
	}
	s.forgetFormer()
	back := slices.ContainsFunc(s.recent, func(f former) bool { return f.capacity.satisfies(&p.need) }) ||
		slices.ContainsFunc(s.workers, func(w *worker) bool { return w.capacity.satisfies(&p.need) })
	if back {
		return patienceUnset
	}
	return min(time.Until(s.settles), patienceUnset)
}

// forgetFormer forgets the workers that left long ago.
func (s *Scheduler) forgetFormer() {
	s.recent = slices.DeleteFunc(s.recent, func(f former) bool { return time.Since(f.left) >= patienceUnset })
}

// giveUp ends all that waits on p.
func (s *Scheduler) giveUp(p *platform) {
	why := s.unsatisfied(&p.need)
	if p.need.key != "" {
		why = "the action needs " + p.need.String() + ": " + why
	}
	s.o.Log.Warn("actions that no worker can run", "actions", len(p.tasks), "why", why)
	for _, t := range sorted(p.tasks) {
		t.fail(codes.FailedPrecondition, "%s", why)
	}
}

// judgeAll is judge of every platform, after the workers changed.
func (s *Scheduler) judgeAll() {
	for _, p := range s.platforms {
		s.judge(p)
	}
}

// warn says what has been waiting on p for long, and why.
func (s *Scheduler) warn(p *platform) {
	var oldest *task
	for t := range p.tasks {
		if oldest == nil || t.waits.Before(oldest.waits) {
			oldest = t
		}
	}
	waited := time.Since(oldest.waits)
	if waited >= s.o.WarnAfter {
		s.o.Log.Warn("actions are queued for long", "actions", len(p.tasks), "longest", waited.Round(time.Second),
			"action", oldest.key.Action.String(), "needs", p.need.String(), "why", s.whyWaiting(p))
		s.starve(p)
		s.unstall()
		waited = 0
	}
	p.warn = s.after(s.o.WarnAfter-waited, func() { s.warn(p) })
}

// unstall gives out what somebody could run and nobody was given. There is none, unless this package has a mistake.
func (s *Scheduler) unstall() {
	for _, w := range s.workers {
		if e := s.pick(w); e != nil {
			s.o.Log.Error("a worker was idle while an action fit it", "worker", w.name, "action", e.task.key.Action.String())
			s.fill(w)
		}
	}
}

// whyWaiting says why nothing of p runs now.
func (s *Scheduler) whyWaiting(p *platform) string {
	able, away, slots, room := 0, 0, 0, 0
	for _, w := range s.workers {
		switch {
		case !w.able(&p.need):
			continue
		case w.session == nil:
			away++
		case len(w.assignments) < w.slots:
			slots++
		}
		able++
		if w.capacity.room(&p.need) {
			room++
		}
	}
	switch {
	case able == 0:
		return s.unsatisfied(&p.need)
	case away == able:
		return fmt.Sprintf("the %d workers that can run it are disconnected", able)
	case slots > 0 && room == 0:
		return fmt.Sprintf("%d workers can run it and have free slots, but not free at once what it needs", able)
	}
	return fmt.Sprintf("the %d workers that can run it are busy", able)
}

// String lists what is needed.
func (n *need) String() string {
	var all []string
	for _, e := range n.exact {
		all = append(all, e.String())
	}
	for _, m := range n.minimum {
		all = append(all, m.String())
	}
	return strings.Join(all, ", ")
}

// sorted returns tasks by number.
func sorted(set map[*task]struct{}) []*task {
	all := make([]*task, 0, len(set))
	for t := range set {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *task) int { return int(int64(a.number) - int64(b.number)) })
	return all
}
