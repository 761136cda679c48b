package collect_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"golang.org/x/sys/unix"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/worker/collect"
)

const secret = "what no action may read"

// While outputs are collected, something swaps them with links to outside, with pipes and with each other,
// as fast as it can. Whatever comes of it, nothing from outside is stored, and a result is complete.
func TestSwappedWhileCollected(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, swap := range map[string]func(at string) error{
		"file by link":      func(at string) error { return os.Symlink(filepath.Join(outside, "f"), at+"/d/f") },
		"directory by link": func(at string) error { return os.Symlink(outside, at+"/d") },
		"parent by link":    func(at string) error { return os.Symlink(outside, at+"/p") },
		"file by pipe":      func(at string) error { return unix.Mkfifo(at+"/d/f", 0o600) },
		"directory by pipe": func(at string) error { return unix.Mkfifo(at+"/d", 0o600) },
		"file by directory": func(at string) error { return os.Mkdir(at+"/d/f", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "d/f inside", "p/f inside", "spare/")
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				r.swap(swap, stop)
			})
			refused, whole := 0, 0
			for range 400 {
				got, err := r.collect(&repb.Command{OutputPaths: []string{"d", "p/f"}}, collect.Options{})
				switch {
				case err == nil:
					whole++
					r.complete(got)
				case errors.Is(err, collect.ErrRefused):
					refused++
				default:
					t.Errorf("Collect = %v, want a result or ErrRefused", err)
				}
			}
			close(stop)
			wg.Wait()
			if r.holds(secret) {
				t.Error("bytes from outside of the root were stored")
			}
			t.Logf("%d results, %d refused", whole, refused)
		})
	}
}

// TestSwappedBeforeOpen: what was looked at is another thing when it is opened.
func TestSwappedBeforeOpen(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(outside, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(at string) error{
		"link": func(at string) error { return os.Symlink(outside, at) },
		"pipe": func(at string) error { return unix.Mkfifo(at, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "f inside")
			sim.Install(func(point string) {
				if point == "collect: looked at" {
					at := filepath.Join(r.dir, "f")
					if err := errors.Join(os.Remove(at), put(at)); err != nil {
						t.Error(err)
					}
				}
			})
			defer sim.Install(nil)
			_, err := r.collect(&repb.Command{OutputPaths: []string{"f"}}, collect.Options{})
			wantError(t, err, collect.ErrRefused, `"f"`)
			if r.holds(secret) {
				t.Error("bytes from outside of the root were stored")
			}
		})
	}
}

// swap moves one of the outputs away, puts another thing there, and takes it all back, again and again.
func (r *rig) swap(put func(at string) error, stop chan struct{}) {
	which := ""
	for _, name := range []string{"d/f", "d", "p"} {
		// The one that put can't make while it is there.
		os.Rename(filepath.Join(r.dir, name), filepath.Join(r.dir, "spare/x"))
		if err := put(r.dir); err == nil {
			which = name
			break
		}
		os.Rename(filepath.Join(r.dir, "spare/x"), filepath.Join(r.dir, name))
	}
	at, spare := filepath.Join(r.dir, which), filepath.Join(r.dir, "spare/x")
	for {
		// Exchanging is one step: there is always something.
		if err := unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, spare, unix.RENAME_EXCHANGE); err != nil {
			r.t.Errorf("swap %s: %v", which, err)
			return
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

func (r *rig) holds(content string) bool {
	missing, err := r.store.Missing(r.t.Context(), digest.SetOf(digest.SHA256.Of([]byte(content))))
	if err != nil {
		r.t.Fatal(err)
	}
	return missing.Len() == 0
}

// A file that is written while it is read is refused, or its digest is that of the bytes that are stored.
func TestWrittenWhileCollected(t *testing.T) {
	for _, size := range []int{100_000, 1 << 20} {
		r := newRig(t, "f ")
		f, err := os.OpenFile(filepath.Join(r.dir, "f"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		data := make([]byte, size)
		wg.Go(func() {
			for i := byte(0); ; i++ {
				for j := range data {
					data[j] = i
				}
				f.WriteAt(data, 0)
				f.Truncate(int64(size) - int64(i))
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		for range 50 {
			got, err := r.collect(&repb.Command{OutputPaths: []string{"f"}}, collect.Options{})
			if err == nil {
				r.complete(got)
			} else if !errors.Is(err, collect.ErrRefused) {
				t.Errorf("%d bytes: %v, want a result or ErrRefused", size, err)
			}
		}
		close(stop)
		wg.Wait()
	}
}
