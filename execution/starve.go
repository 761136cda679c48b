package execution

// An action that needs much of a worker would wait for ever if small ones took each bit that gets free. So after
// WarnAfter a worker is kept for its platform: it takes nothing else until there is room. Work
// that is more urgent goes on all the same.

// starve keeps a worker for p, if there is one whose next task would be of p but for the room.
func (s *Scheduler) starve(p *platform) {
	if p.kept != nil || len(p.need.minimum) == 0 {
		return
	}
	var best *worker
	for _, w := range s.workers {
		if w.session == nil || w.keptFor != nil || !w.able(&p.need) || w.capacity.room(&p.need) || s.urgency(p) > s.mostUrgent(w) {
			continue
		}
		if best == nil || w.lighter(best) {
			best = w
		}
	}
	if best != nil {
		s.o.Log.Info("a worker is kept for actions that need much of it", "worker", best.name, "needs", p.need.String())
		p.kept, best.keptFor = best, p
	}
}

// barred reports whether w is kept for something that e does not go before.
func (s *Scheduler) barred(w *worker, e *entry) bool {
	p := w.keptFor
	return p != nil && e.task.need.key != p.need.key && e.priority >= s.urgency(p)
}

// urgency returns the lowest priority number of what is queued on p.
func (s *Scheduler) urgency(p *platform) int32 {
	first := true
	var lowest int32
	for _, l := range p.lines {
		if n := (*l)[0].priority; first || n < lowest {
			first, lowest = false, n
		}
	}
	return lowest
}

// mostUrgent returns the lowest priority number of all that w could run some time.
func (s *Scheduler) mostUrgent(w *worker) int32 {
	first := true
	var lowest int32
	for _, p := range s.platforms {
		if w.capacity.satisfies(&p.need) {
			if n := s.urgency(p); first || n < lowest {
				first, lowest = false, n
			}
		}
	}
	return lowest
}

// unkeep lets the worker that is kept for p take anything again.
func (p *platform) unkeep() {
	if w := p.kept; w != nil {
		p.kept, w.keptFor = nil, nil
		w.s.refill(w)
	}
}
