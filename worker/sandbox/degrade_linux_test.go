//go:build amd64 || arm64

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestNoNamespaces starts runners where no user namespace can be had: auto says what is missing and runs all the same,
// strict refuses with the same words.
func TestNoNamespaces(t *testing.T) {
	if os.Getenv("SANDBOX_TEST_NO_NAMESPACES") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestNoNamespaces$", "-test.v")
		cmd.Env = append(os.Environ(), "SANDBOX_TEST_NO_NAMESPACES=1", "TMPDIR="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Skipf("SKIPPED: this needs one user namespace to forbid others in: %v", err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	r := begin(t, Options{Mode: Auto})
	lacks := r.Lacks()
	if len(lacks) == 0 || !strings.Contains(strings.Join(lacks, "; "), "no space left on device") {
		t.Errorf("got %q, want sentences with the reason", lacks)
	}
	if got := run(t, r, newSpec(t, "/bin/echo", "hello")); got.stdout != "hello\n" {
		t.Errorf("got %+v", got)
	}
	if _, err := Start(Options{Mode: Strict}); err == nil {
		t.Error("strict: got no error")
	}
	if _, err := Start(Options{Mode: Auto, Chroot: true}); err == nil || !strings.Contains(err.Error(), "chroot needs namespaces") {
		t.Errorf("chroot: got %v, want an error that says what is needed", err)
	}
}

func TestModes(t *testing.T) {
	if _, err := Start(Options{Mode: "some"}); err == nil {
		t.Error("got no error for a mode that there is not")
	}
	if lacks := begin(t, Options{Mode: None}).Lacks(); len(lacks) != 0 {
		t.Errorf("none: got %q, want no complaints", lacks)
	}
}

// TestCgroup plays the kernel's part with a directory.
func TestCgroup(t *testing.T) {
	dir := t.TempDir()
	if _, err := newCgroup(dir); err == nil {
		t.Error("a directory that is no group: got no error")
	}
	writeFile(t, filepath.Join(dir, "cgroup.controllers"), "io\n", 0o644)
	if _, err := newCgroup(dir); err == nil || !strings.Contains(err.Error(), "no controller memory and no pids and no cpu") {
		t.Errorf("got %v, want the names of the controllers", err)
	}
	writeFile(t, filepath.Join(dir, "cgroup.controllers"), "cpu io pids\n", 0o644)
	some, err := newCgroup(dir)
	if err != nil || some.lacks() == nil || !strings.HasSuffix(some.lacks().Error(), "no controller memory") {
		t.Fatalf("got %v, lacking %v, want a group without the controller memory", err, some.lacks())
	}
	g, err := some.child(&Spec{Memory: 1 << 30, CPU: 1.5, Pids: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "memory.max")); err == nil {
		t.Error("there is a limit of memory, for which there is no controller")
	}
	if got := read(t, filepath.Join(g.dir, "pids.max")); got != "101" {
		t.Errorf("pids.max: got %q, want 101", got)
	}
	if err := os.RemoveAll(some.dir); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "cgroup.controllers"), "cpu io memory pids\n", 0o644)
	c, err := newCgroup(dir)
	if err != nil {
		t.Fatal(err)
	}
	if g, err = c.child(&Spec{Memory: 1 << 30, CPU: 1.5, Pids: 100}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory.max": "1073741824", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "150000 100000", "pids.max": "101"} {
		if got := read(t, filepath.Join(g.dir, name)); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for text, want := range map[string]bool{"low 0\noom 0\noom_kill 0\n": false, "oom 1\noom_kill 3\n": true} {
		writeFile(t, filepath.Join(g.dir, "memory.events"), text, 0o644)
		if got := g.outOfMemory(); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
	g.remove()
	if got := read(t, filepath.Join(g.dir, "cgroup.kill")); got != "1" {
		t.Errorf("cgroup.kill: got %q", got)
	}
	if _, err := newCgroup(filepath.Join(dir, fmt.Sprintf("sarsen-%d", os.Getpid()))); err == nil {
		t.Error("a group without controllers: got no error")
	}
}
