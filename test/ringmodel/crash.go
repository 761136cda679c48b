package ringmodel

// crashes ends the process in every way that may still come, and starts another one.
func (x *ring) crashes(s *state) {
	if s.kills > 0 {
		after := *s
		after.kills--
		loss := x.startUp(&after, s, false)
		x.emit("kill", "and start-up", after, loss)
	}
	if s.cuts > 0 {
		after := *s
		after.cuts--
		x.cut(&after, s, 0)
	}
}

// cut goes through every image that a power cut may leave: of each segment from i on, its name as in the
// directory or as last synced, and of what is in it as written or as last synced.
func (x *ring) cut(image, s *state, i int) {
	if i == maxSegments {
		after := *image
		loss := x.startUp(&after, s, true)
		x.emit("power cut", "and start-up", after, loss)
		return
	}
	g := s.segments[i]
	if g.gen == 0 {
		image.segments[i] = segment{}
		x.cut(image, s, i+1)
		return
	}
	if !g.listed || !g.durable {
		image.segments[i] = segment{}
		x.cut(image, s, i+1)
	}
	if g.listed || g.durable {
		image.segments[i] = g
		image.segments[i].listed = true
		x.cutRecords(image, s, i, 0)
	}
}

func (x *ring) cutRecords(image, s *state, i, n int) {
	g := &s.segments[i]
	if n == int(g.n) {
		for _, f := range []footer{g.foot, g.footDisk} {
			image.segments[i].foot = f
			x.cut(image, s, i+1)
			if g.foot == g.footDisk {
				break
			}
		}
		return
	}
	r := g.records[n]
	contents := []content{r.live}
	if r.live != r.disk {
		contents = append(contents, r.disk)
		if r.live == whole && r.kind >= result1 && r.kind != void {
			contents = append(contents, torn)
		}
	}
	for _, c := range contents {
		image.segments[i].records[n].live = c
		x.cutRecords(image, s, i, n+1)
	}
}

// startUp makes s, which is an image of before, what a new process finds, and says what was lost.
func (x *ring) startUp(s, before *state, cut bool) (loss string) {
	var all, voided []place
	for i := range s.segments {
		g := &s.segments[i]
		if g.gen == 0 || !g.listed {
			*g = segment{}
			continue
		}
		l := x.readSegment(g, &all, &voided)
		loss = first(loss, l)
	}
	if cut && s.group {
		s.breakPromises()
	}
	x.endTasks(s)
	leased := x.readLogs(s, cut)
	x.restore(s, all, leased)
	for _, p := range voided {
		if x.rules.VoidObeyed {
			x.drop(s, keyD, p)
		}
	}
	x.mark(s)
	s.highest, s.active = 0, 0
	l := s.beginAgain(x.rules)
	x.carry(s, cut)
	s.forget()
	loss = first(loss, l, s.judge(x), s.judgeRoot())
	s.rootPut = max(s.rootPut, s.root()) // what a start has found stays
	return loss
}

func first(losses ...string) string {
	for _, l := range losses {
		if l != "" {
			return l
		}
	}
	return ""
}

// readSegment finds what is complete in a segment, by its footer or by its headers.
func (x *ring) readSegment(g *segment, all, voided *[]place) (loss string) {
	g.durable, g.victim, g.bad = true, false, false
	ended := false
	for i := range g.n {
		r := &g.records[i]
		listed := g.foot&written != 0 && g.foot&(1<<i) != 0
		if r.live == reserved && g.foot&written == 0 {
			ended = true // no header: the scan can't go on
		}
		ok := listed
		if !listed && !ended {
			ok = r.live == whole && !r.damaged
			ok = ok || g.foot&written != 0 && !x.rules.OpenHashed && r.live != hole
			ok = ok || r.live == torn && !x.rules.BodySum
		}
		if ok && r.live != whole {
			loss = "NoFalseYes: start-up takes for whole what is not"
		}
		switch {
		case !ok:
			r.live = hole
		case r.kind == void:
			*voided = append(*voided, r.names)
		default:
			*all = append(*all, place{g.gen, i})
		}
		r.disk, r.clean, r.complete = r.live, false, ok
	}
	// What start-up found is what a footer says from then on.
	g.foot = written
	for i := range g.n {
		if g.records[i].complete {
			g.foot |= 1 << i
		}
	}
	g.footDisk = g.foot
	return loss
}

// endTasks ends what was under way. Who was told yes still means it, and who has not begun will.
func (x *ring) endTasks(s *state) {
	for t := range tasks {
		me := &s.tasks[t]
		if !me.told {
			for k := range keys {
				s.entries[k].holders &^= 1 << t
			}
		}
		switch {
		case t == checker && me.at != idle && s.void.gen == 0:
			*me = task{at: start} // it will find the same again
		case t == cleaner:
			if me.at != idle && me.left > 0 {
				*me = task{at: start, left: me.left}
			}
		case t == rotator || t == clock || me.at == answered || me.at > start && me.told:
			if me.told {
				me.at, me.due = answered, 0
			} else if me.at != idle {
				finish(me)
			}
		case me.at != idle && me.at != start:
			finish(me)
		}
	}
	s.slot, s.turn = 0, 0
}

// breakPromises ends what a power cut may break when blobs are not synced: all but an update.
func (s *state) breakPromises() {
	for t := range tasks {
		if me := &s.tasks[t]; me.told && t != updater {
			me.told = false
		}
	}
}

// readLogs says what start-up leases.
func (x *ring) readLogs(s *state, cut bool) func(k int, p place) bool {
	tags, since := uint8(0), uint8(255)
	for _, l := range s.logs {
		if l.lives && !cut { // after a cut without its check the worst is that nothing is left of them
			tags |= l.tags
			since = min(since, l.since)
		}
	}
	image := *s
	everything := cut && x.rules.BootChecked
	return func(k int, p place) bool {
		return everything || tags&(1<<k) != 0 || p.gen >= since && !image.record(p).moved
	}
}

// carry writes the first log of this process.
func (x *ring) carry(s *state, cut bool) {
	log := leaseLog{since: s.active, lives: true}
	if x.rules.LogsCarried {
		for _, l := range s.logs {
			if l.lives {
				log.tags |= l.tags
				log.since = min(log.since, l.since)
			}
		}
		if cut && x.rules.BootChecked {
			log.tags = 1<<keys - 1
		}
	}
	s.logs = [2]leaseLog{log}
	s.later = false
	for k := range keys {
		s.entries[k].old = 0
	}
}

// beginAgain makes a new active segment, or without the rule leaves that for later.
func (s *state) beginAgain(r rules) (loss string) {
	if r.FreshGeneration {
		s.active, loss = s.add(true)
		return loss
	}
	s.active = 0 // until somebody asks for an extent; by then the last one may be removed
	return ""
}

// judge says what start-up lost of what was promised.
func (s *state) judge(x *ring) string {
	if k := s.entries[keyK]; k.at.gen != 0 && version(s.record(k.at).kind) < s.acked {
		return "CrashSafe: a superseded result is back"
	}
	if k := s.entries[keyK]; k.at.gen != 0 && s.tasks[updater].told && s.entries[keyD].at.gen == 0 {
		return "CrashSafe: a result is there, and what it names is gone"
	}
	for t := range tasks {
		if !s.tasks[t].told {
			continue
		}
		for k := range keys {
			if e := &s.entries[k]; e.holders&(1<<t) != 0 && e.at.gen == 0 {
				return "CrashSafe: what was promised is gone"
			}
		}
	}
	if d := s.entries[keyD].at; s.void.gen != 0 && d == s.void {
		return "Quarantine: what was found damaged is back"
	}
	return ""
}

// rest says what is wrong when nothing but a crash can come any more.
func (s *state) rest() string {
	for t := range tasks {
		if at := s.tasks[t].at; at != idle && at != done && !(t == cleaner && at == start) && !(t == clock && s.later) && !(t == clock && at == start) {
			return "Deadlock: " + names[t] + " waits for ever"
		}
	}
	for k := range keys {
		e := &s.entries[k]
		if e.pins != 0 || e.holders != 0 {
			return "Leak: a pin or a lease is left"
		}
		if e.at.gen != 0 && s.record(e.at).damaged && s.tasks[checker].at == done {
			return "Quarantine: the ledger names damaged bytes"
		}
	}
	if s.slot != 0 || s.turn != 0 {
		return "Leak: the slot or the turn is held"
	}
	return s.restRoot()
}
