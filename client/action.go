package client

import (
	"context"
	"errors"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// Action returns the Action message d.
func (c *Client) Action(ctx context.Context, d digest.Digest) (*repb.Action, error) {
	action := new(repb.Action)
	return action, c.message(ctx, d, "an Action", action)
}

// Command returns the Command message d.
func (c *Client) Command(ctx context.Context, d digest.Digest) (*repb.Command, error) {
	command := new(repb.Command)
	return command, c.message(ctx, d, "a Command", command)
}

// Result returns what the action cache has for the action d.
func (c *Client) Result(ctx context.Context, d digest.Digest) (*repb.ActionResult, error) {
	result, err := c.cache.GetActionResult(ctx, &repb.GetActionResultRequest{
		InstanceName: c.instance, ActionDigest: upstream.ToProto(d), DigestFunction: function(d.Function),
	})
	return result, c.fail("get the result of action "+d.String(), err)
}

// PutResult makes result what the action cache has for the action d.
func (c *Client) PutResult(ctx context.Context, d digest.Digest, result *repb.ActionResult) error {
	_, err := c.cache.UpdateActionResult(ctx, &repb.UpdateActionResultRequest{
		InstanceName: c.instance, ActionDigest: upstream.ToProto(d), ActionResult: result, DigestFunction: function(d.Function),
	})
	return c.fail("put the result of action "+d.String(), err)
}

// Closure returns every blob that result names, directly or through its trees and directories, as far
// as they can be read. What the result carries inline counts as present and is left out.
func (c *Client) Closure(ctx context.Context, f digest.Function, result *repb.ActionResult) (digest.Set, error) {
	w := &closure{client: c, function: f}
	for _, file := range result.OutputFiles {
		w.blob(file.Digest, file.Contents)
	}
	w.blob(result.StdoutDigest, result.StdoutRaw)
	w.blob(result.StderrDigest, result.StderrRaw)
	for _, directory := range result.OutputDirectories {
		w.tree(ctx, directory.TreeDigest)
		w.root(ctx, directory.RootDirectoryDigest)
	}
	return w.set, w.err
}

// A closure collects digests until something is wrong.
type closure struct {
	client   *Client
	function digest.Function
	set      digest.Set
	err      error
}

// blob adds p unless inline is its bytes. A message that is not there names nothing.
func (w *closure) blob(p *repb.Digest, inline []byte) (d digest.Digest, ok bool) {
	if p == nil || w.err != nil {
		return digest.Digest{}, false
	}
	d, err := upstream.FromProto(w.function, p)
	if err != nil {
		w.err = w.client.fail("read the result", err)
		return digest.Digest{}, false
	}
	if len(inline) == 0 || w.function.Of(inline) != d {
		w.set.Add(d)
	}
	return d, true
}

// tree adds a Tree blob and the files in it. The directories are inside the Tree and need not be
// blobs of their own.
func (w *closure) tree(ctx context.Context, p *repb.Digest) {
	d, ok := w.blob(p, nil)
	if !ok {
		return
	}
	tree := new(repb.Tree)
	if err := w.client.message(ctx, d, "a Tree", tree); err != nil {
		w.unlessMissing(err)
		return
	}
	w.files(tree.Root)
	for _, child := range tree.Children {
		w.files(child)
	}
}

// root adds a directory that is a blob, and all below it.
func (w *closure) root(ctx context.Context, p *repb.Digest) {
	d, ok := w.blob(p, nil)
	if !ok {
		return
	}
	tree, err := w.client.Tree(ctx, d)
	if err != nil {
		w.unlessMissing(err)
		return
	}
	for _, directory := range tree.Directories {
		w.files(directory)
		for _, child := range directory.Directories {
			w.blob(child.Digest, nil)
		}
	}
}

func (w *closure) files(directory *repb.Directory) {
	for _, file := range directory.GetFiles() {
		w.blob(file.Digest, nil)
	}
}

// unlessMissing keeps err, except that a missing blob is no error: the set names it.
func (w *closure) unlessMissing(err error) {
	if w.err == nil && !errors.Is(err, blob.ErrNotFound) {
		w.err = err
	}
}
