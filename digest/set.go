package digest

import "slices"

// A Set is a list of digests, each once, in the order in which they were added. The zero value is
// empty. It is not safe for concurrent use.
type Set struct {
	list []Digest
	seen map[Digest]struct{} // nil while there are few
}

// few is how many digests are found sooner by looking at each than in a map.
const few = 8

// SetOf returns the set of ds.
func SetOf(ds ...Digest) Set {
	s := Set{list: make([]Digest, 0, len(ds))}
	if len(ds) > few {
		s.seen = make(map[Digest]struct{}, len(ds))
	}
	for _, d := range ds {
		s.Add(d)
	}
	return s
}

// Add adds d and reports whether it was new.
func (s *Set) Add(d Digest) bool {
	if s.seen == nil {
		if slices.Contains(s.list, d) {
			return false
		}
		if s.list = append(s.list, d); len(s.list) > few {
			s.seen = make(map[Digest]struct{})
			for _, d := range s.list {
				s.seen[d] = struct{}{}
			}
		}
		return true
	}
	n := len(s.seen)
	if s.seen[d] = struct{}{}; len(s.seen) == n {
		return false
	}
	s.list = append(s.list, d)
	return true
}

// Has reports whether d is in the set.
func (s *Set) Has(d Digest) bool {
	if s.seen == nil {
		return slices.Contains(s.list, d)
	}
	_, ok := s.seen[d]
	return ok
}

// Len returns the number of digests.
func (s *Set) Len() int { return len(s.list) }

// List returns the digests in order. The caller must not change the slice.
func (s *Set) List() []Digest { return s.list }
