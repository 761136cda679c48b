package snapshot

import (
	"fmt"
	"path"
	"slices"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
)

// A node is one entry of a tree: exactly one of its fields is set.
type node struct {
	absent    error // of a directory that the server does not have
	file      *repb.FileNode
	link      *repb.SymlinkNode
	directory *repb.Directory
}

// walkTree calls visit for the root, whose path is "", and for all below it, a directory before what is in it. A name
// that is none is an error.
func walkTree(tree *client.Tree, visit func(name string, n *node) error) error {
	return walkFrom(tree, tree.Root, "", visit)
}

func walkFrom(tree *client.Tree, d digest.Digest, at string, visit func(name string, n *node) error) error {
	message := tree.Directories[d]
	if message == nil {
		return visit(at, &node{absent: fmt.Errorf("directory %q, %s, is missing", at, d)})
	}
	if err := visit(at, &node{directory: message}); err != nil {
		return err
	}
	seen := map[string]bool{}
	check := func(name string) (string, error) {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || seen[name] {
			return "", fmt.Errorf("directory %q has an entry %q, which is no name or is there twice", at, name)
		}
		seen[name] = true
		return path.Join(at, name), nil
	}
	for _, f := range message.Files {
		name, err := check(f.Name)
		if err == nil {
			err = visit(name, &node{file: f})
		}
		if err != nil {
			return err
		}
	}
	for _, l := range message.Symlinks {
		name, err := check(l.Name)
		if err == nil {
			err = visit(name, &node{link: l})
		}
		if err != nil {
			return err
		}
	}
	for _, child := range message.Directories {
		name, err := check(child.Name)
		if err != nil {
			return err
		}
		c, err := digestOf(d.Function, child.Digest)
		if err == nil {
			err = walkFrom(tree, c, name, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// within reports whether name is one of paths, or below one. No paths, and the path "", are the whole tree.
func within(name string, paths []string) bool {
	below := func(a, b string) bool { return b == "" || a == b || strings.HasPrefix(a, b+"/") }
	return len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool { return below(name, p) })
}

// above reports whether something of paths is below name.
func above(name string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return name == "" || strings.HasPrefix(p, name+"/") })
}
