//go:build crash && linux

package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A disk is an ext4 file system whose image can be cloned at any instant: the image is a file on XFS,
// which shares blocks between a file and its clone. The clone holds what the file system had written
// when it was made, as a disk does whose power is cut, and not what the kernel still had in memory.
// It keeps the order in which writes came; it does not reorder them as a disk's own cache may.
type disk struct {
	dir   string // where all of it is
	outer string // where the XFS is mounted
	live  string // where the ext4 is mounted
	after string // where clones of it are mounted
}

// newDisk makes a disk in dir, which goes with the test.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	d := &disk{dir, filepath.Join(dir, "outer"), filepath.Join(dir, "live"), filepath.Join(dir, "after")}
	for _, name := range []string{d.outer, d.live, d.after} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { d.release(t) })
	steps := [][]string{
		{"truncate", "-s", "8G", dir + "/outer.img"},
		{"mkfs.xfs", "-q", "-m", "reflink=1", dir + "/outer.img"},
		{"mount", "-o", "loop", dir + "/outer.img", d.outer},
		{"truncate", "-s", "3G", d.image()},
		{"mkfs.ext4", "-q", d.image()},
		{"mount", "-o", "loop,commit=5", d.image(), d.live},
	}
	for _, step := range steps {
		if err := execute(step...); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *disk) image() string { return filepath.Join(d.outer, "live.img") }
func (d *disk) clone() string { return filepath.Join(d.outer, "after.img") }

// evidence is a clone of the clone that nobody mounts.
func (d *disk) evidence() string { return filepath.Join(d.outer, "evidence.img") }

// cut clones the image as it is at this instant.
func (d *disk) cut() error { return clone(d.image(), d.clone()) }

// clone makes the file named to share all blocks with the file named from, in one step.
func clone(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err != nil {
		return fmt.Errorf("clone %s: %w", from, err)
	}
	return nil
}

// boot mounts the clone; ext4 replays its journal.
func (d *disk) boot() error { return execute("mount", "-o", "loop", d.clone(), d.after) }

// discard unmounts the clone and removes it.
func (d *disk) discard() error {
	if err := unmount(d.after); err != nil {
		return err
	}
	return os.Remove(d.clone())
}

// release unmounts everything, whatever state it is in, and sees that the loop devices are free.
func (d *disk) release(t *testing.T) {
	for _, name := range []string{d.after, d.live, d.outer} {
		if mounted(name) {
			if err := unmount(name); err != nil {
				t.Error(err)
			}
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		// The kernel frees a device a moment after the last use of it.
		out, err := exec.Command("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").Output()
		if err == nil && !strings.Contains(string(out), d.dir) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("loop devices are left (%v):\n%s", err, out)
			return
		}
	}
}

// unmount unmounts a directory. A server that was just killed may hold it a moment longer.
func unmount(name string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(name, 0)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			if err != nil {
				err = fmt.Errorf("unmount %s: %w", name, err)
			}
			return err
		}
	}
}

func mounted(name string) bool {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(mounts), " "+name+" ")
}

// execute runs a program and returns what it says if it fails.
func execute(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// needDisk skips the test, loudly, where it can't run. On CI it fails there: a test that is skipped
// unseen is worth nothing.
func needDisk(t *testing.T) {
	t.Helper()
	why := noNamespace()
	if why == nil {
		_, why = os.Stat("/dev/loop-control")
	}
	if why == nil {
		why = errors.Join(install("mkfs.xfs", "xfsprogs"), install("mkfs.ext4", "e2fsprogs"))
	}
	if why == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this has to run on CI and can't: %v", why)
	}
	fmt.Fprintf(os.Stderr, "\n*** %s SKIPPED, no power was cut: %v\n\n", t.Name(), why)
	t.Skipf("can't run here: %v", why)
}

// install installs the Debian package that has a program, if that is missing.
func install(program, name string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s is missing and there is no apt-get; install %s", program, name)
	}
	const options = "-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 -qq"
	script := fmt.Sprintf("export DEBIAN_FRONTEND=noninteractive; apt-get %[1]s update && apt-get %[1]s install -y --no-install-recommends %[2]s", options, name)
	return execute("sh", "-c", script)
}
