package client

import (
	"context"
	"errors"
	"io"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// A Tree is a directory and all below it that the server has.
type Tree struct {
	Root digest.Digest
	// Directories holds each distinct directory once. A directory that is named in the tree and not
	// found here is missing on the server.
	Directories map[digest.Digest]*repb.Directory
}

// message fetches the blob d and decodes it as m, which is a kind.
func (c *Client) message(ctx context.Context, d digest.Digest, kind string, m proto.Message) error {
	data, err := c.Bytes(ctx, d)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return c.fail("decode "+d.String(), errors.New("the blob is not "+kind))
	}
	return nil
}

// Directory returns the Directory message d.
func (c *Client) Directory(ctx context.Context, d digest.Digest) (*repb.Directory, error) {
	directory := new(repb.Directory)
	return directory, c.message(ctx, d, "a Directory", directory)
}

// Tree returns the tree below root. Without its root it is blob.ErrNotFound; other directories may
// be missing.
func (c *Client) Tree(ctx context.Context, root digest.Digest) (*Tree, error) {
	t := &Tree{Root: root, Directories: map[digest.Digest]*repb.Directory{}}
	// A server has no room in a message for a directory of tens of thousands of entries.
	if err := c.getTree(ctx, root, t.Directories); err != nil && !lacks(err) && status.Code(err) != codes.ResourceExhausted {
		return nil, c.fail("get tree "+root.String(), err)
	}
	// What GetTree left out, or encoded in another way than the blob is, is asked for one by one.
	seen := digest.SetOf(root)
	for i := 0; i < seen.Len(); i++ {
		d := seen.List()[i]
		directory := t.Directories[d]
		if directory == nil {
			var err error
			directory, err = c.Directory(ctx, d)
			if i > 0 && errors.Is(err, blob.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			t.Directories[d] = directory
		}
		for _, child := range directory.Directories {
			next, err := upstream.FromProto(root.Function, child.Digest)
			if err != nil {
				return nil, c.fail("get tree "+root.String(), err)
			}
			seen.Add(next)
		}
	}
	return t, nil
}

// getTree collects what GetTree returns. A position says nothing about which directory it is, since
// missing ones are left out; its hash does.
func (c *Client) getTree(ctx context.Context, root digest.Digest, into map[digest.Digest]*repb.Directory) error {
	request := &repb.GetTreeRequest{InstanceName: c.instance, RootDigest: upstream.ToProto(root), DigestFunction: function(root.Function)}
	for {
		stream, err := c.cas.GetTree(ctx, request)
		if err != nil {
			return err
		}
		request.PageToken = ""
		for {
			page, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			for _, directory := range page.Directories {
				data, err := proto.MarshalOptions{Deterministic: true}.Marshal(directory)
				if err != nil {
					return err
				}
				into[root.Function.Of(data)] = directory
			}
			request.PageToken = page.NextPageToken
		}
		if request.PageToken == "" {
			return nil
		}
	}
}

// A Summary counts what a tree holds, a directory that is named twice being counted twice.
type Summary struct {
	Directories, Files, Symlinks int64
	Bytes                        int64 // of all files
	Missing                      int64 // directories that the server lacks
}

func (s *Summary) add(o Summary) {
	s.Directories += o.Directories
	s.Files += o.Files
	s.Symlinks += o.Symlinks
	s.Bytes += o.Bytes
	s.Missing += o.Missing
}

// Summary counts the whole tree, its root included.
func (t *Tree) Summary() Summary {
	// A small graph of shared directories can stand for a huge tree, so each is counted once.
	return t.summary(t.Root, map[digest.Digest]Summary{})
}

func (t *Tree) summary(d digest.Digest, known map[digest.Digest]Summary) Summary {
	if s, ok := known[d]; ok {
		return s
	}
	directory := t.Directories[d]
	if directory == nil {
		return Summary{Missing: 1}
	}
	s := Summary{Directories: 1, Files: int64(len(directory.Files)), Symlinks: int64(len(directory.Symlinks))}
	for _, file := range directory.Files {
		s.Bytes += file.GetDigest().GetSizeBytes()
	}
	for _, child := range directory.Directories {
		if next, err := upstream.FromProto(d.Function, child.Digest); err == nil {
			s.add(t.summary(next, known))
		}
	}
	known[d] = s
	return s
}
