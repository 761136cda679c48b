package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A directory is a Directory message in the making.
type directory struct {
	message  *repb.Directory
	children []*directory // in the order of message.Directories
}

// errReplaced says that something else is where a file or directory was.
var errReplaced = fmt.Errorf("%w: something else took its place", fs.ErrNotExist)

// walk reads what is below dir, whose path is name, and hashes and sends files as lots fill.
func (u *uploader) walk(ctx context.Context, dir *os.Root, name string) (*directory, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, entries, err := list(dir)
	if err != nil {
		return nil, err
	}
	d := &directory{message: &repb.Directory{NodeProperties: properties(info)}}
	u.Counts.Directories.Add(1)
	for _, e := range entries {
		if err := u.entry(ctx, d, dir, path.Join(name, e)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// list returns what dir is, and the names in it, in the order that messages must have.
func list(dir *os.Root) (info fs.FileInfo, names []string, err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil {
		names, err = f.Readdirnames(-1)
	}
	slices.Sort(names)
	return info, names, err
}

// entry adds what is called name, the last part of which is in dir, to d.
func (u *uploader) entry(ctx context.Context, d *directory, dir *os.Root, name string) error {
	base := path.Base(name)
	info, err := dir.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if unreadable(err) { // another user's mount says nothing of itself
		if !u.Excludes.match(name, true) {
			u.skip(name, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if u.Excludes.match(name, info.IsDir()) {
		return nil
	}
	if !utf8.ValidString(base) {
		u.skip(name, errors.New("the name is not UTF-8, as the API wants it"))
		return nil
	}
	switch {
	case info.IsDir():
		child, err := u.below(ctx, dir, name, info)
		if unreadable(err) {
			u.skip(name, err)
			return nil
		}
		if err != nil {
			return err
		}
		d.message.Directories = append(d.message.Directories, &repb.DirectoryNode{Name: base})
		d.children = append(d.children, child)
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := dir.Readlink(base)
		if err != nil || !utf8.ValidString(target) {
			u.skip(name, errors.Join(err, errors.New("the link can't be read as UTF-8")))
			return nil
		}
		u.Counts.Symlinks.Add(1)
		p := properties(info)
		p.UnixMode = nil // links have none
		d.message.Symlinks = append(d.message.Symlinks, &repb.SymlinkNode{Name: base, Target: target, NodeProperties: p})
	case info.Mode().IsRegular():
		node := &repb.FileNode{Name: base, IsExecutable: info.Mode()&0o111 != 0, NodeProperties: properties(info)}
		d.message.Files = append(d.message.Files, node)
		return u.file(ctx, &file{name, node, info.Size(), changeTime(info)})
	default:
		u.skip(name, errors.New("neither a file, a directory nor a link"))
	}
	return nil
}

// below walks a directory in dir, if it is still the one that info is about.
func (u *uploader) below(ctx context.Context, dir *os.Root, name string, info fs.FileInfo) (*directory, error) {
	child, err := dir.OpenRoot(path.Base(name))
	if err != nil {
		return nil, whyNot(dir, path.Base(name), fs.FileMode.IsDir, err)
	}
	defer child.Close()
	if now, err := child.Stat("."); err != nil || !os.SameFile(now, info) {
		return nil, errors.Join(errReplaced, err)
	}
	return u.walk(ctx, child, name)
}

// open opens a file below the top for reading, unless a link or a pipe took its place.
func (u *uploader) open(f *file) (*os.File, error) {
	// Nothing is waited for: a pipe would have us wait for its other end.
	opened, err := u.root.OpenFile(f.name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, whyNot(u.root, f.name, fs.FileMode.IsRegular, err)
	}
	info, err := opened.Stat()
	if err == nil && info.Mode().IsRegular() {
		var named fs.FileInfo
		if named, err = u.root.Lstat(f.name); err == nil && os.SameFile(named, info) {
			return opened, nil
		}
	}
	opened.Close()
	return nil, errors.Join(errReplaced, err)
}

// whyNot returns why name was not opened: it is not what it was, or err.
func whyNot(dir *os.Root, name string, as func(fs.FileMode) bool, err error) error {
	if info, statErr := dir.Lstat(name); statErr != nil || !as(info.Mode()) {
		return errors.Join(errReplaced, err)
	}
	return err
}

// readSmall returns the bytes of a small file, or more than smallFile bytes if it has grown.
func (u *uploader) readSmall(f *file) ([]byte, error) {
	opened, err := u.open(f)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return io.ReadAll(io.LimitReader(opened, smallFile+1))
}

// unreadable reports whether a file is for others, can't be read, or went meanwhile.
func unreadable(err error) bool {
	return slices.ContainsFunc([]error{fs.ErrPermission, fs.ErrNotExist, syscall.EIO, syscall.ESTALE}, func(why error) bool { return errors.Is(err, why) })
}

func (u *uploader) skip(name string, why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.Skipped != nil {
		u.Skipped(name, why)
	}
}

// properties returns mode and time.
func properties(info fs.FileInfo) *repb.NodeProperties {
	mode := uint32(info.Mode().Perm())
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		mode = uint32(s.Mode) & 0o7777
	}
	return &repb.NodeProperties{Mtime: timestamppb.New(info.ModTime()), UnixMode: wrapperspb.UInt32(mode)}
}
