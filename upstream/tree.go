package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// What a tree may be, in distinct directories and in bytes of them, so that nobody's tree takes all
// memory.
const (
	maxDirectories    = 1 << 20
	maxDirectoryBytes = 1 << 30
)

// Tree returns every directory of the tree below root, the root included, each distinct one once. What
// one GetTree leaves out, or a server without GetTree, is asked for in batches, level by level. It
// returns a *blob.MissingError if directories are missing, which says nothing of what is below them, and blob.ErrInvalid for what is no tree.
func (s *Store) Tree(ctx context.Context, root digest.Digest) (map[digest.Digest]*repb.Directory, error) {
	if err := sized("get tree", root); err != nil {
		return nil, err
	}
	sent := map[digest.Digest]*repb.Directory{}
	if !root.IsEmpty() {
		err := s.getTree(ctx, root, sent)
		switch status.Code(err) {
		case codes.OK, codes.Unimplemented, codes.NotFound, codes.ResourceExhausted:
		default:
			return nil, fail("get tree", root, err, reading)
		}
	}
	w := &walk{store: s, root: root, sent: sent, found: map[digest.Digest]*repb.Directory{}}
	w.seen.Add(root)
	for level := []digest.Digest{root}; len(level) > 0; {
		next, err := w.level(ctx, level)
		if err != nil {
			return nil, fail("get tree", root, err, reading)
		}
		level = next
	}
	if len(w.missing) > 0 {
		return nil, fmt.Errorf("tree %s names %w", root, &blob.MissingError{Blobs: w.missing})
	}
	return w.found, nil
}

// A walk goes through a tree breadth first.
type walk struct {
	store   *Store
	root    digest.Digest
	sent    map[digest.Digest]*repb.Directory // by GetTree
	found   map[digest.Digest]*repb.Directory // reached from the root
	seen    digest.Set
	bytes   int64
	missing []digest.Digest
}

// level takes the directories of one level into found and returns those below that are new.
func (w *walk) level(ctx context.Context, ds []digest.Digest) (next []digest.Digest, err error) {
	var ask []digest.Digest
	for _, d := range ds {
		if w.bytes += d.Size; w.bytes > maxDirectoryBytes {
			return nil, fmt.Errorf("%w: the tree's directories are more than %d bytes", blob.ErrInvalid, maxDirectoryBytes)
		}
		if w.sent[d] == nil {
			ask = append(ask, d)
		}
	}
	data, errs := w.store.GetAll(ctx, ask)
	for i, d := range ask {
		if errors.Is(errs[i], blob.ErrNotFound) {
			w.missing = append(w.missing, d)
			continue
		}
		if errs[i] != nil {
			return nil, errs[i]
		}
		directory := new(repb.Directory)
		if proto.Unmarshal(data[i], directory) != nil {
			return nil, fmt.Errorf("%w: %s is not a directory", blob.ErrInvalid, d)
		}
		w.sent[d] = directory
	}
	for _, d := range ds {
		directory := w.sent[d]
		if directory == nil {
			continue
		}
		w.found[d] = directory
		for _, child := range directory.Directories {
			c, err := FromProto(w.root.Function, child.Digest)
			if err != nil {
				return nil, fmt.Errorf("%w: directory %s: %q: %w", blob.ErrInvalid, d, child.Name, err)
			}
			if !w.seen.Add(c) {
				continue
			}
			if w.seen.Len() > maxDirectories {
				return nil, fmt.Errorf("%w: the tree has more than %d distinct directories", blob.ErrInvalid, maxDirectories)
			}
			next = append(next, c)
		}
	}
	return next, nil
}

// getTree collects what GetTree sends. A position says nothing about which directory it is, since
// missing ones are left out; its hash does.
func (s *Store) getTree(ctx context.Context, root digest.Digest, into map[digest.Digest]*repb.Directory) error {
	request := &repb.GetTreeRequest{InstanceName: s.instance, RootDigest: ToProto(root), DigestFunction: function(root.Function)}
	var bytes int64
	for p := s.patience(); ; {
		from, had := request.PageToken, len(into)
		more, err := s.pages(ctx, request, func(directory *repb.Directory) error {
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(directory)
			if err != nil {
				return err
			}
			if bytes += int64(len(data)); bytes > maxDirectoryBytes || len(into) > maxDirectories {
				return status.Error(codes.InvalidArgument, "the tree is larger than any should be")
			}
			into[root.Function.Of(data)] = directory
			return nil
		})
		if request.PageToken != from {
			p.progress()
		}
		if err == nil && len(into) == had {
			return nil // who brings nothing new may go on like that for ever
		}
		if err == nil && !more || err != nil && !p.again(ctx, err) {
			return err
		}
	}
}

// pages reads one stream to its end, and keeps the place in request for another.
func (s *Store) pages(ctx context.Context, request *repb.GetTreeRequest, each func(*repb.Directory) error) (more bool, err error) {
	g := s.guard(ctx)
	defer g.cancel()
	stream, err := s.cas.GetTree(g.ctx, request, grpc.MaxCallRecvMsgSize(maxReceive))
	if err != nil {
		return false, err
	}
	for more = false; ; {
		var page *repb.GetTreeResponse
		err := g.wait(func() (err error) {
			page, err = stream.Recv()
			return err
		})
		if errors.Is(err, io.EOF) {
			return more, nil
		}
		if err != nil {
			return false, err
		}
		for _, directory := range page.Directories {
			if err := each(directory); err != nil {
				return false, err
			}
		}
		// A server may end its stream after any page that has a token.
		request.PageToken, more = page.NextPageToken, page.NextPageToken != ""
	}
}
