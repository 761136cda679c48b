package ledger

// at returns entry number n. Numbers begin at 1: 0 ends a chain.
func (s *shard) at(n uint32) *entry { return &s.slabs[(n-1)/slabSize][(n-1)%slabSize] }

func (s *shard) find(k Key) *entry {
	for n := s.index[slot(&k.Hash, len(s.index))]; n != 0; {
		e := s.at(n)
		if e.hash == k.Hash && e.kind == k.Kind {
			return e
		}
		n = e.chain
	}
	return nil
}

func (s *shard) insert(k Key, size int64, p Place, stamp uint32) {
	if s.blobs+s.records >= len(s.index) {
		s.grow()
	}
	n := s.unused
	if n != 0 {
		s.unused = s.at(n).chain
	} else {
		if int(s.next) == len(s.slabs)*slabSize {
			s.slabs = append(s.slabs, new([slabSize]entry))
		}
		s.next++
		n = s.next
	}
	head := &s.index[slot(&k.Hash, len(s.index))]
	*s.at(n) = entry{hash: k.Hash, kind: k.Kind, size: size, place: p, stamp: stamp, chain: *head}
	*head = n
	s.count(k.Kind, 1)
}

func (s *shard) count(kind Kind, by int) {
	if kind == Record {
		s.records += by
	} else {
		s.blobs += by
	}
}

// remove takes the entry of k out of the index. A pinned one lives on until it is let go.
func (s *shard) remove(k Key) {
	link := &s.index[slot(&k.Hash, len(s.index))]
	for *link != 0 {
		n := *link
		e := s.at(n)
		if e.hash == k.Hash && e.kind == k.Kind {
			*link = e.chain
			s.count(k.Kind, -1)
			e.dead, e.chain = true, n // a dead entry knows its own number, for free
			if e.pins == 0 {
				s.free(e)
			}
			return
		}
		link = &e.chain
	}
}

func (s *shard) free(e *entry) {
	n := e.chain
	*e = entry{chain: s.unused}
	s.unused = n
}

// grow doubles the index. A shard holds a 256th of all entries, so this is short.
func (s *shard) grow() {
	old := s.index
	s.index = make([]uint32, max(2*len(old), 16))
	for _, n := range old {
		for n != 0 {
			e := s.at(n)
			rest := e.chain
			head := &s.index[slot(&e.hash, len(s.index))]
			e.chain, *head = *head, n
			n = rest
		}
	}
}
