package ledger

import (
	"sync"
	"unsafe"

	"github.com/sarsen-build/sarsen/internal/offheap"
)

// slabSize is the number of entries in a slab, 64 KiB.
const slabSize = 1024

type slab [slabSize]entry

// shardSlabs are the slabs of one shard. They lie outside Go's heap where the system can: ten million
// entries are 640 MB, which the collector would let grow to twice that before it looks.
type shardSlabs struct {
	from *slabs
	list []*slab
}

func (s *shardSlabs) at(n uint32) *entry { return &s.list[n/slabSize][n%slabSize] }

// reach makes sure that there is an entry n, the next one after all others.
func (s *shardSlabs) reach(n uint32) {
	if int(n/slabSize) == len(s.list) {
		s.list = append(s.list, s.from.take())
	}
}

// slabs is where all shards get theirs from. Its mutex is taken under a shard's, and none under it.
type slabs struct {
	mu     sync.Mutex
	chunks [][]byte // as the system gave them
	rest   []byte   // of the last one
}

// chunkSize grows from a megabyte, so that a small ledger is small, to 64: the system bounds the
// number of mappings, not their size.
func (s *slabs) chunkSize() int { return min(1<<20<<len(s.chunks), 64<<20) }

func (s *slabs) take() *slab {
	s.mu.Lock()
	defer s.mu.Unlock()
	const size = int(unsafe.Sizeof(slab{}))
	if len(s.rest) < size {
		s.rest = offheap.Allocate(s.chunkSize())
		s.chunks = append(s.chunks, s.rest)
	}
	p := (*slab)(unsafe.Pointer(&s.rest[0]))
	s.rest = s.rest[size:]
	return p
}

func (s *slabs) free() {
	for _, c := range s.chunks {
		offheap.Release(c)
	}
}
