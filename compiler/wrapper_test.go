package compiler_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wrapped is a compiler that is no script: it runs gcc, and then the shell command in HOOK, which has the first argument in STEP.
const wrapped = `#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
	int status = 0;
	char *hook = getenv("HOOK");
	if (fork() == 0) {
		argv[0] = "gcc";
		execv(GCC, argv);
		_exit(127);
	}
	wait(&status);
	if (hook && argc > 1) {
		setenv("STEP", argv[1], 1);
		unsetenv("HOOK");
		if (system(hook) != 0)
			return 1;
	}
	return WEXITSTATUS(status);
}
`

// wrapper makes that compiler and returns its name.
func (u *user) wrapper() string {
	u.t.Helper()
	u.write("bin/wrapper.c", wrapped)
	if got := u.exec("gcc", "-DGCC=\""+gcc(u.t)+"\"", "bin/wrapper.c", "-o", "bin/gcc"); got.status != 0 {
		u.t.Fatal(got.stderr)
	}
	return filepath.Join(u.work, "bin/gcc")
}

func gcc(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestChangedBetween: a header changes after the preprocessor has read it and before the compiler does.
func TestChangedBetween(t *testing.T) {
	u := newUser(t, "SARSEN_CC_MODE=preprocess")
	compiler := u.wrapper()
	u.write("h.h", "#define V 1\n")
	u.write("x.c", "#include \"h.h\"\nint x = V;\n")
	first := *u
	first.env = append(u.env[:len(u.env):len(u.env)], "HOOK=case $STEP in -E) echo '#define V 2' > h.h; sleep 0.05;; esac")
	first.compile(compiler, "-c", "x.c", "-o", "x.o")
	u.write("h.h", "#define V 1\n")
	u.alike([]string{"x.o"}, compiler, "-c", "x.c", "-o", "x.o")
}

// TestChangedMeanwhile: a header that changes while the compiler runs was not what the compiler read.
func TestChangedMeanwhile(t *testing.T) {
	u := newUser(t)
	compiler := u.wrapper()
	u.write("h.h", "#define V 1\n")
	u.write("x.c", "#include \"h.h\"\nint x = V;\n")
	first := *u
	first.env = append(u.env[:len(u.env):len(u.env)], "HOOK=echo '#define V 2' > h.h")
	u.counts("miss.new not_stored.header_too_new", func() { first.compile(compiler, "-c", "x.c", "-o", "x.o") })
	u.alike([]string{"x.o"}, compiler, "-c", "x.c", "-o", "x.o")
}

// TestHiddenInHeader: what the preprocessor prints names a file that the assembler reads.
func TestHiddenInHeader(t *testing.T) {
	u := newUser(t, "SARSEN_CC_MODE=preprocess")
	u.write("h.h", "__asm__(\".incbin \\\"data\\\"\");\n")
	u.write("x.c", "#include \"h.h\"\nint x;\n")
	for _, data := range []string{"1", "2"} {
		u.write("data", data)
		u.alike([]string{"x.o"}, "gcc", "-c", "x.c", "-o", "x.o")
	}
}

// TestOneOutput: of two compiles that write one file at a time, neither is kept as what the other one wrote.
func TestOneOutput(t *testing.T) {
	u := newUser(t)
	compiler := u.wrapper()
	u.write("a.c", "int a;\n")
	u.write("b.c", "int b;\n")
	slow := *u // the compiler ends when the other one has written
	slow.env = append(u.env[:len(u.env):len(u.env)], "HOOK=: > ready; until [ -e go ]; do sleep 0.01; done")
	done := make(chan outcome)
	go func() { done <- slow.run(compiler, "-c", "a.c", "-o", "x.o") }()
	for {
		if _, err := os.Stat(filepath.Join(u.work, "ready")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	u.compile(compiler, "-c", "b.c", "-o", "x.o")
	u.write("go", "")
	<-done
	u.alike([]string{"x.o"}, compiler, "-c", "a.c", "-o", "x.o")
}

// TestCallsItself: a script with a compiler's name that calls sarsen cc by that name means the next one.
func TestCallsItself(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "int x;\n")
	u.write("bin/gcc", "#!/bin/sh\nexec '"+os.Args[0]+"' cc gcc \"$@\"\n")
	if err := os.Chmod(filepath.Join(u.work, "bin/gcc"), 0o777); err != nil {
		t.Fatal(err)
	}
	u.env = append(u.env, "PATH="+filepath.Join(u.work, "bin")+":"+os.Getenv("PATH"))
	for _, want := range []string{"miss.new", "hit.direct"} {
		u.counts(want+" pass.compiler_is_a_script", func() { u.compile("gcc", "-c", "x.c", "-o", "x.o") })
	}
}

// TestLauncherAsCompiler: a link with a compiler's name to another launcher is none: it has settings of its own.
func TestLauncherAsCompiler(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "int x;\n")
	if err := os.Rename(u.wrapper(), filepath.Join(u.work, "bin/ccache")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ccache", filepath.Join(u.work, "bin/gcc")); err != nil {
		t.Fatal(err)
	}
	u.counts("pass.compiler_unknown", func() { u.compile("bin/gcc", "-c", "x.c") })
}

// TestProcessDirectory: builds call their directory /proc/self/cwd so that results do not have its name.
func TestProcessDirectory(t *testing.T) {
	u := newUser(t)
	u.write("first/k", "")
	u.write("second/h.h", "#define V 1\n")
	u.write("x.c", "#include <h.h>\nint x = V;\n")
	argv := []string{"env", "PWD=/proc/self/cwd", os.Args[0], "cc", "gcc", "-g", "-Ifirst", "-Isecond", "-c", "x.c", "-o", "x.o"}
	u.counts("miss.new", func() { u.exec(argv[0], argv[1:]...) })
	u.counts("hit.direct", func() { u.exec(argv[0], argv[1:]...) })
	got := u.read("x.o")
	u.exec("env", append([]string{"PWD=/proc/self/cwd"}, argv[4:]...)...)
	if got != u.read("x.o") {
		t.Error("the object is not what the compiler alone writes")
	}
	u.counts("miss.new", func() { u.compile(argv[4:]...) })
	u.counts("pass.device", func() { u.compile("gcc", "-I/proc/self/cwd/first", "-Isecond", "-c", "x.c") })
}

// TestManySources: a response file may have more than a command line can.
func TestManySources(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "int x;\n")
	u.write("y.c", "int y;\n")
	u.write("rsp", strings.Repeat("-DNAME=0123456789012345678901234567890123456789012345678901234567890123456789\n", 40_000))
	u.alike([]string{"x.o", "y.o"}, "gcc", "-c", "@rsp", "x.c", "y.c")
	u.alike([]string{"x.o"}, "gcc", "-c", "@rsp", "x.c")
}

// TestGroup: the daemon's files have the daemon's group.
func TestGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root has another group")
	}
	u := newUser(t)
	u.write("x.c", "int x;\n")
	u.compile("gcc", "-c", "x.c")
	cmd := exec.Command(os.Args[0], "cc", "gcc", "-c", "x.c")
	cmd.Dir, cmd.Env = u.work, u.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Gid: 12}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(filepath.Join(u.work, "x.o"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Gid; got != 12 {
		t.Errorf("the object belongs to group %d, want 12", got)
	}
}

// TestComesMeanwhile: what comes after the compiler has looked for it was not what it found.
func TestComesMeanwhile(t *testing.T) {
	for _, c := range []struct{ name, text, hook string }{
		{"header", "#include <h.h>\nint x = V;\n", "echo '#define V 2' > first/h.h"},
		{"link", "#include <h.h>\nint x = V;\n", "ln -s ../other.h first/h.h"},
		{"probe", "#if __has_include(<o.h>)\nint x = 1;\n#endif\n", ": > first/o.h"},
		{"directory", "#include <h.h>\nint x = V;\n", "rm -r file; mkdir file; echo '#define V 2' > file/h.h"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			compiler := u.wrapper()
			u.write("first/k", "")
			u.write("file", "")
			u.write("other.h", "#define V 3\n")
			u.write("second/h.h", "#define V 1\n")
			u.write("x.c", c.text)
			argv := []string{compiler, "-w", "-Ifirst", "-Ifile", "-Isecond", "-c", "x.c", "-o", "x.o"}
			first := *u
			first.env = append(u.env[:len(u.env):len(u.env)], "HOOK="+c.hook)
			first.compile(argv...)
			u.write("stamp", "")
			u.alike([]string{"x.o"}, argv...)
		})
	}
}

// TestKeyChanges: a file that is in the key changes while the compiler runs, which may have read either.
func TestKeyChanges(t *testing.T) {
	u := newUser(t, "SARSEN_CC_EXTRA_FILES=extra")
	compiler := u.wrapper()
	u.write("x.c", "int x;\n")
	u.write("extra", "1")
	first := *u
	first.env = append(u.env[:len(u.env):len(u.env)], "HOOK=echo 2 > extra")
	first.compile(compiler, "-c", "x.c")
	u.write("extra", "1")
	u.counts("miss.new", func() { u.compile(compiler, "-c", "x.c") })
}
