package files

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// Link gives the blob d another name: a path, which must be new. The file is read-only, and executable
// or not as the caller says. It is a hard link, or where that can't be, a file of its own with the same
// bytes (reflinked if the file system can). It returns blob.ErrNotFound if the blob is absent.
func (s *Store) Link(ctx context.Context, d digest.Digest, executable bool, name string) error {
	dir, err := s.fsys.OpenDir(filepath.Dir(name))
	if err != nil {
		return &blob.Error{Op: "link", Digest: d, Err: err}
	}
	defer dir.Close()
	return s.LinkAt(ctx, d, executable, dir, filepath.Base(name))
}

// LinkAt is Link with a name in a directory that the caller holds open.
func (s *Store) LinkAt(ctx context.Context, d digest.Digest, executable bool, dir vfs.Dir, name string) error {
	if !s.calls.Enter() {
		return &blob.Error{Op: "link", Digest: d, Err: blob.ErrClosed}
	}
	defer s.calls.Leave()
	if err := s.link(ctx, d, executable, dir, name); err != nil {
		return &blob.Error{Op: "link", Digest: d, Err: err}
	}
	return nil
}

func (s *Store) link(ctx context.Context, d digest.Digest, executable bool, dir vfs.Dir, name string) error {
	if d.IsEmpty() {
		// The blob of no bytes is stored nowhere.
		return s.private(dir, name, executable, func(vfs.ModeFile) error { return nil })
	}
	h, ok := s.pin(d, executable)
	if !ok && executable {
		var err error
		if h, ok, err = s.makeExecutable(ctx, d); err != nil {
			return err
		}
	}
	if !ok {
		return blob.ErrNotFound
	}
	if mutant.LinkUnpinned {
		h.pin.Release()
	} else {
		defer h.pin.Release()
	}
	sim.Point("pinned")
	err := s.dir.Link(h.name(), dir, name)
	switch {
	case err == nil:
		s.counts.linked.Add(1)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		// Whose name is it that is not there?
		f, gone := s.openFile(h)
		if gone != nil {
			return gone
		}
		return errors.Join(err, f.Close())
	case errors.Is(err, syscall.EMLINK), errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EPERM):
		return s.clone(h, dir, name)
	}
	return err
}

// clone makes a file of the same bytes.
func (s *Store) clone(h held, dir vfs.Dir, name string) error {
	from, err := s.openFile(h)
	if err != nil {
		return err
	}
	defer from.Close()
	return s.private(dir, name, h.executable(), func(f vfs.ModeFile) error {
		shared, err := f.CloneFrom(from, h.size)
		if shared {
			s.counts.reflinked.Add(1)
		} else if err == nil {
			s.counts.copied.Add(1)
		}
		return err
	})
}

// private makes a file that shares no inode. One that fails leaves no trace.
func (s *Store) private(dir vfs.Dir, name string, executable bool, fill func(vfs.ModeFile) error) error {
	f, err := dir.Create(name, 0)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Chmod(modeOf(executable))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, dir.Remove(name))
	}
	return nil
}

// makeExecutable makes the executable incarnation of a blob, and pins it.
func (s *Store) makeExecutable(ctx context.Context, d digest.Digest) (held, bool, error) {
	plain, ok := s.pin(d, false)
	if !ok {
		return held{}, false, nil
	}
	defer plain.pin.Release()
	from, err := s.openFile(plain)
	if err != nil {
		return held{}, false, err
	}
	defer from.Close()
	if err := s.reserve(ctx, charge(plain.size)); err != nil {
		return held{}, false, err
	}
	p, err := s.begin(keyOf(d, true), plain.size)
	if err != nil {
		s.room.giveBack(charge(plain.size))
		return held{}, false, err
	}
	if _, err := p.file.CloneFrom(from, plain.size); err != nil {
		s.room.giveBack(charge(plain.size))
		return held{}, false, errors.Join(full(err), p.discard())
	}
	var h held
	ok, err = s.publish(p, &h)
	return h, ok, err
}
