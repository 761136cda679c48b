package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// both runs a test in a sandbox and without one.
func both(t *testing.T, f func(t *testing.T, r *Runner)) {
	t.Helper()
	for _, mode := range []Mode{Strict, None} {
		t.Run(string(mode), func(t *testing.T) { f(t, begin(t, Options{Mode: mode})) })
	}
}

// TestLogLost: a command whose output can't be kept has no outcome, since what it printed belongs to that.
func TestLogLost(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/echo", "hello")
		s.Stdout = filepath.Join(s.Stdout, "below nothing")
		if out, err := r.Run(context.Background(), s); err == nil {
			t.Errorf("got %+v, want an error", out)
		}
		s = newSpec(t, "/bin/echo", "hello")
		if got := run(t, r, s); got.stdout != "hello\n" {
			t.Errorf("the next one: %q, want hello", got.stdout)
		}
		if _, err := os.Stat(s.Stderr); err == nil {
			t.Error("there is a file for standard error, to which nothing was written")
		}
	})
}

func TestEnds(t *testing.T) {
	notExecutable := func(t *testing.T, s *Spec) {
		writeFile(t, filepath.Join(s.Root, "text"), "no program", 0o644)
	}
	for _, c := range []struct {
		name    string
		args    []string
		prepare func(t *testing.T, s *Spec)
		code    int
		stdout  string
		stderr  string // part of it
	}{
		{name: "output", args: []string{"/bin/echo", "hello"}, stdout: "hello\n"},
		{name: "name in PATH", args: []string{"echo", "hello"}, stdout: "hello\n"},
		{name: "code", args: []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, code: 3, stdout: "out\n", stderr: "err\n"},
		{name: "signal", args: []string{"/bin/sh", "-c", "kill -KILL $$"}, code: 137},
		{name: "another signal", args: []string{"/bin/sh", "-c", "kill -SEGV $$"}, code: 139},
		{name: "no such command", args: []string{"nothing-like-it"}, code: 127, stderr: "nothing-like-it: command not found"},
		{name: "no such file", args: []string{"./nothing"}, code: 127, stderr: "./nothing: command not found"},
		{name: "not executable", args: []string{"./text"}, prepare: notExecutable, code: 126, stderr: "./text: can't be executed: permission denied"},
		{name: "a directory", args: []string{"/usr"}, code: 126, stderr: "can't be executed"},
		{name: "no standard input", args: []string{"/bin/cat"}},
		{name: "no standard input by its name", args: []string{"/bin/sh", "-c", "cat </dev/stdin"}},
		{name: "environment", args: []string{"env"}, prepare: func(_ *testing.T, s *Spec) { s.Env = []string{"B=2", "PATH=/usr/bin:/bin", "A=x y"} },
			stdout: "B=2\nPATH=/usr/bin:/bin\nA=x y\n"},
		{name: "no environment", args: []string{"/usr/bin/env"}, prepare: func(_ *testing.T, s *Spec) { s.Env = nil }},
		{name: "working directory", args: []string{"/bin/cat", "file"}, stdout: "here", prepare: func(t *testing.T, s *Spec) {
			s.Dir = "a/b"
			writeFile(t, filepath.Join(s.Root, "a/b/file"), "here", 0o444)
		}},
		{name: "program in the root", args: []string{"./run.sh"}, stdout: "ran\n", prepare: func(t *testing.T, s *Spec) {
			writeFile(t, filepath.Join(s.Root, "run.sh"), "#!/bin/sh\necho ran\n", 0o555)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, r *Runner) {
				s := newSpec(t, c.args...)
				if c.prepare != nil {
					c.prepare(t, &s)
				}
				got := run(t, r, s)
				if got.ExitCode != c.code || got.stdout != c.stdout || !strings.Contains(got.stderr, c.stderr) {
					t.Errorf("got %d, %q, %q, want %d, %q, %q", got.ExitCode, got.stdout, got.stderr, c.code, c.stdout, c.stderr)
				}
			})
		})
	}
}

func writeFile(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestOutputsAreSeen(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/sh", "-c", "mkdir -p out/deep && echo made > out/deep/file && cat in > copy && rm in")
		writeFile(t, filepath.Join(s.Root, "in"), "input", 0o444)
		got := run(t, r, s)
		for name, want := range map[string]string{"out/deep/file": "made\n", "copy": "input"} {
			text, err := got.Root.ReadFile(name)
			if err != nil || string(text) != want {
				t.Errorf("%s: got %q, %v, want %q", name, text, err, want)
			}
		}
		if _, err := got.Root.Stat("in"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a removed input: got %v, want %v", err, os.ErrNotExist)
		}
	})
}

// TestTooLong: a command that is longer than anything that can be executed is refused or not found, and the runner, which runs
// others, lives.
func TestTooLong(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		before := r.process
		s := newSpec(t, append([]string{"/bin/echo"}, slices.Repeat([]string{strings.Repeat("\x01", 100<<10)}, 120)...)...)
		if _, err := r.Run(t.Context(), s); !errors.Is(err, ErrSpec) {
			t.Errorf("12 MiB of arguments: got %v, want %v", err, ErrSpec)
		}
		s = newSpec(t, strings.Repeat("n", 1<<20))
		s.Env = []string{"PATH=" + strings.Repeat("d:", 1<<20)}
		if got := run(t, r, s); got.ExitCode != 126 && got.ExitCode != 127 {
			t.Errorf("a million names of a mebibyte: got %+v, want 126 or 127", got.Outcome)
		}
		if got := shell(t, r, "echo healthy"); got.stdout != "healthy\n" || r.process != before {
			t.Errorf("after it: got %+v, same runner: %v", got, r.process == before)
		}
	})
}

func TestBadSpecs(t *testing.T) {
	r := begin(t, Options{Mode: None})
	for name, change := range map[string]func(*Spec){
		"no arguments":    func(s *Spec) { s.Args = nil },
		"empty name":      func(s *Spec) { s.Args = []string{""} },
		"zero byte":       func(s *Spec) { s.Args = append(s.Args, "a\x00b") },
		"not UTF-8":       func(s *Spec) { s.Env = []string{"A=\xff"} },
		"leaves the root": func(s *Spec) { s.Dir = "../.." },
		"absolute":        func(s *Spec) { s.Dir = "/etc" },
		"relative root":   func(s *Spec) { s.Root = "root" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpec(t, "/bin/true")
			change(&s)
			if _, err := r.Run(t.Context(), s); !errors.Is(err, ErrSpec) {
				t.Errorf("got %v, want %v", err, ErrSpec)
			}
		})
	}
}

func TestNoDirectory(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/true")
		s.Dir = "not/there"
		if _, err := r.Run(t.Context(), s); err == nil || !strings.Contains(err.Error(), "not/there") {
			t.Errorf("got %v, want an error that names the directory", err)
		}
	})
}

func TestTimeout(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/sh", "-c", "trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.01; done")
		s.Timeout = 300 * time.Millisecond
		got := run(t, r, s)
		if !got.TimedOut || got.Killed != "timeout" || got.ExitCode != 5 || got.stdout != "begun\nbye\n" {
			t.Errorf("got %+v, %q, want a timeout, exit 5 and all output", got.Outcome, got.stdout)
		}
		if took := got.End.Sub(got.Start); took < s.Timeout {
			t.Errorf("got %v, want at least %v", took, s.Timeout)
		}
	})
}

func TestCancel(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("nobody wants it")
		s := newSpec(t, "/bin/sh", "-c", "echo begun; sleep 100")
		go func() {
			for text, _ := os.ReadFile(s.Stdout); len(text) == 0; text, _ = os.ReadFile(s.Stdout) {
				time.Sleep(time.Millisecond)
			}
			cancel(why)
		}()
		out, err := r.Run(ctx, s)
		if !errors.Is(err, why) || out.Killed != "cancelled" || out.ExitCode != 137 || read(t, s.Stdout) != "begun\n" {
			t.Errorf("got %+v, %v, %q", out, err, read(t, s.Stdout))
		}
	})
}

func TestUsage(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done")
		got := run(t, r, s)
		if got.Usage.User <= 0 || got.Usage.MaxRSS < 100<<10 || got.Usage.Stdout != 5 {
			t.Errorf("got %+v, want time, memory and five bytes", got.Usage)
		}
	})
}

func TestNetworkIfAsked(t *testing.T) {
	r := begin(t, Options{})
	for _, network := range []bool{false, true} {
		s := newSpec(t, "/bin/cat", "/proc/net/dev")
		s.Network = network
		host, err := os.ReadFile("/proc/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(run(t, r, s).stdout, ":"), strings.Count(string(host), ":"); network && got != want || !network && got != 1 {
			t.Errorf("network %v: got %d interfaces, the host has %d", network, got, want)
		}
	}
}

func TestHides(t *testing.T) {
	r := begin(t, Options{Hides: []string{"/etc/hostname", "/usr/share"}})
	got := shell(t, r, "cat /etc/hostname; ls /usr/share")
	if got.ExitCode != 0 || got.stdout != "" {
		t.Errorf("got %d, %q, want nothing", got.ExitCode, got.stdout)
	}
}

func TestBinds(t *testing.T) {
	dir := filepath.Join("/opt", "sandbox-test-binds")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("SKIPPED: a directory in /opt is needed: %v", err)
	}
	defer os.RemoveAll(dir)
	writeFile(t, filepath.Join(dir, "file"), "bound", 0o644)
	r := begin(t, Options{Binds: []string{dir}})
	if got := shell(t, r, "cat "+dir+"/file; touch "+dir+"/new"); got.stdout != "bound" || got.ExitCode == 0 {
		t.Errorf("got %d, %q, want the file, and no new one", got.ExitCode, got.stdout)
	}
}

// TestRunnerKilled kills the runner in the middle: the action dies with it, and the next one runs.
func TestRunnerKilled(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		s := newSpec(t, "/bin/sh", "-c", "echo begun; exec sleep 3600.5")
		go func() {
			for text, _ := os.ReadFile(s.Stdout); len(text) == 0; text, _ = os.ReadFile(s.Stdout) {
				time.Sleep(time.Millisecond)
			}
			_ = r.process.cmd.Process.Kill()
		}()
		if _, err := r.Run(t.Context(), s); !errors.Is(err, ErrRunnerDied) {
			t.Fatalf("got %v, want %v", err, ErrRunnerDied)
		}
		for slices.Contains(commands(t), "sleep 3600.5") {
			time.Sleep(time.Millisecond) // the kernel kills it, some time; a test that hangs here fails
		}
		if got := run(t, r, newSpec(t, "/bin/echo", "again")); got.stdout != "again\n" {
			t.Errorf("got %+v", got)
		}
	})
}

// TestNothingLeft: without a sandbox, too, what a command leaves behind dies with it. What sleeps when it is killed
// never says that it is alive.
func TestNothingLeft(t *testing.T) {
	r := begin(t, Options{Mode: None})
	s := newSpec(t, "/bin/sh", "-c")
	script := "mkfifo gate; (read x < gate; echo alive > late) & echo done # for " + s.Root // which nobody else's says
	s.Args = append(s.Args, script)
	got := run(t, r, s)
	if got.stdout != "done\n" {
		t.Errorf("got %+v", got)
	}
	gate, err := os.OpenFile(filepath.Join(got.root, "gate"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	if _, err := gate.WriteString("x\n"); err != nil {
		t.Fatal(err)
	}
	for slices.Contains(commands(t), "/bin/sh -c "+script) {
		time.Sleep(time.Millisecond) // the kernel kills it, some time; a test that hangs here fails
	}
	if text, err := os.ReadFile(filepath.Join(got.root, "late")); err == nil {
		t.Errorf("a process that was left behind wrote %q", text)
	}
}

// TestProgramBusy executes a program that is still open for writing.
func TestProgramBusy(t *testing.T) {
	r := begin(t, Options{})
	s := newSpec(t, "./run")
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.Root, "run"), string(program), 0o755)
	f, err := os.OpenFile(filepath.Join(s.Root, "run"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = f.Close() })
	if got := run(t, r, s); got.ExitCode != 0 {
		t.Errorf("got %d, %q, want 0", got.ExitCode, got.stderr)
	}
}

// commands returns the command lines of all processes.
func commands(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil {
			lines = append(lines, strings.TrimRight(strings.ReplaceAll(string(text), "\x00", " "), " "))
		}
	}
	return lines
}

func TestClosed(t *testing.T) {
	r := begin(t, Options{Mode: None})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context(), newSpec(t, "/bin/true")); err == nil {
		t.Error("got no error after Close")
	}
}

// TestUnprivileged runs the other tests as a user who is not root, if root runs this one.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: these tests run without privileges already")
	}
	dir, err := os.MkdirTemp("", "sandbox-unprivileged-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const user = 61099
	program := filepath.Join(dir, "sandbox.test")
	if out, err := exec.Command("cp", self, program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.v", "-test.run", "^(TestEnds|TestOutputsAreSeen|TestTimeout|TestCancel|TestHostile|TestRunnerKilled|TestUsage|TestProgramBusy|TestChroot|TestChrootPlaces)$"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=/usr/bin:/bin"}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user %d: %v\n%s", user, err, out)
	}
	if strings.Contains(string(out), "SKIPPED: no strict sandbox") {
		t.Skipf("SKIPPED: a user who is not root can't have a strict sandbox here:\n%s", out)
	}
}
