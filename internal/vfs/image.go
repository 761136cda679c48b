package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// An Image is one of the many states in which a power cut may leave the files. What was synced is
// there in each. Of the rest, each block of 4 KiB is one that it was since its file's last sync, or the
// synced one, whatever its neighbours are, so writes may be torn at the borders of blocks; a size may
// be there without the bytes, and the other way round; and of the names that were created and removed
// since their directory's last sync the first few are.
type Image struct {
	// Pick chooses each of these: of n changes, oldest first, how many took place, 0 to n.
	Pick func(n int) int
	// AnyNames leaves any of the unsynced names, not just the first: no journal keeps their order.
	AnyNames bool
}

// None leaves what was synced, and All everything.
var (
	None = Image{Pick: func(int) int { return 0 }}
	All  = Image{Pick: func(n int) int { return n }}
)

// Random returns the image of a seed. Some seeds leave nearly all, others nearly nothing; odd ones any
// of the names.
func Random(seed uint64) Image {
	r := rand.New(rand.NewPCG(seed, 0))
	bias := r.IntN(101)
	pick := func(n int) int {
		switch {
		case r.IntN(2) == 0:
			return r.IntN(n + 1)
		case r.IntN(100) < bias:
			return n
		}
		return 0
	}
	return Image{Pick: pick, AnyNames: seed%2 == 1}
}

// Clone returns a copy of the files as another process would find them if this one were killed now:
// nothing is open and nothing locked, and what is not synced is still there, and still not synced.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMem()
	c.Room, c.boots = m.Room, m.boots
	copied := map[*memFile]*memFile{nil: nil} // a removed name's file is nil
	copyOf := func(f *memFile) *memFile {
		if copied[f] == nil && f != nil {
			copied[f] = f.copyTo(c)
		}
		return copied[f]
	}
	for name, f := range m.files {
		left := copyOf(f)
		if left.links == 0 {
			c.used += f.size.seen
		}
		left.links++ // a file may have several names
		c.files[name] = left
	}
	for name, f := range m.names {
		c.names[name] = copyOf(f)
	}
	for _, change := range m.pending {
		c.pending = append(c.pending, nameChange{change.name, copyOf(change.file)})
	}
	return c
}

func (f *memFile) copyTo(m *Mem) *memFile {
	c := &memFile{m: m, name: f.name, mode: f.mode, size: f.size.copy(), blocks: make([]cell[[]byte], len(f.blocks))}
	for i, b := range f.blocks {
		c.blocks[i] = b.copy()
	}
	return c
}

// PowerCut returns the files as they would be found if the power went now and took all that it may.
func (m *Mem) PowerCut() *Mem { return m.Image(None) }

// Image returns the files as they would be found if the power went now and left that image. All of it
// is on the disk then.
func (m *Mem) Image(image Image) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMem()
	c.Room, c.boots = m.Room, m.boots+1
	names := m.leftNames(image)
	for _, name := range slices.Sorted(maps.Keys(names)) { // in order, so that a seed replays
		f := names[name]
		left := &memFile{m: c, name: name, links: 1, mode: f.mode, size: f.size.left(image.Pick), blocks: make([]cell[[]byte], len(f.blocks))}
		for i, b := range f.blocks {
			left.blocks[i] = b.left(image.Pick)
		}
		left.cut()
		c.files[name], c.names[name] = left, left
		c.used += left.size.seen
	}
	return c
}

// leftNames returns the names that a power cut leaves.
func (m *Mem) leftNames(image Image) map[string]*memFile {
	names := maps.Clone(m.names)
	if names == nil {
		names = map[string]*memFile{}
	}
	first := m.pending
	if !image.AnyNames && len(first) > 0 {
		first = first[:image.Pick(len(first))]
	}
	for _, c := range first {
		if !image.AnyNames || image.Pick(1) == 1 {
			c.apply(names)
		}
	}
	return names
}

// cut takes away what lies beyond the size.
func (f *memFile) cut() {
	if n := int((f.size.disk + blockSize - 1) / blockSize); n < len(f.blocks) {
		f.blocks = f.blocks[:n]
	}
	if i, end := int(f.size.disk/blockSize), f.size.disk%blockSize; i < len(f.blocks) && f.blocks[i].disk != nil {
		b := make([]byte, blockSize)
		copy(b, f.blocks[i].disk[:end])
		f.blocks[i] = cell[[]byte]{disk: b, seen: b}
	}
}
