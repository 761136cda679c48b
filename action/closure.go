package action

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/wire"
)

// What bounds the memory that a result can ask for: trees and directories are read one directory at a
// time, and a closure is a set.
const (
	maxDirectory = 16 << 20 // bytes
	maxClosure   = 1 << 20  // blobs
)

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

// An Opener is the part of a blob.Store that a closure is found with.
type Opener interface {
	Open(ctx context.Context, d digest.Digest) (blob.Reader, error)
}

// A closure collects every digest that a result names.
type closure struct {
	store    Opener
	function digest.Function
	blobs    digest.Set
	walked   digest.Set // directories
	trees    digest.Set
	absent   digest.Set // what had to be read to go on, and was not there
}

// closureOf returns the closure of result: what it names directly, every file inside its trees, and
// every directory and file below its root directories. Those trees and directories are held open by
// nobody on return: the caller leases the whole set in one pass.
func closureOf(ctx context.Context, store Opener, f digest.Function, result *repb.ActionResult) (*closure, error) {
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
	if err != nil {
		return err
	}
	return c.include(d)
}

// include adds d to the closure.
func (c *closure) include(d digest.Digest) error {
	if c.blobs.Add(d) && c.blobs.Len() > maxClosure {
		return fmt.Errorf("%w: the result names more than %d blobs", blob.ErrInvalid, maxClosure)
	}
	return nil
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
	// A blob may be an output file too, or a tree and a directory at once, so each kind has its own set.
	if !c.trees.Add(d) {
		return nil
	}
	if err := c.include(d); err != nil {
		return err
	}
	if mutant.TreeUnread {
		return nil
	}
	r, err := c.open(ctx, d)
	if r == nil {
		return err
	}
	defer r.Close()
	body := bufio.NewReader(io.NewSectionReader(r, 0, r.Size()))
	err = wire.Stream(body, maxDirectory, func(f wire.Field) error {
		if f.Num != wire.TreeRoot && f.Num != wire.TreeChildren {
			return nil
		}
		return c.addNodes(f.Bytes, nil)
	})
	return c.outcome("Tree", d, err)
}

// walk adds the directory at p and all below it, each distinct one once, so that a tree with shared
// subtrees takes time in its distinct size.
func (c *closure) walk(ctx context.Context, p *repb.Digest) error {
	root, err := parse(c.function, p)
	if err != nil {
		return err
	}
	queue := []digest.Digest{root}
	for len(queue) > 0 {
		d := queue[0]
		queue = queue[1:]
		if !c.walked.Add(d) {
			continue
		}
		if err := c.include(d); err != nil {
			return err
		}
		data, err := c.directory(ctx, d)
		if err != nil {
			return err
		}
		err = c.addNodes(data, func(child digest.Digest) { queue = append(queue, child) })
		if err := c.outcome("Directory", d, err); err != nil {
			return err
		}
	}
	return nil
}

// directory returns the bytes of the directory d, or none if it is absent.
func (c *closure) directory(ctx context.Context, d digest.Digest) ([]byte, error) {
	if d.Size > maxDirectory {
		return nil, fmt.Errorf("%w: directory %s is larger than the %d bytes that are read", blob.ErrInvalid, d, maxDirectory)
	}
	r, err := c.open(ctx, d)
	if r == nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil, c.outcome("Directory", d, err)
	}
	return data, nil
}

// addNodes adds the files of a Directory message, and hands its directories to child if that is set.
func (c *closure) addNodes(message []byte, child func(digest.Digest)) error {
	return wire.Nodes(message, func(kind protowire.Number, n wire.Node) error {
		if kind == wire.DirectoryDirectories && child == nil {
			return nil
		}
		d, err := parse(c.function, &repb.Digest{Hash: string(n.Hash), SizeBytes: n.Size})
		if err != nil {
			return fmt.Errorf("%q: %w", n.Name, err)
		}
		if kind == wire.DirectoryDirectories {
			child(d)
			return nil
		}
		return c.include(d)
	})
}

// outcome says what the blob d should have been, if err is about its form. A blob whose bytes are damaged
// is as good as absent: whoever needs it has to bring it again.
func (c *closure) outcome(what string, d digest.Digest, err error) error {
	if errors.Is(err, blob.ErrCorrupt) {
		c.absent.Add(d)
		return nil
	}
	if errors.Is(err, wire.ErrMalformed) {
		return fmt.Errorf("%w: blob %s is not a %s: %v", blob.ErrInvalid, d, what, err)
	}
	if err != nil {
		return fmt.Errorf("in the %s %s: %w", what, d, err)
	}
	return nil
}

// open opens the blob d. It returns nil and no error if that is absent, which it records.
func (c *closure) open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	r, err := c.store.Open(ctx, d)
	if errors.Is(err, blob.ErrNotFound) {
		c.absent.Add(d)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}
