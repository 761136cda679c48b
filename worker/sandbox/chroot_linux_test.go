//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// system makes a directory with programs of the host and the libraries that they need, which is what roots are made of.
func system(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	copyFile := func(from, to string) {
		if _, err := os.Lstat(filepath.Join(dir, to)); err == nil {
			return
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, to), string(text), 0o555)
	}
	for _, name := range programs {
		from, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		copyFile(from, "bin/"+filepath.Base(name))
		out, _ := exec.Command("ldd", from).Output() // it fails for what needs no libraries
		for field := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(field, "/") {
				copyFile(field, field)
			}
		}
	}
	return dir
}

// stageSystem makes the root of s as the worker does: directories of its own, and in them links to shared files.
func stageSystem(t *testing.T, s *Spec, system string) {
	t.Helper()
	if out, err := exec.Command("cp", "-al", system+"/.", s.Root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func inSystem(t *testing.T, system, script string) Spec {
	t.Helper()
	s := newSpec(t, "sh", "-c", script)
	s.Env = []string{"PATH=/bin"}
	stageSystem(t, &s, system)
	return s
}

// beginChroot fails where there is a sandbox, and none in which the action's root is /.
func beginChroot(t *testing.T) *Runner {
	t.Helper()
	begin(t, Options{})
	r, err := Start(Options{Mode: Strict, Chroot: true, Dir: t.TempDir(), User: hostileUser})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func topNames(t *testing.T, root *os.Root) []string {
	t.Helper()
	d, err := root.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestChroot has what an action with a root of its own may do, and what it may not.
func TestChroot(t *testing.T) {
	r := beginChroot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := system(t, "sh", "cat", "chmod", "chown", "cp", "env", "grep", "head", "id", "ln", "ls", "mkdir", "mknod", "mv", "rm", "rmdir", "stat", "touch", "tr", self)
	if err := os.Rename(filepath.Join(dir, "bin", filepath.Base(self)), filepath.Join(dir, "bin", "attempt")); err != nil {
		t.Fatal(err)
	}
	for _, h := range append(chrootUses(), chrootAbuses()...) {
		t.Run(h.name, func(t *testing.T) {
			s := inSystem(t, dir, h.script)
			before := listed(t, s.Root)
			if h.attempt != "" {
				s.Args, s.Env = []string{"attempt"}, append(s.Env, "SANDBOX_TEST_HELPER="+h.attempt)
			}
			if h.prepare != nil {
				h.prepare(t, &s)
				before = listed(t, s.Root)
			}
			got := run(t, r, s)
			if h.code >= 0 && got.ExitCode != h.code || h.stdout != "*" && got.stdout != h.stdout {
				t.Errorf("got %d, %q, want %d, %q; standard error: %q", got.ExitCode, got.stdout, h.code, h.stdout, got.stderr)
			}
			if h.check != nil {
				h.check(t, got)
			} else if after := topNames(t, got.Root); !slices.Equal(after, before) {
				t.Errorf("the root: got %v, want %v as before", after, before)
			}
			if after := run(t, r, inSystem(t, dir, "echo healthy")); after.stdout != "healthy\n" {
				t.Errorf("after it: got %+v, want a healthy runner", after)
			}
			if os.Geteuid() == 0 {
				if left := belongingTo(t, hostileUser); len(left) > 0 {
					t.Errorf("processes outlive the action: %v", left)
				}
			}
		})
	}
}

func listed(t *testing.T, dir string) []string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return topNames(t, root)
}

// chrootUses are what a build in a root of its own relies on.
func chrootUses() []hostile {
	input := func(t *testing.T, s *Spec) { store(t, s) }
	return []hostile{
		{name: "sees its root and no other", script: "test ! -e /work && test ! -e /etc && cat /proc/1/comm >/dev/null && ls -A /tmp /dev/shm", stdout: "/dev/shm:\n\n/tmp:\n"},
		{name: "has devices", script: "echo x >/dev/null && head -c 1 /dev/zero | tr '\\0' z && test -c /dev/urandom", stdout: "z"},
		{name: "looks like root", script: "id -u; id -g; stat -c %u:%g / /bin /bin/sh", stdout: "0\n0\n0:0\n0:0\n0:0\n"},
		{name: "is found in PATH", script: "echo ran", stdout: "ran\n", prepare: func(t *testing.T, s *Spec) {
			if err := os.Rename(filepath.Join(s.Root, "bin"), filepath.Join(s.Root, "programs")); err != nil {
				t.Fatal(err)
			}
			s.Env = []string{"PATH=/nowhere:/programs"}
		}},
		{name: "is found without PATH", script: "echo ran", stdout: "ran\n", prepare: func(_ *testing.T, s *Spec) { s.Env = nil }},
		{name: "is not found on the host", script: "true", code: 127, prepare: func(t *testing.T, s *Spec) {
			s.Args = []string{"ldd"}
			s.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin"}
		}},
		{name: "absolute links lead into the root", script: "cat /etc/links/to/file", stdout: "inside", prepare: func(t *testing.T, s *Spec) {
			writeFile(t, filepath.Join(s.Root, "opt/real/to/file"), "inside", 0o444)
			link(t, "/opt/real", filepath.Join(s.Root, "etc/links"))
		}},
		{name: "the working directory is an absolute link", script: "cat file", stdout: "inside", prepare: func(t *testing.T, s *Spec) {
			writeFile(t, filepath.Join(s.Root, "opt/real/file"), "inside", 0o444)
			link(t, "/opt/real", filepath.Join(s.Root, "work"))
			s.Dir = "work"
		}},
		{name: "changes inputs in place", script: "cat input >other && echo more >>input && chmod 755 input && touch -d 1980-01-01 input && cat input", stdout: "sharedmore\n",
			prepare: input, check: unchanged},
		{name: "copies with owners", script: "cp -a input copy && chown 7:7 copy && ln input link && mv link moved && cat copy moved", stdout: "sharedshared", prepare: input, check: unchanged},
		{name: "makes files in the root", script: "mkdir -p /install/usr && echo made >/install/usr/file", check: func(t *testing.T, got result) {
			if text, err := got.Root.ReadFile("install/usr/file"); err != nil || string(text) != "made\n" {
				t.Errorf("got %q, %v, want what was made", text, err)
			}
		}},
		{name: "the root's own /tmp comes back as it was", script: "echo x >/tmp/x; ls /tmp", stdout: "x\n", prepare: func(t *testing.T, s *Spec) {
			writeFile(t, filepath.Join(s.Root, "tmp/input"), "input", 0o444)
		}, check: func(t *testing.T, got result) {
			d, err := got.Root.OpenRoot("tmp")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if names := topNames(t, d); !slices.Equal(names, []string{"input"}) {
				t.Errorf("got %v, want the input", names)
			}
			if _, err := got.Root.Lstat("proc"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("/proc, which was no input: got %v, want %v", err, os.ErrNotExist)
			}
		}},
	}
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// chrootAbuses are attempts to leave the root, to harm what others share, or to be the root that one looks like.
func chrootAbuses() []hostile {
	outside := func(t *testing.T, s *Spec) {
		name := filepath.Join(filepath.Dir(s.Root), "secret")
		writeFile(t, name, secret, 0o644)
		link(t, name, filepath.Join(s.Root, "absolute"))
		link(t, "../secret", filepath.Join(s.Root, "relative"))
		s.Env = append(s.Env, "OUTSIDE="+name)
	}
	return []hostile{
		{name: "follows links out of the root", script: "cat /absolute /relative $OUTSIDE /../secret /proc/1/root$OUTSIDE /proc/self/root/../secret; cd /..; cat secret; exit 0", prepare: outside},
		{name: "removes its mount points", script: "cd /; rm -rf proc dev tmp; mv tmp away; mv proc /bin/; rmdir dev; ln -s / tmp/root; exit 0"},
		{name: "replaces its mount points", script: "mkdir other; mv -T other tmp; ln -sfn /bin tmp; rmdir other; rm -f tmp/bin; exit 0"},
		{name: "writes devices and settings", script: "for f in /dev/x /proc/x /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward /proc/sys/vm/overcommit_memory /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do echo 1 >$f && echo $f; done 2>/dev/null; exit 0"},
		{name: "makes devices", script: "mknod disk b 254 0 && echo block; mknod null c 1 3 && echo char; exit 0"},
		{name: "makes a setuid program", script: "cp /bin/id out && chmod 6755 out && ./out -u; rm out", stdout: "0\n"},
		{name: "has capabilities", script: "grep -E '^(NoNewPrivs|Seccomp|CapEff|CapPrm|CapInh|CapBnd|CapAmb):' /proc/self/status | tr '\\n\\t' '  '",
			stdout: "CapInh: 0000000000000000 CapPrm: 0000000000000002 CapEff: 0000000000000002 CapBnd: 0000000000000002 CapAmb: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 "},
		{name: "reads init", script: "for f in mem maps environ fd/0 exe; do cat /proc/1/$f && echo $f; done 2>/dev/null; exit 0"},
		{name: "finds descriptors", script: "exec ls /proc/self/fd", stdout: "0\n1\n2\n3\n"},
		{name: "finds mounts of the host", script: "while read -r _ _ _ _ at _; do case $at in / | /dev | /dev/* | /proc | /tmp) ;; *) echo $at ;; esac; done </proc/self/mountinfo"},
		{name: "mounts", attempt: "mount", stdout: "EPERM EPERM EPERM EPERM"},
		{name: "makes namespaces", attempt: "namespaces", stdout: "EPERM EPERM EPERM ENOSYS"},
		{name: "traces init", attempt: "ptrace", stdout: "EPERM"},
		{name: "reaches the network", attempt: "dial", prepare: func(t *testing.T, s *Spec) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			s.Args = append(s.Args, l.Addr().String(), "169.254.169.254:80")
		}, stdout: "ECONNREFUSED ENETUNREACH"},
	}
}

// TestChrootPlaces has roots in which something would be mounted somewhere else: they are refused, and nothing is.
func TestChrootPlaces(t *testing.T) {
	r := beginChroot(t)
	dir := system(t, "sh")
	for _, name := range places {
		outside := t.TempDir()
		for _, target := range []string{outside, "bin", "/bin", "nowhere"} {
			s := inSystem(t, dir, "echo ran")
			link(t, target, filepath.Join(s.Root, name))
			if _, err := r.Run(t.Context(), s); !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), "/"+name) {
				t.Errorf("%s -> %s: got %v, want %v and the name", name, target, err, ErrSpec)
			}
		}
		s := inSystem(t, dir, "echo ran")
		writeFile(t, filepath.Join(s.Root, name), "file", 0o444)
		if _, err := r.Run(t.Context(), s); !errors.Is(err, ErrSpec) {
			t.Errorf("%s is a file: got %v, want %v", name, err, ErrSpec)
		}
		if names := listed(t, outside); len(names) > 0 {
			t.Errorf("%s: got %v outside of the root, want nothing", name, names)
		}
	}
	if got := run(t, r, inSystem(t, dir, "echo healthy")); got.stdout != "healthy\n" {
		t.Errorf("after it: got %+v, want a healthy runner", got)
	}
}

func TestChrootNeedsNamespaces(t *testing.T) {
	if _, err := Start(Options{Mode: None, Chroot: true}); err == nil || !strings.Contains(err.Error(), "chroot needs namespaces") {
		t.Errorf("got %v, want an error that says what is needed", err)
	}
}
