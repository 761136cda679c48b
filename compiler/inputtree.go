package compiler

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

var (
	// errPrivate says that a file lies where each worker has something of its own.
	errPrivate = errors.New("it lies in /tmp, /dev or /proc, where every worker has its own")
	errLinks   = errors.New("too many links")
)

// private are the directories that a worker lays over what an action brings.
var private = []string{"/tmp", "/dev", "/proc"}

// maxLinks is how many links are followed on the way to one file, as Linux does.
const maxLinks = 40

// An inputTree is a part of this machine's file system that is to be another one's root: files with all the links and
// directories on the way to them, so that every name means there what it means here. Names are absolute.
type inputTree struct {
	files map[string]input
	links map[string]string
	dirs  map[string]bool
}

// An input is a blob of a tree: text, or what a file holds.
type input struct {
	digest     digest.Digest
	executable bool
	path       string // the file; "" if it is text
	text       []byte
}

func newInputTree() *inputTree {
	return &inputTree{files: map[string]input{}, links: map[string]string{}, dirs: map[string]bool{}}
}

// walk adds what lies on the way to name, as the kernel goes it, and returns where name is. A file there is not added.
func (t *inputTree) walk(name string) (real string, info fs.FileInfo, err error) {
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			real = real[:max(0, strings.LastIndexByte(real, '/'))]
			continue
		}
		here := real + "/" + part
		if slices.Contains(private, here) {
			return "", nil, fmt.Errorf("%s: %w", name, errPrivate)
		}
		if t.dirs[here] {
			real = here
			continue
		}
		if info, err = os.Lstat(here); err != nil {
			return "", nil, err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", nil, fmt.Errorf("%s: %w", name, errLinks)
			}
			target, err := os.Readlink(here)
			if err != nil {
				return "", nil, err
			}
			t.links[here] = target
			if path.IsAbs(target) {
				real = ""
			}
			rest = append(strings.Split(target, "/"), rest...)
		case info.IsDir():
			t.dirs[here] = true
			real = here
		case info.Mode().IsRegular() && !slices.ContainsFunc(rest, func(s string) bool { return s != "" }):
			return here, info, nil
		default:
			return "", nil, fmt.Errorf("%s: %w", name, errNoFile)
		}
	}
	return real, nil, nil
}

// directory adds a directory, and returns where it is: "" is the root.
func (t *inputTree) directory(name string) (string, error) {
	real, info, err := t.walk(name)
	if err == nil && info != nil {
		return "", fmt.Errorf("%s: not a directory", name)
	}
	return real, err
}

// file adds a file, which holds what h says of it, and returns where it is.
func (t *inputTree) file(h *hashes, name string) (string, content, error) {
	real, info, err := t.walk(name)
	if err != nil {
		return "", content{}, err
	}
	if info == nil {
		return "", content{}, fmt.Errorf("%s: %w", name, errNoFile)
	}
	c, err := h.digest(name)
	if err != nil {
		return "", content{}, err
	}
	t.files[real] = input{digest: c.digest, executable: info.Mode()&0o111 != 0, path: real}
	return real, c, nil
}

// add adds what name leads to, if that is a file or a directory.
func (t *inputTree) add(h *hashes, name string) error {
	real, info, err := t.walk(name)
	if err != nil || info == nil {
		return err
	}
	_, _, err = t.file(h, real)
	return err
}

// write adds a file in the root that this machine does not have.
func (t *inputTree) write(name string, text []byte) {
	t.files["/"+name] = input{digest: digest.SHA256.Of(text), text: text}
}

// A folder is a directory of a tree while its message is made.
type folder struct {
	message *repb.Directory
	folders map[string]*folder
}

// encode returns all blobs of the tree, messages included, and the digest of its root.
func (t *inputTree) encode() (digest.Digest, map[digest.Digest]input, error) {
	root := &folder{message: &repb.Directory{}, folders: map[string]*folder{}}
	for name := range t.dirs {
		root.at(name)
	}
	blobs := map[digest.Digest]input{}
	for name, in := range t.files {
		blobs[in.digest] = in
		f := root.at(path.Dir(name)).message
		f.Files = append(f.Files, &repb.FileNode{Name: path.Base(name), Digest: upstream.ToProto(in.digest), IsExecutable: in.executable})
	}
	for name, target := range t.links {
		f := root.at(path.Dir(name)).message
		f.Symlinks = append(f.Symlinks, &repb.SymlinkNode{Name: path.Base(name), Target: target})
	}
	d, err := root.encode(blobs)
	return d, blobs, err
}

// at returns the folder of an absolute path, which it makes.
func (f *folder) at(name string) *folder {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			continue
		}
		next := f.folders[part]
		if next == nil {
			next = &folder{message: &repb.Directory{}, folders: map[string]*folder{}}
			f.folders[part] = next
		}
		f = next
	}
	return f
}

// encode adds the messages of the folder and of those in it to blobs.
func (f *folder) encode(blobs map[digest.Digest]input) (digest.Digest, error) {
	m := f.message
	for name, sub := range f.folders {
		d, err := sub.encode(blobs)
		if err != nil {
			return digest.Digest{}, err
		}
		m.Directories = append(m.Directories, &repb.DirectoryNode{Name: name, Digest: upstream.ToProto(d)})
	}
	slices.SortFunc(m.Directories, func(a, b *repb.DirectoryNode) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Files, func(a, b *repb.FileNode) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Symlinks, func(a, b *repb.SymlinkNode) int { return strings.Compare(a.Name, b.Name) })
	return message(blobs, m)
}

// message adds a message to blobs.
func message(blobs map[digest.Digest]input, m proto.Message) (digest.Digest, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return digest.Digest{}, err
	}
	d := digest.SHA256.Of(b)
	blobs[d] = input{digest: d, text: b}
	return d, nil
}

// read returns the bytes of a blob, which a file must still hold.
func (in *input) read() ([]byte, error) {
	if in.path == "" {
		return in.text, nil
	}
	b, err := os.ReadFile(in.path)
	if err == nil && digest.SHA256.Of(b) != in.digest {
		return nil, errChanged
	}
	return b, err
}
