package collect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
)

// Prepare makes the directories in which the outputs of command will lie, after its inputs were staged
// and before it runs. Those that are there are made writable: they are this action's own, and only the
// files in them are shared. The working directory must be there.
//
// Output directories that the old field output_directories names are made too, not only their parents:
// Bazel, which fills that field for servers that speak REAPI 2.0 only, makes them when it runs an action
// itself, and its actions rely on them. The paths of output_paths may be files, so of those the parents.
func Prepare(root *os.Root, command *repb.Command) error {
	work, err := workingDirectory(command)
	if err != nil {
		return err
	}
	outputs, err := outputsOf(command, work)
	if err != nil {
		return err
	}
	if work != "" {
		if info, err := root.Stat(work); err != nil || !info.IsDir() {
			return fmt.Errorf("%w: command.working_directory: %q is no directory of the input root", blob.ErrInvalid, work)
		}
	}
	m := &maker{root: root, made: map[string]bool{}}
	for _, out := range outputs {
		dir := out.at
		if out.kind != aDirectory && dir != path.Clean(work) {
			dir = path.Dir(dir)
		}
		if err := m.make(dir); err != nil {
			return fmt.Errorf("%w: %s: %q: %w", blob.ErrInvalid, out.field, out.path, err)
		}
	}
	return nil
}

// A maker makes directories and remembers them.
type maker struct {
	root *os.Root
	made map[string]bool
}

// writable is what the owner of a directory needs to make something in it.
const writable = 0o700

// make makes dir and all above it, and makes all of them writable. Links among them are followed as far
// as they stay below the root.
func (m *maker) make(dir string) error {
	if dir == "" || dir == "." {
		return m.open(".")
	}
	if m.made[dir] {
		return nil
	}
	if parent := path.Dir(dir); !m.made[parent] {
		if err := m.make(parent); err != nil {
			return err
		}
	}
	if err := m.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return m.open(dir)
}

// open makes sure that something can be made in dir.
func (m *maker) open(dir string) error {
	f, err := m.root.OpenFile(dir, openParent, 0)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%q is no directory", dir)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%q is a link to nothing", dir)
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "openat "))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&writable != writable {
		// By its descriptor: the name might mean something else by now.
		if err := f.Chmod(mode | writable); err != nil {
			return err
		}
	}
	m.made[dir] = true
	return nil
}
