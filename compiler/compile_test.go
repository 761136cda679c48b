package compiler_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func sorted(ss []string) []string {
	slices.Sort(ss)
	return ss
}

const program = "#include \"a.h\"\n#include <stdio.h>\nint f(void) { int unused; return A; }\n"

func TestHit(t *testing.T) {
	for _, compiler := range []string{"gcc", "g++", "clang", "clang++"} {
		t.Run(compiler, func(t *testing.T) { testHit(t, compiler) })
	}
}

func testHit(t *testing.T, compiler string) {
	need(t, compiler)
	u := newUser(t)
	u.write("x.c", program)
	u.write("a.h", "#define A 1\n")
	for _, flags := range [][]string{
		{},
		{"-O2", "-Wall"},
		{"-g"},
		{"-MD"},
		{"-MMD", "-MP", "-MF", "deps", "-Wall"},
		{"-MMD", "-g"},
		{"-fstack-usage"},
		{"-ftest-coverage", "-fprofile-arcs", "-frandom-seed=1"},
		{"-g", "-gsplit-dwarf"},
		{"-O1", "-S"},
	} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			u.t = t
			argv := append([]string{compiler}, flags...)
			if !slices.Contains(flags, "-S") {
				argv = append(argv, "-c")
			}
			argv = append(argv, "x.c", "-o", "out.o")
			alone := u.exec(argv[0], argv[1:]...)
			want := u.outputs()
			var miss, hit outcome
			u.counts("miss.new", func() { miss = u.run(argv...) })
			if got := u.outputs(); !same(t, "miss", got, want) || miss != alone {
				t.Errorf("miss: got %+v, want %+v", miss, alone)
			}
			u.outputs()
			u.counts("hit.direct", func() { hit = u.run(argv...) })
			if got := u.outputs(); !same(t, "hit", got, want) || hit != alone {
				t.Errorf("hit: got %+v, want %+v", hit, alone)
			}
		})
	}
}

// TestSeveral: each source of a command is looked up and kept by itself.
func TestSeveral(t *testing.T) {
	u := newUser(t)
	u.write("x.c", program)
	u.write("y.c", program)
	u.write("a.h", "#define A 1\n")
	argv := []string{"gcc", "-c", "-Wall", "x.c", "y.c"}
	u.asAlone("miss.new=2", "hit.direct=2", argv...)
	u.write("y.c", "this is no C\n")
	failed := u.exec(argv[0], argv[1:]...)
	want := u.outputs()
	if got := u.run(argv...); got != failed || !same(t, "one fails", u.outputs(), want) {
		t.Errorf("one fails: got %+v, want %+v", got, failed)
	}
}

// TestSeveralMicrosoft: several sources at once, with arguments in the environment, which are applied once.
func TestSeveralMicrosoft(t *testing.T) {
	need(t, "clang-cl")
	u := newUser(t, "CL=/DA#1 /nologo", "_CL_=/Brepro")
	u.write("x.c", "int f(void) { return A; }\n")
	u.write("y.c", "int g(void) { return A; }\n")
	argv := []string{"clang-cl", "/MP2", "/c", "x.c", "y.c"}
	u.asAlone("miss.new=2", "hit.direct=2", argv...)
}

// TestMicrosoft: clang-cl as cl is called.
func TestMicrosoft(t *testing.T) {
	need(t, "clang-cl")
	u := newUser(t)
	u.write("x.c", "#include \"a.h\"\nint f(void) { int unused; return A; }\n")
	u.write("second/a.h", "#define A 1\n")
	os.Mkdir(filepath.Join(u.work, "first"), 0o777)
	for _, flags := range [][]string{
		{}, {"/O2", "/W4"}, {"/showIncludes"}, {"/Z7"}, {"/Zi", "/showIncludes"}, {"/clang:-MMD", "/clang:-MFx.d"}, {"/clang:-MD", "/clang:-MFx.d", "/Z7"},
	} {
		argv := append(append([]string{"clang-cl", "/nologo", "/Brepro", "/Ifirst", "/Isecond"}, flags...), "/c", "x.c", "/Foout.obj")
		u.asAlone("miss.new", "hit.direct", argv...)
	}
	u.write("first/a.h", "#define A 2\n")
	u.counts("miss.header_appears", func() { u.compile("clang-cl", "/nologo", "/Brepro", "/Ifirst", "/Isecond", "/c", "x.c", "/Foout.obj") })
}

// TestWindows: debug information for Windows holds the command line, and what clang-cl read is asked in its words.
func TestWindows(t *testing.T) {
	need(t, "clang")
	u := newUser(t)
	u.write("x.c", "#include \"a.h\"\nint f(int n) { switch (n) { case A:\n return 2; } return 3; }\n")
	u.write("a.h", "#define A 1\n")
	for _, flags := range [][]string{
		{"--target=x86_64-pc-windows-msvc", "-g", "-mno-incremental-linker-compatible"},
		{"-target", "aarch64-windows", "-g", "-mno-incremental-linker-compatible"},
		{"--driver-mode=cl", "/Z7", "/Brepro"},
		{"--driver-mode=cl", "/Brepro", "/clang:-MMD", "/clang:-MFx.d"},
	} {
		argv := append(append([]string{"clang"}, flags...), "-c", "x.c", "-o", "x.obj")
		u.asAlone("miss.new", "hit.direct", argv...)
		u.write("a.h", "#define A 2\n")
		u.counts("miss.header", func() { u.compile(argv...) })
		u.write("a.h", "#define A 1\n")
		u.outputs()
	}
}

// asAlone runs a command by itself, as a miss and as a hit: files, messages and status are the same each time.
func (u *user) asAlone(miss, hit string, argv ...string) {
	u.t.Helper()
	alone := u.exec(argv[0], argv[1:]...)
	want := u.outputs()
	for _, counter := range []string{miss, hit} {
		var got outcome
		u.counts(counter, func() { got = u.run(argv...) })
		if !same(u.t, fmt.Sprint(counter, argv), u.outputs(), want) || got != alone {
			u.t.Errorf("%s %v: got %+v, want %+v", counter, argv, got, alone)
		}
	}
}

// outputs returns and removes everything that compilers wrote.
func (u *user) outputs() map[string]string {
	u.t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(u.work)
	if err != nil {
		u.t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); !e.IsDir() && filepath.Ext(name) != ".c" && filepath.Ext(name) != ".h" {
			files[name] = u.read(name)
			u.remove(name)
		}
	}
	return files
}

func same(t testing.TB, what string, got, want map[string]string) bool {
	t.Helper()
	ok := true
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %s has %d bytes that differ from the %d that the compiler alone writes", what, name, len(got[name]), len(want[name]))
			ok = false
		}
	}
	for name := range got {
		if _, there := want[name]; !there {
			t.Errorf("%s: %s was made, which the compiler alone does not make", what, name)
			ok = false
		}
	}
	return ok
}

// TestStale has what must not be a hit.
func TestStale(t *testing.T) {
	compile := []string{"gcc", "-c", "x.c", "-o", "x.o", "-Ifirst", "-Isecond"}
	for _, c := range []struct {
		name   string
		source string
		change func(u *user)
		argv   []string
		want   string
	}{
		{"source", program, func(u *user) { u.write("x.c", program+"\n") }, compile, "miss.new"},
		{"header", program, func(u *user) { u.write("second/a.h", "#define A 2\n") }, compile, "miss.header"},
		{"header of the same size and time", program, func(u *user) {
			old := time.Now().Add(-time.Hour)
			u.write("second/a.h", "#define A 7\n")
			os.Chtimes(filepath.Join(u.work, "second/a.h"), old, old)
			time.Sleep(20 * time.Millisecond)
		}, compile, "miss.header"},
		{"header that comes first", program, func(u *user) { u.write("first/a.h", "#define A 2\n") }, compile, "miss.header_appears"},
		{"header beside the source", program, func(u *user) { u.write("a.h", "#define A 2\n") }, compile, "miss.header_appears"},
		{"system header that comes first", program, func(u *user) { u.write("first/stdio.h", "int A2;\n") }, compile, "miss.header_appears"},
		{"probed header", "#if __has_include(\"b.h\")\n#define B 1\n#else\n#define B 0\n#endif\nint f(void) { return B; }\n",
			func(u *user) { u.write("second/b.h", "") }, compile, "miss.header_appears"},
		{"directory that comes first", program, func(u *user) { u.write("zeroth/a.h", "#define A 2\n") },
			append(slices.Clone(compile[:5]), "-Izeroth", "-Isecond"), "miss.header_appears"},
		{"argument", program, func(*user) {}, append(slices.Clone(compile), "-O1"), "miss.new"},
		{"precompiled header", program, func(u *user) {
			u.exec("gcc", "-x", "c-header", "second/a.h", "-o", "second/a.h.gch")
			time.Sleep(20 * time.Millisecond)
		}, compile, "miss.header_appears not_stored.hidden_input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			u.write("x.c", c.source)
			u.write("second/a.h", "#define A 1\n")
			os.Mkdir(filepath.Join(u.work, "first"), 0o777)
			before := c.argv
			if c.name == "argument" {
				before = compile
			}
			u.counts("miss.new", func() { u.compile(before...) })
			u.counts("hit.direct", func() { u.compile(before...) })
			c.change(u)
			u.counts(c.want, func() { u.compile(c.argv...) })
			got := u.read("x.o")
			u.exec(c.argv[0], c.argv[1:]...)
			if want := u.read("x.o"); got != want {
				t.Errorf("the object is not the compiler's")
			}
		})
	}
}

func TestNotCached(t *testing.T) {
	for _, c := range []struct {
		name, source string
		argv         []string
		want         string
	}{
		{"time", "const char *t = __TIME__;\n", nil, "pass.time_macro=2"},
		{"incbin", "__asm__(\".incbin \\\"x.c\\\"\");\n", nil, "pass.hidden_input=2"},
		{"failure", "int f(\n", nil, "miss.new=2 not_stored.compile_failed=2"},
		{"device", "int x;\n", []string{"gcc", "-c", "x.c", "-o", "/dev/null"}, "pass.device=2"},
		{"link", "int main(void) { return 0; }\n", []string{"gcc", "x.c", "-o", "x"}, "pass.link=2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			u.write("x.c", c.source)
			argv := c.argv
			if argv == nil {
				argv = []string{"gcc", "-c", "x.c"}
			}
			want := u.exec(argv[0], argv[1:]...)
			u.counts(c.want, func() {
				for range 2 {
					if got := u.run(argv...); got != want {
						t.Errorf("got %+v, want %+v", got, want)
					}
				}
			})
		})
	}
}

func TestDate(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "const char *d = __DATE__;\n")
	u.counts("miss.new", func() { u.compile("gcc", "-c", "x.c") })
	u.counts("hit.direct", func() { u.compile("gcc", "-c", "x.c") })
	u.env = append(u.env, "SOURCE_DATE_EPOCH=1000")
	u.counts("miss.new", func() { u.compile("gcc", "-c", "x.c") })
	if got := u.read("x.o"); !strings.Contains(got, "Jan  1 1970") {
		t.Errorf("the object has not the date of SOURCE_DATE_EPOCH")
	}
}

// TestDirectory: debug information contains the directory, so it is another result in another one.
func TestDirectory(t *testing.T) {
	u := newUser(t)
	dirs := []string{u.work, t.TempDir()}
	for _, dir := range dirs {
		u.work = dir
		u.write("x.c", "int x;\n")
	}
	for _, c := range []struct{ flag, second string }{{"-O1", "hit.direct"}, {"-g", "miss.new"}} {
		u.work = dirs[0]
		u.counts("miss.new", func() { u.compile("gcc", c.flag, "-c", "x.c") })
		u.work = dirs[1]
		u.counts(c.second, func() { u.compile("gcc", c.flag, "-c", "x.c") })
	}
}

func TestBaseDirectory(t *testing.T) {
	base := t.TempDir()
	u := newUser(t, "SARSEN_CC_BASE_DIR="+base)
	for i, want := range []string{"miss.new", "hit.direct"} {
		u.work = filepath.Join(base, []string{"one", "two"}[i])
		u.write("src/x.c", program)
		u.write("include/a.h", "#define A 1\n")
		u.counts(want, func() {
			u.compile("gcc", "-MD", "-I"+u.work+"/include", "-c", u.work+"/src/x.c", "-o", u.work+"/x.o")
		})
		if got := u.read("x.d"); strings.Contains(got, base) {
			t.Errorf("the dependency file names the base directory: %s", got)
		}
	}
}

// TestPreprocessMode: a comment changes no result where the preprocessor is asked.
func TestPreprocessMode(t *testing.T) {
	u := newUser(t, "SARSEN_CC_MODE=preprocess")
	u.write("x.c", program)
	u.write("a.h", "#define A 1\n")
	compile := func() { u.compile("gcc", "-c", "x.c", "-o", "x.o") }
	u.counts("miss.new", compile)
	want := u.read("x.o")
	u.counts("hit.direct", compile)
	u.write("a.h", "#define A 1 /* one */\n")
	u.counts("hit.preprocessed", compile)
	u.counts("hit.direct", compile)
	if u.read("x.o") != want {
		t.Errorf("the object differs")
	}
	u.write("a.h", "#define A 2\n")
	u.counts("miss.header", compile)
}
