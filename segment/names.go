package segment

import (
	"slices"
	"sort"
	"sync"

	"github.com/sarsen-build/sarsen/digest"
)

// names are those of roots, in order. They lie in blocks, so that a new one moves few others.
type names struct {
	mu     sync.Mutex
	blocks [][]string // none is empty
	n      int
	// lost are those of which nothing could be kept, because start-up could not read what they hold.
	lost map[string]bool
	// stashed is what a Keep that failed had kept, where a restart may find its root.
	stashed map[string][]digest.Digest
}

const namesAtOnce = 512 // at most, in a block

// find returns where name is, or where it belongs. The caller holds mu.
func (s *names) find(name string) (block, i int, found bool) {
	block = sort.Search(len(s.blocks), func(b int) bool { return s.blocks[b][len(s.blocks[b])-1] >= name })
	if block == len(s.blocks) {
		block = max(0, block-1)
	}
	if len(s.blocks) == 0 {
		return 0, 0, false
	}
	i, found = slices.BinarySearch(s.blocks[block], name)
	return block, i, found
}

func (s *names) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, found := s.find(name)
	return found
}

func (s *names) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *names) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lost, name)
	b, i, found := s.find(name)
	switch {
	case found:
		return
	case len(s.blocks) == 0:
		s.blocks = [][]string{{name}}
	default:
		block := slices.Insert(s.blocks[b], i, name)
		s.blocks[b] = block
		if half := len(block) / 2; len(block) > namesAtOnce {
			s.blocks[b] = slices.Clone(block[:half])
			s.blocks = slices.Insert(s.blocks, b+1, slices.Clone(block[half:]))
		}
	}
	s.n++
}

// remove removes name and reports whether it was there.
func (s *names) remove(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lost, name)
	b, i, found := s.find(name)
	if !found {
		return false
	}
	if s.n--; len(s.blocks[b]) == 1 {
		s.blocks = slices.Delete(s.blocks, b, b+1)
	} else {
		s.blocks[b] = slices.Delete(s.blocks[b], i, i+1)
	}
	return true
}

// next returns the first name that is from or behind it.
func (s *names) next(from string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, i, _ := s.find(from)
	if len(s.blocks) == 0 || i == len(s.blocks[b]) { // behind the last of all
		return "", false
	}
	return s.blocks[b][i], true
}

func (s *names) setUnknown(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = map[string]bool{}
	}
	s.lost[name] = true
}

func (s *names) unknown(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost[name]
}

// stash remembers what stays kept until another revision of the root is published.
func (s *names) stash(name string, held []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stashed == nil {
		s.stashed = map[string][]digest.Digest{}
	}
	s.stashed[name] = append(s.stashed[name], held...)
}

// maybe reports whether a restart may find a root of that name, which a Keep that failed appended.
func (s *names) maybe(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.stashed[name]
	return ok
}

func (s *names) unstash(name string) []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.stashed[name]
	delete(s.stashed, name)
	return held
}
