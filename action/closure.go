package action

import (
	"context"
	"errors"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// maxTreeSize bounds what is read to walk one tree or directory, in bytes. A Tree of a million files is about 100 MiB.
const maxTreeSize = 256 << 20

// A FieldError says which field of a result is malformed, or has bytes that are not its digest's.
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns what is wrong with the field.
func (e *FieldError) Unwrap() error { return e.Err }

// inField says in which field err came up: as a FieldError if the field is to blame.
func inField(field string, err error) error {
	for _, blame := range []error{digest.ErrSyntax, blob.ErrInvalid, blob.ErrMismatch} {
		if errors.Is(err, blame) {
			return &FieldError{field, err}
		}
	}
	return fmt.Errorf("%s: %w", field, err)
}

// A closure collects every digest that a result names.
type closure struct {
	store    blob.Store
	function digest.Function
	blobs    digest.Set
	absent   digest.Set // what had to be read to go on, and was not there
}

// closureOf returns the closure of result: what it names directly, every file inside its trees, and
// every directory and file below its root directories. Those trees and directories are held open by
// nobody on return: the caller leases the whole set in one pass.
func closureOf(ctx context.Context, store blob.Store, f digest.Function, result *repb.ActionResult) (*closure, error) {
	c := &closure{store: store, function: f}
	for i, file := range result.GetOutputFiles() {
		if err := c.add(file.GetDigest()); err != nil {
			return nil, inField(fmt.Sprintf("output_files[%d].digest", i), err)
		}
	}
	for i, dir := range result.GetOutputDirectories() {
		if err := c.addOutputDirectory(ctx, fmt.Sprintf("output_directories[%d].", i), dir); err != nil {
			return nil, err
		}
	}
	for _, std := range []struct {
		field string
		d     *repb.Digest
	}{{"stdout_digest", result.GetStdoutDigest()}, {"stderr_digest", result.GetStderrDigest()}} {
		if std.d == nil {
			continue
		}
		if err := c.add(std.d); err != nil {
			return nil, inField(std.field, err)
		}
	}
	return c, nil
}

func (c *closure) add(p *repb.Digest) error {
	d, err := parse(c.function, p)
	if err == nil {
		c.blobs.Add(d)
	}
	return err
}

// parse reads a digest of a message, which must have a size.
func parse(f digest.Function, p *repb.Digest) (digest.Digest, error) {
	if p.GetSizeBytes() < 0 {
		return digest.Digest{}, fmt.Errorf("%w: size %d is negative", digest.ErrSyntax, p.GetSizeBytes())
	}
	return digest.New(f, p.GetHash(), p.GetSizeBytes())
}

func (c *closure) addOutputDirectory(ctx context.Context, field string, dir *repb.OutputDirectory) error {
	if dir.GetTreeDigest() == nil && dir.GetRootDirectoryDigest() == nil {
		return &FieldError{field + "tree_digest", errors.New("neither it nor root_directory_digest is set")}
	}
	if p := dir.GetTreeDigest(); p != nil {
		if err := c.addTree(ctx, p); err != nil {
			return inField(field+"tree_digest", err)
		}
	}
	if p := dir.GetRootDirectoryDigest(); p != nil {
		if err := c.walk(ctx, p); err != nil {
			return inField(field+"root_directory_digest", err)
		}
	}
	return nil
}

// addTree adds a Tree and the files inside it. Its directories are inside the Tree's own bytes and
// need not be blobs.
func (c *closure) addTree(ctx context.Context, p *repb.Digest) error {
	d, err := parse(c.function, p)
	if err != nil {
		return err
	}
	if !c.blobs.Add(d) {
		return nil
	}
	var tree repb.Tree
	if ok, err := c.read(ctx, d, &tree); !ok {
		return err
	}
	for _, dir := range append(tree.GetChildren(), tree.GetRoot()) {
		for _, file := range dir.GetFiles() {
			if err := c.add(file.GetDigest()); err != nil {
				return fmt.Errorf("file %q in tree %s: %w", file.GetName(), d, err)
			}
		}
	}
	return nil
}

// walk adds the directory at p and all below it, each distinct one once, so that a tree with shared
// subtrees takes time in its distinct size.
func (c *closure) walk(ctx context.Context, p *repb.Digest) error {
	queue := []*repb.Digest{p}
	for len(queue) > 0 {
		d, err := parse(c.function, queue[0])
		if err != nil {
			return err
		}
		queue = queue[1:]
		if !c.blobs.Add(d) {
			continue
		}
		var dir repb.Directory
		if ok, err := c.read(ctx, d, &dir); err != nil {
			return err
		} else if !ok {
			continue
		}
		for _, file := range dir.GetFiles() {
			if err := c.add(file.GetDigest()); err != nil {
				return fmt.Errorf("file %q in directory %s: %w", file.GetName(), d, err)
			}
		}
		for _, child := range dir.GetDirectories() {
			queue = append(queue, child.GetDigest())
		}
	}
	return nil
}

// read parses the blob d into m. It returns false and no error if the blob is absent, which it
// records.
func (c *closure) read(ctx context.Context, d digest.Digest, m proto.Message) (bool, error) {
	if d.Size > maxTreeSize {
		return false, fmt.Errorf("%w: %s is larger than the %d bytes that are read of a tree", blob.ErrInvalid, d, maxTreeSize)
	}
	data, err := blob.Get(ctx, c.store, d)
	if errors.Is(err, blob.ErrNotFound) {
		c.absent.Add(d)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return false, fmt.Errorf("%w: blob %s is not a %s: %v", blob.ErrInvalid, d, m.ProtoReflect().Descriptor().Name(), err)
	}
	return true, nil
}
