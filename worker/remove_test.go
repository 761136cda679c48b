package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemoveAll: whatever an action leaves goes, with few descriptors, and what shares its inode with the store keeps its mode.
func TestRemoveAll(t *testing.T) {
	for name, leave := range map[string]func(dir string) error{
		"nothing": func(string) error { return nil },
		"closed directories": func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/a/b/c", 0o700), os.WriteFile(dir+"/a/b/c/f", nil, 0o400), os.Chmod(dir+"/a/b", 0))
		},
		"many names": func(dir string) (err error) {
			for i := range 1500 {
				err = errors.Join(err, os.Symlink("nowhere", filepath.Join(dir, fmt.Sprint(i))))
			}
			return err
		},
		"directories without end": func(dir string) error {
			at, err := unix.Open(dir, unix.O_DIRECTORY, 0)
			for range 3000 { // more than a path can name, and than this process may open
				if err == nil {
					err = errors.Join(unix.Mkdirat(at, "d", 0o700), unix.Mkdirat(at, "deep.1", 0o500), unix.Fchmod(at, 0o500))
				}
				below := -1
				if err == nil {
					below, err = unix.Openat(at, "d", unix.O_DIRECTORY, 0)
				}
				_ = unix.Close(at)
				at = below
			}
			return errors.Join(err, unix.Close(at))
		},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir, shared := filepath.Join(parent, "dir"), filepath.Join(parent, "shared")
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(shared, nil, 0o444), os.Link(shared, filepath.Join(dir, "input"))); err != nil {
				t.Fatal(err)
			}
			if err := leave(dir); err != nil {
				t.Fatal(err)
			}
			fewDescriptors(t, 200)
			if err := removeAll(dir); err != nil {
				t.Errorf("removeAll = %v", err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
			if info, err := os.Stat(shared); err != nil || info.Mode() != 0o444 {
				t.Errorf("the shared file: got %v, %v, want mode 0444", info, err)
			}
		})
	}
	if err := removeAll(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("removeAll of nothing = %v", err)
	}
}

// fewDescriptors lets this process have n descriptors until the test ends.
func fewDescriptors(t *testing.T, n uint64) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
}
