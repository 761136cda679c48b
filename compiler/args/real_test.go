package args

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// project is what each real compilation finds in its directory.
var project = map[string]string{
	"a.c":         "#include \"h.h\"\nint f(int n) { int b[n]; return b[0] + N; }\n",
	"b.c":         "int g(void) { return 2; }\n",
	"x.y.c":       "int h(void) { return 3; }\n",
	"sub/d.c":     "int d(void) { return 4; }\n",
	"e.cpp":       "int e() { return 5; }\n",
	"strange":     "int s(void) { return 6; }\n",
	"p.i":         "int p(void) { return 7; }\n",
	"m.s":         "\t.globl m\nm:\t.byte 1\n",
	"n.S":         "\t.globl n\nn:\t.byte 1\n",
	"h.h":         "#define N 1\n",
	"forced.h":    "#define FORCED 1\n",
	"out/empty":   "",
	"args":        "-c 'a.c' \"-o\" out/r\\.o",
	"nested":      "@args -O2",
	"ms":          "\xff\xfe/\x00c\x00 \x00a\x00.\x00c\x00",
	"sp ace/q.c":  "int q(void) { return 8; }\n",
	"out/.hidden": "",
}

// A place is a Source that reads a real directory and no variables.
type place string

func (p place) ReadFile(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(p), name))
}

func (place) LookupEnv(string) (string, bool) { return "", false }

// lay makes the project in a new directory.
func lay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range project {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// written returns the files of dir that are not the project's, sorted.
func written(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if name, err = filepath.Rel(dir, name); err != nil {
			return err
		}
		if _, ok := project[name]; !ok {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// run runs a compiler in dir and returns what it printed on stdout.
func run(t *testing.T, dir, compiler string, argv []string) []byte {
	t.Helper()
	cmd := exec.Command(compiler, argv...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "CL=", "_CL_=", "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", compiler, argv, err, &stderr)
	}
	return stdout.Bytes()
}

// expected returns the outputs of a command, sorted. Those that a compiler may leave out are among them
// if they are in dir.
func expected(dir string, c *Command) []string {
	var names []string
	for _, part := range c.Split() {
		for _, o := range part.Outputs {
			if _, err := os.Stat(filepath.Join(dir, o.Path)); err == nil || !o.Maybe {
				names = append(names, filepath.Clean(o.Path))
			}
		}
	}
	slices.Sort(names)
	return names
}

// agree runs a command line and compares what was written with what Parse said, and then the command
// lines that are built from it, if SARSEN_ALL is set.
func agree(t *testing.T, d Dialect, compiler string, before, argv []string) {
	t.Helper()
	dir := lay(t)
	c, err := Parse(d, argv, place(dir))
	if err != nil {
		t.Errorf("%s %q: %v", d, argv, err)
		return
	}
	run(t, dir, compiler, slices.Concat(before, argv))
	want := expected(dir, c)
	if got := written(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s %q wrote %q, want %q", d, argv, got, want)
	}
	if c.DepTarget != "" {
		text, err := os.ReadFile(filepath.Join(dir, c.DepFile))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := strings.Cut(string(text), ": "); got != c.DepTarget {
			t.Errorf("%s %q: the target is %q, want %q", d, argv, got, c.DepTarget)
		}
	}
	if os.Getenv("SARSEN_ALL") == "" {
		return
	}
	dir = lay(t)
	for _, part := range c.Split() {
		run(t, dir, compiler, slices.Concat(before, part.Argv))
	}
	if got := written(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s %q in parts wrote %q, want %q", d, argv, got, want)
	}
	agreeBuilt(t, d, compiler, before, c)
	agreeElsewhere(t, d, compiler, before, c)
}

// agreeElsewhere compiles in another directory and to another name, and compares the objects if c says
// that neither is part of them.
func agreeElsewhere(t *testing.T, d Dialect, compiler string, before []string, c *Command) {
	t.Helper()
	if c.Mode != Compile || len(c.Sources) != 1 || c.Flags.HashDir {
		return
	}
	dir, dir2 := lay(t), lay(t)
	argv, name := c.Argv, c.Output
	if !c.Flags.HashOutput {
		name = "elsewhere.other"
		argv = append([]string{"-o", name}, c.rebuild(func(it item) bool { return it.role == roleOutput || it.role == roleDep })...)
	}
	switch { // What makes each object another even if nothing else does.
	case d == ClangCL:
		before = append(slices.Clip(before), "/Brepro") // the time
	case c.Flags.LTO:
		before = append(slices.Clip(before), "-frandom-seed=1")
	}
	run(t, dir, compiler, slices.Concat(before, c.Argv))
	run(t, dir2, compiler, slices.Concat(before, argv))
	got, err := os.ReadFile(filepath.Join(dir2, name))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, c.Output))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s %q gives another object than %q", d, argv, c.Argv)
	}
}

// agreeBuilt runs the command lines that are built from c.
func agreeBuilt(t *testing.T, d Dialect, compiler string, before []string, c *Command) {
	t.Helper()
	if argv := c.PreprocessArgv(); argv != nil {
		dir := lay(t)
		if text := run(t, dir, compiler, slices.Concat(before, argv)); len(text) == 0 {
			t.Errorf("%s %q printed nothing", d, argv)
		}
		if got := written(t, dir); got != nil {
			t.Errorf("%s %q wrote %q", d, argv, got)
		}
	}
	if len(c.Sources) > 1 || c.DepMode != "" || c.Flags.NoPreprocessor {
		return
	}
	dir := lay(t)
	run(t, dir, compiler, slices.Concat(before, c.CompileArgv("dependencies")))
	want := append(expected(dir, c), "dependencies")
	slices.Sort(want)
	if got := written(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s %q wrote %q, want %q", d, c.CompileArgv("dependencies"), got, want)
	}
}

// bothLines are for gcc and clang.
var bothLines = []string{
	"-c a.c", "-c sub/d.c", "-c x.y.c", "-c a.c -o out/z", "-c a.c -oout/z.obj", "-c e.cpp", "-c p.i", "-c m.s", "-c n.S",
	"-c -x c strange", "-c -x c strange -x none b.c", "-c a.c b.c", "-c a.c b.c -MD", "-c a.c m.s -MMD", "-S a.c", "-S -c a.c", "-S a.c -o out/q.s",
	"-MD -c sub/d.c", "-MD -c sub/d.c -o out/z.obj", "-MD -c sub/d.c -o out/z", "-MD -MF out/x.d -c a.c", "-MMD -MFout/x.d -c a.c",
	"-MD -MP -MT foo -MQ bar -c a.c", "-MD -MMD -c a.c", "-MD -c n.S", "-MD -c m.s", "-MD -S a.c", "-MD -S a.c -o out/q.s", "-MD -c p.i", "-MMD -MF out/p.d -c p.i",
	"-Wp,-MD,out/x.d -c a.c", "-Wp,-MMD,out/.x.o.d -c sub/d.c -o out/q.o", "-Wp,-DA,-DB -c a.c", "-Xpreprocessor -DX -c a.c",
	"-c a.c -fstack-usage", "-c x.y.c -o out/p.q.o -fstack-usage -MD", "-c a.c --coverage", "-c a.c --coverage -o out/z", "-S a.c --coverage -o out/q.s",
	"-c a.c b.c --coverage -fstack-usage -MD", "-c a.c -ftest-coverage", "-c a.c -fprofile-arcs", "-c a.c -fprofile-generate -o out/a.o", "-c m.s --coverage",
	"-c n.S --coverage -fstack-usage", "-c p.i --coverage -MD -fstack-usage",
	"-c a.c -g -gsplit-dwarf", "-c a.c -gsplit-dwarf -g -o out/x.o", "-c a.c -g -gsplit-dwarf -gno-split-dwarf", "-S -g a.c -gsplit-dwarf", "-c -g n.S -gsplit-dwarf", "-c -g m.s -gsplit-dwarf",
	"-c a.c -flto", "-c a.c -flto -ffat-lto-objects -o out/x.o", "-S a.c -flto",
	"-fsyntax-only a.c", "-fsyntax-only -c a.c -MD -o out/u.o", "-fsyntax-only a.c -MD -MF out/u.d",
	"-c h.h -o out/h.h.gch",
	"@args", "@nested -DX", "-c a.c -include forced.h -DX=1 -D Y -UZ -I sub -Iout -isystem sub -iquote sub -idirafter sub",
	"-O2 -g -Wall -std=gnu11 -fPIC -pipe -march=native -fdiagnostics-color=always -ffile-prefix-map=/a=/b -c a.c -o out/a.o",
	"-c a.c -Wa,--noexecstack -Xassembler --fatal-warnings", "-c a.c -pthread -l m -L out -Wl,-z,now", "-c a.c -frandom-seed=1",
	"-c a.c -MD -o out/../z.o", "-c ./sub/../a.c -MD",
}

var gccLines = []string{
	"h.h", "-x c-header strange", "h.h -MD -MF out/h.d", "-c h.h -MD",
	"-c a.c -o out/a.o -fprofile-use",
	"-c a.c -fcallgraph-info", "-c a.c -fcallgraph-info=su,da -o out/z.o", "-c a.c -gsplit-dwarf", "-c a.c -gsplit-dwarf -g0", "-c m.s -gsplit-dwarf",
	"-c a.c --param max-inline-insns-single=1", "-c a.c -frecord-gcc-switches",
	"-c a.c -g3 -gsplit-dwarf -MD --coverage -fstack-usage -fcallgraph-info -o out/all.o",
}

var clangLines = []string{
	"-x c++-header h.h -o out/h.pch -MD",
	"-c a.c -gsplit-dwarf", "-c a.c -gsplit-dwarf=single -g", "-c a.c -g -gsplit-dwarf -g0", "-c m.s -gsplit-dwarf",
	"-emit-llvm -c a.c", "-emit-llvm -S a.c", "-emit-llvm -S a.c -o out/a.o", "-emit-llvm -c a.c --coverage -o out/q.bc",
	"-c a.c --serialize-diagnostics out/a.dia", "-c a.c -Xclang -fno-pch-timestamp", "-c a.c -mllvm -inline-threshold=1",
	"-c a.c --target=x86_64-linux-gnu", "-c a.c -target i386-linux-gnu", "-c a.c -flto=thin", "-c a.c -fcolor-diagnostics -Qunused-arguments",
	"-c a.c -Weverything -Wdocumentation", "-c a.c -fprofile-instr-generate -fcoverage-mapping", "-c a.c -gline-tables-only -gsplit-dwarf",
}

var clangCLLines = []string{
	"/c a.c", "/c a.c b.c", "/c sub/d.c", "/c x.y.c", "-c a.c -Foout/", "/c a.c b.c /Foout/", "/c a.c /Foout/a", "/c a.c /Foout/a.o", "/c a.c /Fofoo", "/c a.c /Fo",
	"/c a.c -o out/k.o", "/c a.c -o out/k", "/c a.c /oout/k", "/c /Tpa.c", "/c /Tc strange", "/c /TP strange a.c", "/c a.c /Z7", "/c a.c /Zi /Fdout/a.pdb", "/c m.s", "/c n.S", "/c p.i",
	"/c a.c /showIncludes", "/Zs a.c", "@ms", "/c a.c /MP2", "/c a.c /clang:-MD /clang:-MFout/x.d", "/c a.c /clang:-MD /clang:-MF /clang:out/x.d",
	"/c a.c /Foout/ /clang:-MD /clang:-MFout/x.d", "/c a.c /Foout/k.obj /clang:-MMD /clang:-MFout/x.d", "/c a.c /oout/q /clang:-MMD /clang:-MFout/x.d", "/c a.c /clang:-MD /clang:-MFx /clang:-MT /clang:y",
	"/c a.c /FIforced.h /FI forced.h /DX=1 /D Y /Isub /I sub /external:I sub -imsvc sub /nologo /O2 /W4 /EHsc /MD /utf-8 /std:c11",
	"-fsyntax-only a.c", "/c a.c -flto", "-c -- a.c", "/c a.c -Xclang -fno-pch-timestamp -m32 --target=i686-pc-windows-msvc",
}

// TestRealGCC runs real compilers and compares the files that they write with what Parse says.
func TestRealGCC(t *testing.T) { real(t, "gcc", "SARSEN_GCC", GCC, nil, bothLines, gccLines) }

// TestRealClang does so with clang.
func TestRealClang(t *testing.T) { real(t, "clang", "SARSEN_CLANG", Clang, nil, bothLines, clangLines) }

// TestRealClangCL does so with clang in cl's clothes, which it also is without Windows.
func TestRealClangCL(t *testing.T) {
	real(t, "clang", "SARSEN_CLANG", ClangCL, []string{"--driver-mode=cl"}, clangCLLines)
}

// real runs all lines with the compiler that a variable names, or that is in the PATH.
func real(t *testing.T, name, variable string, d Dialect, before []string, tables ...[]string) {
	if s := os.Getenv(variable); s != "" {
		name = s
	}
	compiler, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("NOT TESTED: no %s in the PATH, and %s does not name one", name, variable)
	}
	for _, line := range slices.Concat(tables...) {
		t.Run(line, func(t *testing.T) { agree(t, d, compiler, before, words(line)) })
	}
}
