package collect

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A kind is what a node is.
type kind int

const (
	file kind = iota
	directory
	symlink
)

// A node is what was found at one path.
type node struct {
	name       string
	kind       kind
	properties *repb.NodeProperties

	digest     digest.Digest // of a file, once it is hashed
	executable bool
	target     string // of a link, as it is recorded
	leadsTo    want   // what a link that is an output leads to; anything if to nothing
	children   []*node
}

// Every open is one of these: nothing waits for a FIFO's other end, and no link is followed.
const (
	openFlags      = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	openParent     = os.O_RDONLY | syscall.O_DIRECTORY | syscall.O_NONBLOCK
	namesAtOnce    = 4096
	permissionBits = 0o777
)

// find returns what is at an output's path, nil if there is nothing. Files are handed on to be hashed.
func (c *collector) find(out output) (*node, error) {
	at := out.at
	if at == "." || at == path.Clean(c.work) { // which may be a link
		dir, err := c.root.OpenFile(at, openParent, 0)
		if err != nil {
			return nil, c.absent(at, err)
		}
		n, err := c.directory(dir, "", at, 0)
		if err != nil {
			return nil, err
		}
		return n, c.suits(out, at, n)
	}
	dir, err := c.root.OpenFile(path.Dir(at), openParent, 0)
	if err != nil {
		return nil, c.absent(at, err)
	}
	defer dir.Close()
	n, err := c.node(dir, path.Base(at), at, 0)
	if err != nil {
		return nil, c.absent(at, err)
	}
	return n, c.suits(out, at, n)
}

// absent returns nil for the error of a path at which there is nothing.
func (c *collector) absent(at string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrLimit) {
		return err
	}
	return refuse(at, "can't be read: %v", err)
}

// suits checks that an output is what the field that names it is about.
func (c *collector) suits(out output, at string, n *node) error {
	is := n.leadsTo
	switch n.kind {
	case file:
		is = aFile
	case directory:
		is = aDirectory
	case symlink:
		if info, err := c.follow(at, n.target); err == nil && info.IsDir() {
			is = aDirectory
		} else if err == nil && info.Mode().IsRegular() {
			is = aFile
		}
		n.leadsTo = is
	}
	if out.kind == anything || is == anything || is == out.kind {
		return nil
	}
	if out.kind == aFile {
		return refuse(at, "is a directory, and %s says that it is a file", out.field)
	}
	return refuse(at, "is a file, and %s says that it is a directory", out.field)
}

// follow returns what the link at a path leads to, as far as that lies below the root.
func (c *collector) follow(at, target string) (os.FileInfo, error) {
	if path.IsAbs(target) {
		return c.root.Stat(target) // which says that it leads out
	}
	return c.root.Stat(path.Dir(at) + "/" + target)
}

// node returns what is at name in dir.
func (c *collector) node(dir *os.File, name, at string, depth int) (*node, error) {
	if err := c.line.err(); err != nil {
		return nil, err
	}
	if !utf8.ValidString(name) {
		return nil, refuse(at, "has a name that is not UTF-8, which the protocol can't say")
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return c.link(dir, name, at, &st)
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return nil, refuse(at, "is %s; only files, directories and links can be outputs", kindOf(uint32(st.Mode)))
	}
	sim.Point("collect: looked at")
	flags := openFlags
	if mutant.LinkFollowed {
		flags &^= unix.O_NOFOLLOW
	}
	if mutant.PipeAwaited {
		flags &^= unix.O_NONBLOCK
	}
	fd, err := unix.Openat(int(dir.Fd()), name, flags, 0)
	if err != nil {
		return nil, refuse(at, "can't be opened: %v", err)
	}
	f := os.NewFile(uintptr(fd), name)
	// What was opened is what counts, whatever the name stood for a moment ago.
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.file(f, name, at, &st)
	case unix.S_IFDIR:
		return c.directory(f, name, at, depth)
	}
	f.Close()
	return nil, refuse(at, "became %s while it was collected", kindOf(uint32(st.Mode)))
}

// kindOf says what a mode is, for people.
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "of no known kind"
}

// file hands f on to be hashed, which closes it.
func (c *collector) file(f *os.File, name, at string, st *unix.Stat_t) (*node, error) {
	if err := c.count(at, st.Size); err != nil {
		f.Close()
		return nil, err
	}
	n := &node{name: name, kind: file, executable: st.Mode&0o111 != 0, properties: c.propertiesOf(st)}
	c.line.add(&found{node: n, file: f, at: at, before: *st})
	return n, nil
}

// directory reads all below f, and closes it.
func (c *collector) directory(f *os.File, name, at string, depth int) (*node, error) {
	defer f.Close()
	if err := c.count(at, 0); err != nil {
		return nil, err
	}
	if depth >= c.options.MaxDepth {
		return nil, refuse(at, "lies more than %d directories deep", c.options.MaxDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	n := &node{name: name, kind: directory, properties: c.propertiesOf(&st)}
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, name := range names {
			below := path.Join(at, name)
			child, err := c.node(f, name, below, depth+1)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, refuse(below, "went away while it was collected")
			}
			if err != nil {
				return nil, err
			}
			n.children = append(n.children, child)
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return nil, refuse(at, "can't be listed: %v", err)
		}
	}
}

// propertiesOf returns the properties that were asked for, nil for none.
func (c *collector) propertiesOf(st *unix.Stat_t) *repb.NodeProperties {
	if c.properties == (properties{}) {
		return nil
	}
	p := new(repb.NodeProperties)
	if c.properties.mtime {
		p.Mtime = timestamppb.New(time.Unix(st.Mtim.Unix()))
	}
	if c.properties.mode && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		p.UnixMode = wrapperspb.UInt32(uint32(st.Mode) & permissionBits)
		if mutant.SetuidKept {
			p.UnixMode.Value = uint32(st.Mode) & 0o7777
		}
	}
	return p
}
