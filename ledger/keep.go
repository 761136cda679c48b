package ledger

// A keep is what a root has on each thing that it holds. It is counted for the key, not for the
// incarnation: what was found damaged and dropped is kept again when somebody uploads it.

// mostKeeps is where counting ends: what so many roots hold at once is kept until the next start, which
// counts anew.
const mostKeeps = 1<<16 - 1

// Keep keeps k if it is present with that size (negative: any), until Unkeep. It reports whether it is,
// and whether nobody else kept it.
func (l *Ledger) Keep(k Key, size int64) (ok, first bool) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil || !fits(size, e.size) {
		return false, false
	}
	return true, s.keep(e)
}

// Owe keeps k whether it is present or not, and reports whether it is.
func (l *Ledger) Owe(k Key) bool {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e != nil {
		s.keep(e)
		return true
	}
	if s.owed == nil {
		s.owed = map[Key]uint16{}
	}
	if s.owed[k] < mostKeeps {
		s.owed[k]++
	}
	return false
}

// Unkeep takes back one Keep or Owe of k.
func (l *Ledger) Unkeep(k Key) {
	s := l.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	switch {
	case e == nil && s.owed[k] == 0, e != nil && e.keeps == 0:
		panic("ledger: a keep was taken back twice")
	case e == nil && s.owed[k] == 1:
		delete(s.owed, k)
	case e == nil && s.owed[k] < mostKeeps:
		s.owed[k]--
	case e != nil && e.keeps == 1:
		s.unkept(e)
		s.countLease(e)
	case e != nil && e.keeps < mostKeeps:
		e.keeps--
	}
}

// Kept returns how many entries roots keep, and their bytes, each once.
func (l *Ledger) Kept() (entries, bytes int64) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		entries += s.kept.entries
		bytes += s.kept.bytes
		s.mu.Unlock()
	}
	return entries, bytes
}

func (s *shard) keep(e *entry) (first bool) {
	if e.keeps == mostKeeps {
		return false
	}
	if first = e.keeps == 0; first {
		s.unlend(e)
		s.kept.entries++
		s.kept.bytes += e.size
	}
	e.keeps++
	return first
}

func (s *shard) unkept(e *entry) {
	e.keeps = 0
	s.kept.entries--
	s.kept.bytes -= e.size
}

// owe remembers the keeps of an entry that goes.
func (s *shard) owe(k Key, e *entry) {
	if e.keeps == 0 {
		return
	}
	if s.owed == nil {
		s.owed = map[Key]uint16{}
	}
	s.owed[k] = e.keeps
	s.unkept(e)
}

// repay gives an entry that comes the keeps that there are of its key.
func (s *shard) repay(k Key, e *entry) {
	if len(s.owed) == 0 || s.owed[k] == 0 {
		return
	}
	e.keeps = s.owed[k]
	delete(s.owed, k)
	s.kept.entries++
	s.kept.bytes += e.size
}
