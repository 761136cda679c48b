package stage

import (
	"fmt"
	"slices"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

const (
	maxName  = 255  // bytes, Linux's NAME_MAX
	maxPath  = 4000 // bytes below the root; Linux's PATH_MAX is 4096
	maxDepth = 256  // directories below each other
	// maxDirectory is the largest directory message, in bytes.
	maxDirectory = 64 << 20
)

// A node is a directory that was checked. It never changes.
type node struct {
	digest digest.Digest
	dirs   []child
	files  []file
	links  []symlink

	held // the cache's
}

type child struct {
	name   string
	digest digest.Digest
}

type file struct {
	name       string
	digest     digest.Digest
	executable bool
	tool       bool // the client says that it belongs to the tool and not to what the tool works on
}

// toolProperty is the node property by which Bazel marks a file of the tool.
const toolProperty = "bazel_tool_input"

type symlink struct{ name, target string }

// decode makes a node of the directory message d.
func decode(d digest.Digest, data []byte) (*node, error) {
	m := new(repb.Directory)
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%w: %s is no directory: %v", blob.ErrInvalid, d, err)
	}
	return newNode(d, m)
}

func invalid(d digest.Digest, name, format string, args ...any) error {
	return fmt.Errorf("%w: directory %s, name %q: %s", blob.ErrInvalid, d, name, fmt.Sprintf(format, args...))
}

func newNode(d digest.Digest, m *repb.Directory) (*node, error) {
	n := &node{
		digest: d,
		dirs:   make([]child, 0, len(m.Directories)),
		files:  make([]file, 0, len(m.Files)),
		links:  make([]symlink, 0, len(m.Symlinks)),
	}
	seen := make(map[string]struct{}, len(m.Directories)+len(m.Files)+len(m.Symlinks))
	check := func(name string) error {
		if why := badName(name); why != "" {
			return invalid(d, name, "%s", why)
		}
		if _, twice := seen[name]; twice && !mutant.NamedTwice {
			return invalid(d, name, "named twice")
		}
		seen[name] = struct{}{}
		return nil
	}
	for _, c := range m.Directories {
		at, err := digestOf(d, c.GetName(), c.GetDigest())
		if err := firstError(check(c.GetName()), err); err != nil {
			return nil, err
		}
		n.dirs = append(n.dirs, child{c.Name, at})
	}
	for _, f := range m.Files {
		at, err := digestOf(d, f.GetName(), f.GetDigest())
		if err := firstError(check(f.GetName()), err); err != nil {
			return nil, err
		}
		mode := f.GetNodeProperties().GetUnixMode().GetValue()
		tool := slices.ContainsFunc(f.GetNodeProperties().GetProperties(), func(p *repb.NodeProperty) bool { return p.GetName() == toolProperty })
		n.files = append(n.files, file{f.Name, at, f.IsExecutable || mode&0o111 != 0, tool})
	}
	for _, l := range m.Symlinks {
		if err := check(l.GetName()); err != nil {
			return nil, err
		}
		if why := badTarget(l.Target); why != "" {
			return nil, invalid(d, l.Name, "the target %q of the symbolic link %s", l.Target, why)
		}
		n.links = append(n.links, symlink{l.Name, l.Target})
	}
	return n, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func digestOf(in digest.Digest, name string, m *repb.Digest) (digest.Digest, error) {
	d, err := digest.New(in.Function, m.GetHash(), m.GetSizeBytes())
	if err == nil && d.Size == digest.AnySize {
		err = digest.ErrSyntax
	}
	if err != nil {
		return d, invalid(in, name, "%v", err)
	}
	return d, nil
}

// badName says what is wrong with a name, or "".
func badName(name string) string {
	switch {
	case name == "":
		return "the name is empty"
	case name == "." || name == "..":
		return "the name means another directory"
	case strings.ContainsAny(name, "/\x00"):
		return "the name contains a slash or a NUL"
	case len(name) > maxName:
		return fmt.Sprintf("the name is longer than %d bytes", maxName)
	}
	return ""
}

// badTarget says what is wrong with the target of a symbolic link, or "". It may be absolute, as the server's
// capabilities say, and lead anywhere: what is there is for the sandbox to say. Nothing here follows it.
func badTarget(target string) string {
	switch {
	case target == "":
		return "is empty"
	case strings.ContainsRune(target, 0):
		return "contains a NUL"
	case len(target) > maxPath:
		return fmt.Sprintf("is longer than %d bytes", maxPath)
	}
	return ""
}
