package collect

import (
	"os"
	"path"
	"strings"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"golang.org/x/sys/unix"
)

// link returns the link at name in dir.
func (c *collector) link(dir *os.File, name, at string, st *unix.Stat_t) (*node, error) {
	if err := c.count(at, 0); err != nil {
		return nil, err
	}
	buffer := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(int(dir.Fd()), name, buffer)
	if err != nil {
		return nil, refuse(at, "changed while it was collected: %v", err)
	}
	target := string(buffer[:size])
	if !utf8.ValidString(target) {
		return nil, refuse(at, "is a link whose target is not UTF-8, which the protocol can't say")
	}
	if target, err = c.target(at, target); err != nil {
		return nil, err
	}
	if c.options.RefuseDangling {
		if _, err := c.follow(at, target); err != nil {
			return nil, refuse(at, "is a link to %q, where nothing is", target)
		}
	}
	return &node{name: name, kind: symlink, target: target, properties: c.propertiesOf(st)}, nil
}

// target returns what is recorded as the target of the link at a path. A relative one stays as it is: to
// take ".." out of it could change what it means. An absolute one into the root is made relative whatever the strategy:
// nobody but the action knows the root by that name.
func (c *collector) target(at, target string) (string, error) {
	if path.IsAbs(target) {
		for _, seen := range c.options.Seen {
			if inside, ok := below(path.Clean(target), path.Clean(seen)); ok {
				return relative(path.Dir(at), inside), nil
			}
		}
	}
	if c.options.Absolute == repb.SymlinkAbsolutePathStrategy_ALLOWED {
		return target, nil
	}
	if !path.IsAbs(target) {
		if above(path.Join(path.Dir(at), target)) {
			return "", refuse(at, "is a link to %q, above the input root", target)
		}
		return target, nil
	}
	return "", refuse(at, "is a link to %q, an absolute path outside of the input root; make the link relative", target)
}

// above reports whether a cleaned path that is relative to the root leads out of it.
func above(name string) bool { return name == ".." || strings.HasPrefix(name, "../") }

// below returns target relative to a directory that it lies in or is; both are absolute and clean.
func below(target, dir string) (string, bool) {
	if target == dir {
		return ".", true
	}
	return strings.CutPrefix(target, strings.TrimSuffix(dir, "/")+"/")
}

// relative returns the way from one place to another; both are clean and relative to the same root.
func relative(from, to string) string {
	var a, b []string
	if from != "." {
		a = strings.Split(from, "/")
	}
	if to != "." {
		b = strings.Split(to, "/")
	}
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	way := make([]string, 0, len(a)+len(b))
	for range a {
		way = append(way, "..")
	}
	if way = append(way, b...); len(way) == 0 {
		return "."
	}
	return strings.Join(way, "/")
}
