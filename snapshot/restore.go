package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// RestoreOptions say what Restore writes.
type RestoreOptions struct {
	// Paths are those to restore, slashed and relative to the top, with all below them. None are all, and so is ".".
	Paths []string
	// Dry says to read and write nothing but the tree.
	Dry    bool
	Counts *Counts
}

// A restorer is one Restore.
type restorer struct {
	RestoreOptions
	client   *client.Client
	store    *upstream.Store
	function digest.Function
	root     *os.Root
	dir      string
	fresh    bool // dir was made for this

	directories []made // each before what is in it
	small       []want
	smallBytes  int64
	large       []want
}

// A made is a directory that gets its mode and time when all in it is there.
type made struct {
	name       string
	properties *repb.NodeProperties
}

// A want is a file that is to be fetched.
type want struct {
	name   string
	node   *repb.FileNode
	digest digest.Digest
}

// Restore writes the tree of root to the directory dir, which is made if need be. What is there under other names stays
// as it is, and so do dir itself and directories above Paths; files and links under the same names are replaced, and
// files that have the bytes already are not fetched. A file that differs lends its chunks.
func Restore(ctx context.Context, c *client.Client, root digest.Digest, dir string, o RestoreOptions) error {
	if o.Counts == nil {
		o.Counts = new(Counts)
	}
	r := &restorer{RestoreOptions: o, client: c, store: c.Store(), function: root.Function, dir: dir}
	sought := map[string]bool{}
	r.Paths = nil
	for _, p := range o.Paths {
		clean := path.Clean(p)
		if !fs.ValidPath(clean) {
			return fmt.Errorf("path %q is not below the snapshot's top", p)
		}
		if clean == "." {
			clean = ""
		}
		r.Paths, sought[clean] = append(r.Paths, clean), true
	}
	tree, err := c.Tree(ctx, root)
	if err != nil {
		return err
	}
	if !o.Dry {
		if err := r.open(); err != nil {
			return err
		}
		defer r.root.Close()
	}
	err = walkTree(tree, func(name string, n *node) error {
		delete(sought, name)
		inside := within(name, r.Paths)
		if !inside && (n.file != nil || n.link != nil || !above(name, r.Paths)) {
			return nil
		}
		if n.absent != nil {
			return n.absent
		}
		return r.visit(ctx, name, n, inside)
	})
	if err == nil {
		err = r.flush(ctx)
	}
	for p := range sought {
		err = errors.Join(err, fmt.Errorf("the snapshot has nothing called %q", p))
	}
	// After an error too: what is there should be of use.
	return errors.Join(err, r.finish())
}

// open opens the target. One that has to be made gets the mode of the snapshot's top.
func (r *restorer) open() (err error) {
	_, err = os.Stat(r.dir)
	r.fresh = errors.Is(err, fs.ErrNotExist)
	if err = os.MkdirAll(r.dir, 0o755); err == nil {
		r.root, err = os.OpenRoot(r.dir)
	}
	return err
}

// visit restores n, or if it is not inside of what is restored, makes the directory if it is not there.
func (r *restorer) visit(ctx context.Context, name string, n *node, inside bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case n.directory != nil:
		r.Counts.Directories.Add(1)
		if r.Dry {
			return nil
		}
		return r.mkdir(name, n.directory.NodeProperties, inside)
	case n.link != nil:
		r.Counts.Symlinks.Add(1)
		if r.Dry {
			return nil
		}
		return r.link(name, n.link)
	}
	d, err := digestOf(r.function, n.file.Digest)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.Counts.Files.Add(1)
	r.Counts.Bytes.Add(d.Size)
	if r.Dry {
		return nil
	}
	if r.has(name, d) {
		return r.dress(name, n.file)
	}
	w := want{name, n.file, d}
	if d.Size <= smallFile {
		r.small, r.smallBytes = append(r.small, w), r.smallBytes+d.Size
	} else {
		r.large = append(r.large, w)
	}
	if r.smallBytes >= lotBytes || len(r.small)+len(r.large) >= lotFiles {
		return r.flush(ctx)
	}
	return nil
}

// mkdir makes a directory that can be written until finish gives it its mode. A link in its place goes: nothing is
// written through it. A directory that is there gets the mode only if it is inside of what is restored, which the top
// never is.
func (r *restorer) mkdir(name string, p *repb.NodeProperties, inside bool) error {
	if name == "" {
		if r.fresh {
			r.directories = append(r.directories, made{".", p})
		}
		return nil
	}
	info, err := r.root.Lstat(name)
	if err == nil && info.IsDir() {
		if !inside {
			return nil
		}
		r.directories = append(r.directories, made{name, p})
		if info.Mode()&0o700 == 0o700 {
			return nil
		}
		return r.root.Chmod(name, info.Mode()|0o700)
	}
	if err == nil {
		if err := r.root.Remove(name); err != nil {
			return err
		}
	}
	r.directories = append(r.directories, made{name, p})
	return r.root.Mkdir(name, 0o700)
}

func (r *restorer) link(name string, l *repb.SymlinkNode) error {
	if target, err := r.root.Readlink(name); err == nil && target == l.Target {
		return nil
	}
	aside := r.aside(name)
	if err := r.root.Symlink(l.Target, aside); err != nil {
		return err
	}
	return r.place(aside, name)
}

// aside returns a name beside name that nobody has.
func (r *restorer) aside(name string) string {
	return path.Join(path.Dir(name), ".sarsen-"+rand.Text())
}

// place puts what was made aside under its name, or removes it.
func (r *restorer) place(aside, name string) error {
	err := r.root.Rename(aside, name)
	if err != nil {
		_ = r.root.Remove(aside)
	}
	return err
}

// has reports whether the file is there with the bytes of d.
func (r *restorer) has(name string, d digest.Digest) bool {
	info, err := r.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != d.Size {
		return false
	}
	f, err := r.root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	cut, err := client.NewCut(f, d.Function, nil)
	return err == nil && cut.Digest == d
}

// flush fetches and writes what waits.
func (r *restorer) flush(ctx context.Context) error {
	small, large := r.small, r.large
	r.small, r.large, r.smallBytes = nil, nil, 0
	ds := make([]digest.Digest, len(small))
	for i, w := range small {
		ds[i] = w.digest
		r.Counts.Moved.Add(w.digest.Size)
	}
	data, errs := r.store.GetAll(ctx, ds)
	for i, w := range small {
		err := errs[i]
		if err == nil {
			err = r.write(w, func(to io.Writer) error {
				_, err := io.Copy(to, bytes.NewReader(data[i]))
				return err
			})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return each(ctx, len(large), func(ctx context.Context, i int) error {
		w := large[i]
		seeds := r.client.Seeds(w.digest.Function)
		if info, err := r.root.Lstat(w.name); err != nil || !info.Mode().IsRegular() {
			seeds = nil
		} else if seeds != nil && seeds.Add(filepath.Join(r.dir, filepath.FromSlash(w.name))) != nil {
			seeds = nil
		}
		err := r.write(w, func(to io.Writer) error {
			fetched, err := r.client.GetSeeded(ctx, w.digest, seeds, to)
			r.Counts.Moved.Add(fetched)
			return err
		})
		if err != nil {
			err = fmt.Errorf("%s: %w", w.name, err)
		}
		return err
	})
}

// write makes a file aside, and puts it under its name when it is whole. Zeros become holes.
func (r *restorer) write(w want, fill func(io.Writer) error) error {
	aside := r.aside(w.name)
	f, err := r.root.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	to := &sparse{f: f}
	if err = fill(to); err == nil {
		err = f.Truncate(to.at)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.dress(aside, w.node)
	}
	if err != nil {
		_ = r.root.Remove(aside)
		return err
	}
	return r.place(aside, w.name)
}

// A sparse writes a file from its beginning, and leaves out what is zero.
type sparse struct {
	f  *os.File
	at int64
}

var zeros [64 << 10]byte

func (s *sparse) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		b := p[:min(len(p), len(zeros))]
		if !bytes.Equal(b, zeros[:len(b)]) {
			if _, err := s.f.WriteAt(b, s.at); err != nil {
				return n, err
			}
		}
		p, s.at, n = p[len(b):], s.at+int64(len(b)), n+len(b)
	}
	return n, nil
}

// dress gives a file its mode and time. It has no bits that would run it as its owner or group, as these are not kept:
// whoever restores would lend his own.
func (r *restorer) dress(name string, node *repb.FileNode) error {
	mode := fs.FileMode(0o644)
	if node.IsExecutable {
		mode = 0o755
	}
	if m := node.GetNodeProperties().GetUnixMode(); m != nil {
		mode = fileMode(m.Value) &^ (fs.ModeSetuid | fs.ModeSetgid)
	}
	if err := r.root.Chmod(name, mode); err != nil {
		return err
	}
	return r.setTime(name, node.GetNodeProperties())
}

func (r *restorer) setTime(name string, p *repb.NodeProperties) error {
	if p.GetMtime() == nil || p.GetMtime().CheckValid() != nil {
		return nil
	}
	t := p.GetMtime().AsTime()
	return r.root.Chtimes(name, t, t)
}

// fileMode returns a Unix mode as Go has it.
func fileMode(unix uint32) fs.FileMode {
	mode := fs.FileMode(unix & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if unix&bit != 0 {
			mode |= m
		}
	}
	return mode
}

// finish gives directories their modes and times, those within others first, as to write into one changes its time.
func (r *restorer) finish() error {
	for i := len(r.directories) - 1; i >= 0; i-- {
		d := r.directories[i]
		mode := fs.FileMode(0o755)
		if m := d.properties.GetUnixMode(); m != nil {
			mode = fileMode(m.Value)
		}
		if err := r.root.Chmod(d.name, mode); err != nil {
			return err
		}
		if err := r.setTime(d.name, d.properties); err != nil {
			return err
		}
	}
	return nil
}
