package action

import (
	"context"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// References are what something that is no action result names: blobs, and directories with all that is
// below them. They are leased and held in the way of a result's closure. All are of one digest function.
type References struct {
	Function    digest.Function
	Blobs       []digest.Digest
	Directories []digest.Digest
}

// LeaseReferences leases everything in refs in one pass, and returns what of it is missing: then nothing may be said
// of the rest. A directory that is none is blob.ErrInvalid.
func (c *Cache) LeaseReferences(ctx context.Context, refs References) (missing digest.Set, err error) {
	closure, err := c.closureOf(ctx, refs)
	if err != nil {
		return digest.Set{}, err
	}
	return c.leaseAll(ctx, closure)
}

// Hold calls write, which writes the record that names refs, while nothing in refs can go. When Hold returns
// nil, all of it is leased. It returns a *blob.MissingError if some of it is missing.
func (c *Cache) Hold(ctx context.Context, refs References, write func() error) error {
	closure, err := c.closureOf(ctx, refs)
	if err != nil {
		return err
	}
	return c.hold(ctx, closure, write)
}

// Closure returns everything in refs, or a *blob.MissingError if a directory is absent, which hides what is below it.
func (c *Cache) Closure(ctx context.Context, refs References) (digest.Set, error) {
	closure, err := c.closureOf(ctx, refs)
	if err == nil && closure.absent.Len() > 0 {
		err = &blob.MissingError{Blobs: closure.absent.List()}
	}
	if err != nil {
		return digest.Set{}, err
	}
	return closure.blobs, nil
}

func (c *Cache) closureOf(ctx context.Context, refs References) (*closure, error) {
	cl := &closure{store: c.store, function: refs.Function}
	for _, d := range refs.Blobs {
		if err := cl.include(d); err != nil {
			return nil, err
		}
	}
	for _, d := range refs.Directories {
		if err := cl.walk(ctx, &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}); err != nil {
			return nil, err
		}
	}
	return cl, nil
}
