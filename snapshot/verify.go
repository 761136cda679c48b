package snapshot

import (
	"context"
	"fmt"
	"io"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
)

// Verify reads every byte of the tree of root from the server, and calls bad for each file or directory that is
// not there or is not what its digest says.
func Verify(ctx context.Context, c *client.Client, root digest.Digest, counts *Counts, bad func(name string, err error)) error {
	tree, err := c.Tree(ctx, root)
	if err != nil {
		return err
	}
	names := map[digest.Digest]string{} // one for each digest
	var small, large []digest.Digest
	var once digest.Set
	err = walkTree(tree, func(name string, n *node) error {
		switch {
		case n.absent != nil:
			bad(name, n.absent)
			return nil
		case n.directory != nil:
			counts.Directories.Add(1)
			return nil
		case n.link != nil:
			counts.Symlinks.Add(1)
			return nil
		}
		counts.Files.Add(1)
		d, err := digestOf(root.Function, n.file.Digest)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		counts.Bytes.Add(d.Size)
		if !once.Add(d) {
			return nil
		}
		names[d] = name
		if d.Size <= smallFile {
			small = append(small, d)
		} else {
			large = append(large, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	store := c.Store()
	for len(small) > 0 {
		n, size := 0, int64(0)
		for n < len(small) && n < lotFiles && size < lotBytes {
			size += small[n].Size
			n++
		}
		_, errs := store.GetAll(ctx, small[:n]) // which compares the hashes
		for i, err := range errs {
			if err != nil {
				bad(names[small[i]], err)
			}
		}
		counts.Moved.Add(size)
		small = small[n:]
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, d := range large {
		if err := c.Get(ctx, d, io.Discard); err != nil {
			bad(names[d], err)
		}
		counts.Moved.Add(d.Size)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
