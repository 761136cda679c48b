package stage

import (
	"context"
	"fmt"
	"path"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// An Input is one file of a tree.
type Input struct {
	Path       string // below the root
	Digest     digest.Digest
	Executable bool
	Tool       bool // the client says that it belongs to the tool and not to what the tool works on
}

// List returns the files of the tree root, which Stage staged, each directory's before those below it, in the
// order of the directory messages. Errors are those of Stage.
func (s *Stager) List(ctx context.Context, root digest.Digest) ([]Input, error) {
	p, err := s.resolve(ctx, root)
	defer s.cache.release(p)
	if err == nil && p.missing.Len() > 0 {
		err = &blob.MissingError{Blobs: p.missing.List()}
	}
	if err == nil {
		err = p.check(s.o.MaxNodes)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	var list []Input
	var walk func(d digest.Digest, at string)
	walk = func(d digest.Digest, at string) {
		n := p.nodes[d]
		for i := range n.files {
			f := &n.files[i]
			list = append(list, Input{path.Join(at, f.name), f.digest, f.executable, f.tool})
		}
		for i := range n.dirs {
			walk(n.dirs[i].digest, path.Join(at, n.dirs[i].name))
		}
	}
	walk(root, "")
	return list, nil
}
