package compiler_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFoundEarlier: a header that the compiler would find before the one it read makes another object, however the
// source came to its name.
func TestFoundEarlier(t *testing.T) {
	const ask = "#if HAS(<h.h>)\nint x = 2;\n#else\nint x = 1;\n#endif\n"
	for _, c := range []struct {
		name, source, include, first, later string
		flags                               []string
	}{
		{"computed", "src/x.c", "#define H \"h.h\"\n#include H\nint x = V;\n", "inc/h.h", "src/h.h", nil},
		{"import", "src/x.c", "#import \"h.h\"\nint x = V;\n", "inc/h.h", "src/h.h", nil},
		{"forced", "src/x.c", "int x = V;\n", "inc/h.h", "h.h", []string{"-include", "h.h"}},
		{"after a link", "link/x.c", "#include \"../h.h\"\nint x = V;\n", "inc/h.h", "real/h.h", []string{"-Iinc/sub"}},
		{"probe in a macro", "src/x.c", "#define HAS(x) __has_include(x)\n" + ask, "inc/other.h", "inc/h.h", nil},
		{"probe of a macro", "src/x.c", "#define N <h.h>\n#define HAS(x) __has_include(N)\n" + ask, "inc/other.h", "inc/h.h", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			u.write("real/deep/keep", "")
			u.write("inc/sub/keep", "")
			if err := os.Symlink("real/deep", filepath.Join(u.work, "link")); err != nil {
				t.Fatal(err)
			}
			u.write(c.first, "#define V 1\n")
			u.write(c.source, c.include)
			argv := append(append([]string{"-w"}, c.flags...), "-Iinc", "-c", c.source, "-o")
			u.compile(append([]string{"gcc"}, append(argv, "x.o")...)...)
			u.write(c.later, "#define V 2\n")
			u.compile(append([]string{"gcc"}, append(argv, "x.o")...)...)
			u.exec("gcc", append(argv, "want.o")...)
			if u.read("x.o") != u.read("want.o") {
				t.Errorf("the object is that of %s, want %s", c.first, c.later)
			}
		})
	}
}

// TestLinkedDirectory: a directory that was another one under a second name is one of its own afterwards.
func TestLinkedDirectory(t *testing.T) {
	u := newUser(t)
	u.write("a/keep", "")
	u.write("z/h.h", "#define V 1\n")
	u.write("c/h.h", "#define V 2\n")
	u.write("x.c", "#include <h.h>\nint x = V;\n")
	link := filepath.Join(u.work, "b")
	for i, to := range []string{"a", "c"} {
		if i > 0 {
			u.remove("b")
		}
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		u.write("stamp", "")
		u.compile("gcc", "-Ia", "-Ib", "-Iz", "-c", "x.c")
	}
	u.write("a/h.h", "#define V 3\n")
	u.compile("gcc", "-Ia", "-Ib", "-Iz", "-c", "x.c")
	u.exec("gcc", "-Ia", "-Ib", "-Iz", "-c", "x.c", "-o", "want.o")
	if u.read("x.o") != u.read("want.o") {
		t.Errorf("the object is that of a header which is found later")
	}
}

// TestSystemRoot: gcc names a system header without the link that led to it.
func TestSystemRoot(t *testing.T) {
	u := newUser(t)
	u.write("s1/usr/include/q.h", "#define V 1\n")
	u.write("s2/usr/include/q.h", "#define V 2\n")
	u.write("x.c", "#include <q.h>\nint x = V;\n")
	long := "a-name-that-is-longer-than-the-place-to-which-it-leads/because-only-then-is-it-left-out"
	u.write(long+"/keep", "")
	for _, flag := range []string{"--sysroot=" + filepath.Join(u.work, long, "root"), "-isystem" + filepath.Join(u.work, long, "root/usr/include")} {
		for _, to := range []string{"s1", "s2"} {
			os.Remove(filepath.Join(u.work, long, "root")) // it may not be there yet
			if err := os.Symlink(filepath.Join(u.work, to), filepath.Join(u.work, long, "root")); err != nil {
				t.Fatal(err)
			}
			u.write("stamp", "")
			u.compile("gcc", flag, "-c", "x.c")
			u.exec("gcc", flag, "-c", "x.c", "-o", "want.o")
			if u.read("x.o") != u.read("want.o") {
				t.Errorf("%s: the object is not that of %s", flag, to)
			}
		}
	}
}

// TestEnvironment: the day where the user is, and the assembler that PATH leads to.
func TestEnvironment(t *testing.T) {
	u := newUser(t, "SARSEN_CC_PATIENCE=20s", "TZ=Etc/GMT+12")
	u.write("x.c", "const char *d = __DATE__;\n")
	u.compile("gcc", "-c", "x.c")
	u.env[len(u.env)-1] = "TZ=Etc/GMT-14" // where it is another day at any time
	u.counts("miss.date", func() { u.compile("gcc", "-c", "x.c") })
	u.exec("gcc", "-c", "x.c", "-o", "want.o")
	if u.read("x.o") != u.read("want.o") {
		t.Errorf("the object has the date of another time zone")
	}
	u.write("bin/as", "#!/bin/sh\necho another assembler >&2\nPATH=${PATH#*:} exec as \"$@\"\n")
	if err := os.Chmod(filepath.Join(u.work, "bin/as"), 0o777); err != nil {
		t.Fatal(err)
	}
	u.env = append(u.env, "PATH="+filepath.Join(u.work, "bin")+":"+os.Getenv("PATH"))
	want := u.exec("gcc", "-c", "x.c")
	if got := u.run("gcc", "-c", "x.c"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestPreprocessedText: what the preprocessor prints does not say everything that a compile depends on.
func TestPreprocessedText(t *testing.T) {
	for _, c := range []struct{ name, flag, first, second string }{
		{"column", "-g", "int f(void); int g(void) { int a = f(); return a; }\n", "int f(void); int g(void) { int   a   =   f(); return a; }\n"},
		{"excerpt", "-Wall", "void f(void) { int a; } // one\n", "void f(void) { int a; } // two\n"},
		{"comment", "-Wextra", "int f(int a) { switch (a) { case 1: a++;\n/* fall through */\ncase 2: a++; } return a; }\n",
			"int f(int a) { switch (a) { case 1: a++;\n/* nothing */\ncase 2: a++; } return a; }\n"},
		{"macro", "-Wundef", "#if 0\n#endif\nint x;\n", "#if FOO\n#endif\nint x;\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t, "SARSEN_CC_MODE=preprocess")
			for _, text := range []string{c.first, c.second, c.first} {
				u.write("x.c", text)
				got := u.run("gcc", c.flag, "-c", "x.c", "-o", "x.o")
				if want := u.exec("gcc", c.flag, "-c", "x.c", "-o", "want.o"); got != want || u.read("x.o") != u.read("want.o") {
					t.Errorf("got %+v, want %+v, or another object", got, want)
				}
			}
		})
	}
}

// TestInherited: the daemon does not hold the files that the build had open.
func TestInherited(t *testing.T) {
	u := newUser(t)
	fresh := *u
	fresh.dir = t.TempDir()
	t.Cleanup(func() { _, _ = fresh.ask("stop") })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files := make([]*os.File, 8)
	files[7] = w
	cmd := exec.Command(os.Args[0], "cc", "gcc", "--version")
	cmd.Env, cmd.ExtraFiles = fresh.environ(), files
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := io.ReadAll(r); err != nil { // until the last who has it ends
		t.Fatal(err)
	}
	if _, err := fresh.ask("stats"); err != nil {
		t.Errorf("the daemon has ended: %v", err)
	}
}

// TestFirstVariables: the variables of the compile that began the daemon are not those of others.
func TestFirstVariables(t *testing.T) {
	u := newUser(t, "DEPENDENCIES_OUTPUT=dependencies")
	u.env = u.env[:len(u.env)-1]
	u.write("x.c", "int x;\n")
	u.compile("gcc", "-c", "x.c")
	if _, err := os.Stat(filepath.Join(u.work, "dependencies")); err == nil {
		t.Errorf("a question to the compiler wrote a dependency file")
	}
}

// TestScript: a compiler that is a script may depend on anything, so nothing of it is kept.
func TestScript(t *testing.T) {
	u := newUser(t)
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatal(err)
	}
	u.write("x.c", "int x = V;\n")
	u.write("gcc", "#!/bin/sh\nexec "+gcc+" $EXTRA \"$@\"\n")
	if err := os.Chmod(filepath.Join(u.work, "gcc"), 0o755); err != nil {
		t.Fatal(err)
	}
	var objects []string
	for _, v := range []string{"1", "2"} {
		u.env = append(u.env, "EXTRA=-DV="+v)
		u.counts("pass.compiler_is_a_script", func() { u.compile("./gcc", "-c", "x.c", "-o", "x.o") })
		objects = append(objects, u.read("x.o"))
	}
	if objects[0] == objects[1] {
		t.Error("two definitions gave the same object")
	}
}
