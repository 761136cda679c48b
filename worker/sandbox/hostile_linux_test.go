//go:build amd64 || arm64

package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A hostile is one thing that an action tries. It is a shell script, or the name of an attempt (attempts_linux_test.go) that
// this test's own program makes inside, and prints what came of it.
type hostile struct {
	name    string
	script  string
	attempt string
	prepare func(t *testing.T, s *Spec)
	stdout  string // what it prints, all of it
	code    int    // -1: any
	check   func(t *testing.T, got result)
}

const secret = "a secret of the daemon"

// hostileUser is nobody else's, so that its processes can be counted.
const hostileUser = 61097

func TestHostile(t *testing.T) {
	t.Setenv("SANDBOX_SECRET", secret)
	if testing.Short() {
		t.Setenv("SANDBOX_SHORT", "1")
	}
	r := begin(t, Options{Temp: 64 << 20, Grace: 100 * time.Millisecond, User: hostileUser})
	hostiles := append(append(processes(), files()...), kernel()...)
	if len(hostiles) < 25 {
		t.Fatalf("got %d cases, want at least 25", len(hostiles))
	}
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			s := newSpec(t, "/bin/sh", "-c", h.script)
			if h.attempt != "" {
				self(t, &s, h.attempt)
			}
			if h.prepare != nil {
				h.prepare(t, &s)
			}
			got := run(t, r, s)
			if h.code >= 0 && got.ExitCode != h.code || h.stdout != "*" && got.stdout != h.stdout {
				t.Errorf("got %d, %q, want %d, %q; standard error: %q", got.ExitCode, got.stdout, h.code, h.stdout, got.stderr)
			}
			if h.check != nil {
				h.check(t, got)
			}
			if after := run(t, r, newSpec(t, "/bin/echo", "healthy")); after.ExitCode != 0 || after.stdout != "healthy\n" {
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

// belongingTo returns the command lines of a user's processes.
func belongingTo(t *testing.T, user int) []string {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), fmt.Sprintf("\nUid:\t%d\t", user)) {
			list = append(list, strings.SplitN(string(text), "\n", 2)[0])
		}
	}
	return list
}

// self makes the command this test's own program, which makes the attempt.
func self(t *testing.T, s *Spec, attempt string, more ...string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(program, filepath.Join(s.Root, "attempt")); err != nil {
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Root, "attempt"), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Args = append([]string{"./attempt"}, more...)
	s.Env = append(s.Env, "SANDBOX_TEST_HELPER="+attempt)
}

func soon(_ *testing.T, s *Spec) { s.Timeout = 500 * time.Millisecond }

func timedOut(t *testing.T, got result) {
	if !got.TimedOut {
		t.Errorf("got %+v, want a timeout", got.Outcome)
	}
}

// processes are attempts on processes: to be too many, to stay, to reach others.
func processes() []hostile {
	return []hostile{
		{name: "fork bomb", script: "f() { f | f & }; f; sleep 100", code: -1, stdout: "*",
			prepare: func(t *testing.T, s *Spec) { soon(t, s); s.Pids = 100 }, check: timedOut},
		{name: "as many processes as it wants", attempt: "processes", stdout: "EAGAIN",
			prepare: func(_ *testing.T, s *Spec) { s.Pids = 50 }},
		{name: "a daemon in a session of its own", script: "setsid sleep 3600 & setsid sh -c 'setsid sleep 3600 &' & sleep 0.1; echo done", stdout: "done\n"},
		{name: "a daemon that holds the output", script: "sleep 3600 & echo done", stdout: "done\n"},
		{name: "stops itself", script: "kill -STOP $$", prepare: soon, code: -1, check: timedOut},
		{name: "stops everything", script: "sleep 1000 & kill -STOP 0", prepare: soon, code: -1, check: timedOut},
		{name: "ignores SIGTERM", script: "trap '' TERM; while :; do sleep 0.05; done", prepare: soon, code: 137, check: timedOut},
		{name: "kills everything it sees", script: "kill -KILL 1; kill -TERM 1; sleep 0.1; echo alive; kill -KILL -1", stdout: "alive\n", code: -1},
		{name: "kills the daemon", script: "kill -KILL $DAEMON 2>/dev/null && echo killed; ls -d /proc/$DAEMON 2>/dev/null; exit 0", prepare: daemonNumber},
		{name: "reads the daemon's environment", script: "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c SANDBOX_SECRET; cat /proc/1/environ", stdout: "0\n", code: 1},
		{name: "reads init's memory", script: "for f in mem maps fd/0 root/ cwd/ exe; do cat /proc/1/$f 2>/dev/null && echo $f; ls /proc/1/$f/ 2>/dev/null; done; exit 0"},
		{name: "traces init", attempt: "ptrace", stdout: "EPERM"},
		{name: "pushes characters into a terminal", attempt: "terminal", stdout: "ENXIO EPERM"},
		{name: "finds descriptors", script: "exec ls /proc/self/fd", stdout: "0\n1\n2\n3\n"},
		{name: "closes its output", script: "exec >&- 2>&-; exit 3", code: 3},
		{name: "raises limits", attempt: "limits", stdout: "EPERM EPERM EPERM"},
		{name: "dumps core", script: "ulimit -c unlimited 2>/dev/null; kill -SEGV $$", code: 139, check: func(t *testing.T, got result) {
			if names, _ := filepath.Glob(got.root + "/*"); len(names) > 0 {
				t.Errorf("got %v, want no core", names)
			}
		}},
		{name: "memory bomb", attempt: "memory", code: -1, prepare: func(_ *testing.T, s *Spec) { s.Memory = 512 << 20 },
			check: func(t *testing.T, got result) {
				if got.ExitCode == 0 || got.Usage.MaxRSS > 600<<20 {
					t.Errorf("got %+v, want death within the limit", got.Outcome)
				}
			}},
		{name: "more arguments than can be", script: "true", code: 126, prepare: func(_ *testing.T, s *Spec) {
			s.Args = append(s.Args, strings.Repeat("x", 1<<20))
		}},
		{name: "endless output", script: "head -c 300000000 /dev/zero; echo end >&2", stdout: "*",
			prepare: func(_ *testing.T, s *Spec) { s.MaxLog = 1 << 20 },
			check: func(t *testing.T, got result) {
				if len(got.stdout) > 1<<20+100 || !strings.HasSuffix(got.stdout, "sarsen: output cut here, after 1048576 bytes\n") ||
					got.Usage.Stdout != 300000000 || got.stderr != "end\n" {
					t.Errorf("got %d bytes of %d, ending %q, want 1 MiB and a line", len(got.stdout), got.Usage.Stdout, got.stdout[max(0, len(got.stdout)-60):])
				}
			}},
	}
}

func daemonNumber(_ *testing.T, s *Spec) {
	s.Env = append(s.Env, fmt.Sprintf("DAEMON=%d", os.Getpid()))
}

// store makes an input as the worker does: a link to a file that other actions share.
func store(t *testing.T, s *Spec) {
	shared := filepath.Join(filepath.Dir(s.Root), "store", "blob")
	writeFile(t, shared, "shared", 0o444)
	if err := os.Link(shared, filepath.Join(s.Root, "input")); err != nil {
		t.Fatal(err)
	}
}

func unchanged(t *testing.T, got result) {
	shared := filepath.Join(got.dir, "store", "blob")
	info, err := os.Stat(shared)
	if err != nil || info.Mode() != 0o444 || read(t, shared) != "shared" {
		t.Errorf("the shared file: got %v, %v, %q", info.Mode(), err, read(t, shared))
	}
}

// files are attempts on files: inputs that others share, the host's, outputs that harm their reader.
func files() []hostile {
	outside := func(t *testing.T, s *Spec) {
		writeFile(t, filepath.Join(filepath.Dir(s.Root), "secret"), secret, 0o644)
		s.Env = append(s.Env, "OUTSIDE="+filepath.Dir(s.Root))
	}
	return []hostile{
		{name: "writes an input", script: "echo evil >> input; echo evil > input; exit 0", prepare: store, check: unchanged},
		{name: "makes an input writable", script: "chmod 777 input; echo evil >> input; exit 0", prepare: store, check: unchanged},
		{name: "writes through another link", script: "ln input other; chmod u+w other; echo evil >> other; exit 0", prepare: store, check: unchanged},
		{name: "touches and truncates an input", script: "touch -d 1980-01-01 input; truncate -s 0 input; chown 0 input; exit 0", prepare: store, check: unchanged},
		{name: "replaces an input", script: "rm -f input; echo evil > input; exit 0", prepare: store, check: unchanged},
		{name: "links out of the root", script: "ln -s $OUTSIDE/secret a; ln -s ../secret b; cat a b 2>/dev/null; ln -s /etc/passwd c", prepare: outside,
			check: func(t *testing.T, got result) {
				for _, name := range []string{"a", "b", "c"} {
					if text, err := got.Root.ReadFile(name); err == nil {
						t.Errorf("%s: got %q, want an error", name, text)
					}
				}
			}},
		{name: "reads another action's files", script: "cat $OUTSIDE/secret; ls $OUTSIDE /proc/1/root/tmp; cat /work/../secret; exit 0", prepare: outside},
		{name: "setuid output", script: "cp /bin/sh out && chmod 6755 out && ./out -p -c 'id -u'", stdout: "1000\n"},
		{name: "devices as outputs", script: "mknod disk b 254 0 2>/dev/null && echo block; mknod null c 1 3 2>/dev/null && echo char; mkfifo pipe && ls", stdout: "pipe\n"},
		{name: "a hundred thousand files", attempt: "files", stdout: "made", prepare: func(_ *testing.T, s *Spec) {
			s.Env = append(s.Env, "SANDBOX_SHORT="+os.Getenv("SANDBOX_SHORT"))
		}, check: func(t *testing.T, got result) {
			d, err := got.Root.Open("many")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if names, err := d.Readdirnames(-1); len(names) != manyFiles() {
				t.Errorf("got %d files, %v, want %d", len(names), err, manyFiles())
			}
		}},
		{name: "writes the system", script: "for f in /etc/x /usr/bin/x /x /bin/x /opt/x /var/x /dev/x /proc/x /sys/x /etc/passwd /empty/x; do echo > $f && echo $f; done 2>/dev/null; exit 0"},
		{name: "writes the kernel's settings", script: "for f in /proc/sys/kernel/hostname /proc/sys/vm/overcommit_memory /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do echo 1 > $f && echo $f; done 2>/dev/null; exit 0"},
		{name: "removes its root", script: "cd /; rmdir /work; mv /work /tmp/away; rm -rf /work/.; cd /work && touch still && ls", stdout: "still\n"},
		{name: "fills /tmp", script: "cat /dev/zero > /tmp/full; du -sm /tmp | cut -f1", stdout: "64\n"},
		{name: "finds what the last one left in /tmp", script: "ls -A /tmp /dev/shm /var/tmp", stdout: "/dev/shm:\n\n/tmp:\n\n/var/tmp:\n"},
		{name: "sees homes", script: "ls -A /root /home /run /srv /mnt /var/lib 2>/dev/null; exit 0", stdout: ""},
	}
}

// kernel are attempts on the kernel and the network.
func kernel() []hostile {
	return []hostile{
		{name: "reaches the network", attempt: "dial", prepare: func(t *testing.T, s *Spec) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			s.Args = append(s.Args, l.Addr().String(), "169.254.169.254:80", "1.1.1.1:53")
		}, stdout: "ECONNREFUSED ENETUNREACH ENETUNREACH"},
		{name: "has a loopback of its own", attempt: "loopback", stdout: "hello"},
		{name: "reaches an abstract socket", attempt: "abstract", stdout: "ECONNREFUSED", prepare: func(t *testing.T, s *Spec) {
			name := "@" + filepath.Base(filepath.Dir(s.Root)) + fmt.Sprint(os.Getpid())
			l, err := net.Listen("unix", name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			s.Args = append(s.Args, name)
		}},
		{name: "reaches an abstract socket with a network", attempt: "abstract", stdout: "EPERM", prepare: func(t *testing.T, s *Spec) {
			if v := testLandlock(); v < 6 {
				t.Skipf("SKIPPED: this needs version 6 of Landlock, here is %d", v)
			}
			name := "@network" + filepath.Base(filepath.Dir(s.Root)) + fmt.Sprint(os.Getpid())
			l, err := net.Listen("unix", name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			s.Args = append(s.Args, name)
			s.Network = true
		}},
		{name: "rare sockets", attempt: "sockets", stdout: "EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EPERM"},
		{name: "mounts", attempt: "mount", stdout: "EPERM EPERM EPERM EPERM"},
		{name: "makes namespaces", attempt: "namespaces", stdout: "EPERM EPERM EPERM ENOSYS"},
		{name: "rare calls", attempt: "calls", stdout: "EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM EPERM"},
		{name: "changes its user", attempt: "users", stdout: "EINVAL EPERM"},
		{name: "leaves shared memory", attempt: "memory segment", stdout: "made"},
		{name: "finds shared memory", attempt: "find memory segment", stdout: "ENOENT"},
		{name: "changes the hostname", script: "hostname evil 2>/dev/null; uname -n", stdout: hostname + "\n"},
		{name: "gains privileges", script: "grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status | tr '\\n\\t' '  '",
			stdout: "CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 "},
	}
}
