package stage

import (
	"fmt"
	"math"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A plan is a tree with each distinct directory once. Its nodes stay in the cache until it is released.
type plan struct {
	root            digest.Digest
	nodes           map[digest.Digest]*node
	fresh           []message  // of nodes that are not in the cache yet
	missing         digest.Set // directories that the source lacks
	known, resolved int64      // of nodes
}

// A shape is what a directory and all below it come to, expanded.
type shape struct {
	nodes  int64 // directories, files and links
	path   int   // the longest path below it, in bytes
	height int
}

// check refuses trees that must not be made, before anything is. A small graph can stand for a tree of any
// size, so each directory is measured once.
func (p *plan) check(maxNodes int64) error {
	sh, err := p.measure(p.root, 0, make(map[digest.Digest]shape, len(p.nodes)))
	switch {
	case err != nil:
		return err
	case sh.nodes > maxNodes:
		return fmt.Errorf("%w: the tree has %d files and directories, at most %d are staged", blob.ErrInvalid, sh.nodes, maxNodes)
	case sh.path > maxPath:
		return p.longest()
	}
	return nil
}

func (p *plan) measure(d digest.Digest, depth int, known map[digest.Digest]shape) (shape, error) {
	if sh, ok := known[d]; ok && depth+sh.height <= maxDepth {
		return sh, nil
	}
	if depth > maxDepth {
		return shape{}, fmt.Errorf("%w: directory %s lies deeper than %d directories", blob.ErrInvalid, d, maxDepth)
	}
	n := p.nodes[d]
	sh := shape{nodes: int64(1 + len(n.files) + len(n.links))}
	for i := range n.files {
		sh.path = max(sh.path, len(n.files[i].name))
	}
	for i := range n.links {
		sh.path = max(sh.path, len(n.links[i].name))
	}
	for i := range n.dirs {
		below, err := p.measure(n.dirs[i].digest, depth+1, known)
		if err != nil {
			return sh, err
		}
		if sh.nodes += below.nodes; sh.nodes < 0 {
			sh.nodes = math.MaxInt64 / 2
		}
		sh.nodes = min(sh.nodes, math.MaxInt64/2)
		sh.path = max(sh.path, len(n.dirs[i].name)+1+below.path)
		sh.height = max(sh.height, below.height+1)
	}
	known[d] = sh
	return sh, nil
}

// longest names a directory on the longest path.
func (p *plan) longest() error {
	return fmt.Errorf("%w: directory %s: a path below it is longer than %d bytes", blob.ErrInvalid, p.root, maxPath)
}
