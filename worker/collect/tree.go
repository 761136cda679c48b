package collect

import (
	"cmp"
	"slices"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// The field numbers of Tree.
const (
	treeRoot     = 1
	treeChildren = 2
)

// tree stores a directory in the format that the command asks for.
func (c *collector) tree(name string, root *node) (*repb.OutputDirectory, error) {
	s := &sorter{function: c.function, seen: map[digest.Digest]bool{}}
	top, err := s.add(root)
	if err != nil {
		return nil, err
	}
	out := &repb.OutputDirectory{Path: name}
	if c.format == repb.Command_DIRECTORY_ONLY || c.format == repb.Command_TREE_AND_DIRECTORY {
		out.RootDirectoryDigest = upstream.ToProto(top)
		for _, d := range s.order {
			c.line.bytes(d.digest, d.data)
		}
	}
	// "In case this field is set to a value that is not supported by the worker, the worker SHOULD
	// interpret this field as TREE_ONLY."
	if c.format != repb.Command_DIRECTORY_ONLY {
		data := s.encode()
		d := c.function.Of(data)
		c.line.bytes(d, data)
		out.TreeDigest, out.IsTopologicallySorted = upstream.ToProto(d), true
	}
	return out, nil
}

// A sorter collects each distinct directory of a tree, children before parents.
type sorter struct {
	function digest.Function
	seen     map[digest.Digest]bool
	order    []encoded
}

// An encoded is a Directory as it is stored.
type encoded struct {
	digest digest.Digest
	data   []byte
}

// add adds n after all below it.
func (s *sorter) add(n *node) (digest.Digest, error) {
	slices.SortFunc(n.children, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	message := &repb.Directory{NodeProperties: n.properties}
	for _, child := range n.children {
		switch child.kind {
		case file:
			message.Files = append(message.Files, &repb.FileNode{
				Name: child.name, Digest: upstream.ToProto(child.digest), IsExecutable: child.executable, NodeProperties: child.properties,
			})
		case symlink:
			message.Symlinks = append(message.Symlinks, &repb.SymlinkNode{
				Name: child.name, Target: child.target, NodeProperties: child.properties,
			})
		case directory:
			d, err := s.add(child)
			if err != nil {
				return d, err
			}
			message.Directories = append(message.Directories, &repb.DirectoryNode{Name: child.name, Digest: upstream.ToProto(d)})
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return digest.Digest{}, err
	}
	d := s.function.Of(data)
	if !s.seen[d] {
		s.seen[d] = true
		s.order = append(s.order, encoded{d, data})
	}
	return d, nil
}

// encode returns the Tree: the root first, each distinct directory once, and none before a parent of it,
// which is the order of add from its end. Its bytes are put together as OutputDirectory's comment on
// is_topologically_sorted lays down.
func (s *sorter) encode() []byte {
	var b []byte
	for i, d := range slices.Backward(s.order) {
		number := protowire.Number(treeChildren)
		if i == len(s.order)-1 {
			number = treeRoot
		}
		b = protowire.AppendTag(b, number, protowire.BytesType)
		b = protowire.AppendBytes(b, d.data)
	}
	return b
}
