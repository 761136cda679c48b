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
	v := &verifier{client: c, counts: counts, bad: bad, names: map[digest.Digest]string{}}
	if err := v.sort(tree); err != nil {
		return err
	}
	if err := v.verifySmall(ctx); err != nil {
		return err
	}
	return v.verifyLarge(ctx)
}

// A verifier has the files of a tree, each digest once.
type verifier struct {
	client *client.Client
	counts *Counts
	bad    func(name string, err error)

	small, large []digest.Digest
	names        map[digest.Digest]string // one for each digest
}

// sort sorts the files into small and large ones, and counts what the tree has.
func (v *verifier) sort(tree *client.Tree) error {
	return walkTree(tree, func(name string, n *node) error {
		switch {
		case n.absent != nil:
			v.bad(name, n.absent)
			return nil
		case n.directory != nil:
			v.counts.Directories.Add(1)
			return nil
		case n.link != nil:
			v.counts.Symlinks.Add(1)
			return nil
		}
		v.counts.Files.Add(1)
		d, err := digestOf(tree.Root.Function, n.file.Digest)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		v.counts.Bytes.Add(d.Size)
		if _, seen := v.names[d]; seen {
			return nil
		}
		v.names[d] = name
		if d.Size <= smallFile {
			v.small = append(v.small, d)
		} else {
			v.large = append(v.large, d)
		}
		return nil
	})
}

// verifySmall reads small files, many in one call.
func (v *verifier) verifySmall(ctx context.Context) error {
	store := v.client.Store()
	for left := v.small; len(left) > 0; {
		n, size := 0, int64(0)
		for n < len(left) && n < lotFiles && size < lotBytes {
			size += left[n].Size
			n++
		}
		_, errs := store.GetAll(ctx, left[:n]) // which compares the hashes
		for i, err := range errs {
			if err != nil {
				v.bad(v.names[left[i]], err)
			}
		}
		v.counts.Moved.Add(size)
		left = left[n:]
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// verifyLarge reads large files, one after the other.
func (v *verifier) verifyLarge(ctx context.Context) error {
	for _, d := range v.large {
		if err := v.client.Get(ctx, d, io.Discard); err != nil {
			v.bad(v.names[d], err)
		}
		v.counts.Moved.Add(d.Size)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
