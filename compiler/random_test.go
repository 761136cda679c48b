package compiler_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRandom compiles random sources with random arguments, edits files at random and compiles again, each time with the
// compiler alone and then through the cache: what is written and said must be the same, byte for byte. SARSEN_EPISODES says how
// many seeds are tried.
func TestRandom(t *testing.T) {
	need(t, "gcc")
	need(t, "g++")
	if s := os.Getenv("SARSEN_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		newEpisode(t, seed).run()
		return
	}
	episodes := 40
	if testing.Short() {
		episodes = 8
	}
	if n, err := strconv.Atoi(os.Getenv("SARSEN_EPISODES")); err == nil {
		episodes = n
	}
	all := map[string]uint64{}
	for seed := range uint64(episodes) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			for name, n := range newEpisode(t, seed).run() {
				all[name] += n
			}
		})
	}
	if all["hit.direct"] == 0 {
		t.Error("nothing was a hit, so nothing was tested")
	}
	t.Log(all)
}

// An episode is a source, a command and a number of edits, as a seed says.
type episode struct {
	*user
	seed  uint64
	r     *rand.Rand
	files map[string][]string // the contents that an input may have
	flags []string
	where string // the directory, as it is called
	log   []string
}

// absent is the content of a file that is not there.
const absent = "\x00"

func newEpisode(t *testing.T, seed uint64) *episode {
	e := &episode{seed: seed, r: rand.New(rand.NewPCG(seed, 5))}
	var env []string
	if e.chance(3) {
		env = append(env, "SARSEN_CC_MODE=preprocess")
	}
	e.user = newUser(t, env...)
	e.where = e.work
	if e.chance(5) {
		e.where = filepath.Join(t.TempDir(), "alias")
		if err := os.Symlink(e.work, e.where); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func (e *episode) chance(n int) bool { return e.r.IntN(n) == 0 }

func (e *episode) one(list ...string) string { return list[e.r.IntN(len(list))] }

// some returns a few of the list, in its order; * in it stands for a space.
func (e *episode) some(n int, list ...string) []string {
	var found []string
	for range n {
		found = append(found, strings.Split(e.one(list...), "*")...)
	}
	return found
}

// run returns the counters.
func (e *episode) run() map[string]uint64 {
	e.world()
	e.flags = e.command()
	for range 9 {
		e.both()
		for range 1 + e.r.IntN(2) {
			e.edit()
		}
	}
	e.both()
	return e.counters()
}

// mark is text that leaves its trace in the object as often as it is included.
func mark(text string) string {
	return "__asm__(\".section .note.mark\\n.ascii \\\"" + text + "\\\"\\n.text\");\n"
}

// world makes the inputs.
func (e *episode) world() {
	e.files = map[string][]string{}
	for _, dir := range []string{"src", "first", "second", "second/sub", "third", "sys", "real/deep", "."} {
		for _, name := range []string{"h.h", "o.h", "m.h"} {
			if e.chance(2) {
				continue
			}
			path := filepath.Join(dir, name)
			once := e.one("", "", "", "#pragma once\n", "#ifndef G\n#define G\n")
			end := ""
			if strings.HasPrefix(once, "#ifndef") {
				end = "#endif\n"
			}
			same := e.one("one", path)
			for n := range 2 {
				e.files[path] = append(e.files[path], once+mark(same+strconv.Itoa(n))+"#define M"+strconv.Itoa(n)+" 1\n"+e.inside(n)+end)
			}
			e.files[path] = append(e.files[path], absent)
		}
	}
	// There is one of each to begin with.
	for _, name := range []string{"h.h", "o.h", "m.h"} {
		path := filepath.Join("second", name)
		e.files[path] = []string{mark(path), "#pragma once\n" + mark(path+" two"), mark(path+" thr") + e.inside(1), absent}
	}
	e.files["data"] = []string{"one", "two"}
	e.files["rsp"] = []string{"-DR=1 -Wall\n", "-DR=2 '-Wextra'\n"}
	for n := range 2 {
		e.files["src/x.c"] = append(e.files["src/x.c"], e.source(n))
	}
	e.files["src/y.c"] = []string{"int y;\n", "#include \"h.h\"\nint y;\n"}
	e.files["src/x.i"] = []string{"# 1 \"x.c\"\nint i;\n", "# 2 \"y.c\"\nint i;\n"}
	e.files["src/x.S"] = []string{"#include \"m.S\"\n.ascii \"one\"\n", "#if __has_include(\"m.S\")\n#endif\n.ascii \"two\"\n", ".macro m a, b\n.\\a\\b \"data\"\n.endm\nm inc, bin\n"}
	e.files["src/m.S"] = []string{".ascii \"m\"\n", ".ascii \"n\"\n", absent}
	for path, contents := range e.files {
		e.put(path, contents[0])
	}
	os.Symlink("first", filepath.Join(e.work, "link"))
	os.Symlink("deep", filepath.Join(e.work, "real/link"))
}

// inside is what a header has besides its mark.
func (e *episode) inside(n int) string {
	return e.one("", "", "", "#if __has_include(\"o.h\")\n"+mark("has")+"#endif\n", "static int unused"+strconv.Itoa(n)+";\n",
		"#define N"+strconv.Itoa(n)+" __FILE__\n", "#ifdef GNU\n#include_next <h.h>\n#endif\n", "/* comment "+strconv.Itoa(n)+" */\n")
}

// source is a source's text.
func (e *episode) source(n int) string {
	var b strings.Builder
	for range 1 + e.r.IntN(4) {
		b.WriteString(e.one(
			"#include \"h.h\"\n", "#include <h.h>\n", "#include \"sub/h.h\"\n", "#include <m.h>\n", "#include \"../h.h\"\n", "#import \"h.h\"\n",
			"#import <o.h>\n", "#define H \"h.h\"\n#include H\n", "#define A <h.h>\n#include A\n", "#/**/include \"h.h\"\n", "%:include \"m.h\"\n",
			"#inc\\\nlude \"h.h\"\n", "#include/**/<h.h>\n", "#if __has_include(\"o.h\")\n"+mark("has")+"#endif\n",
			"#if __has_include(<o.h>)\n"+mark("has")+"#else\n"+mark("not")+"#endif\n",
			"#ifdef HAS\n#if HAS(<o.h>)\n"+mark("has")+"#endif\n#endif\n", "#ifdef NAME\n#include NAME\n#endif\n",
			"const char *file"+strconv.Itoa(n)+" = __FILE__;\n", "#include <stddef.h>\nsize_t s;\n", "#include <limits.h>\n",
			"_Pragma(\"GCC dependency \\\"../data\\\"\")\n", "#pragma message \"said\"\n", "#ifdef M1\n"+mark("m1")+"#endif\n",
			"#ifdef STAMP\nconst char *stamp = STAMP;\n#endif\n", "#ifdef ASM\n__asm__(ASM);\n#endif\n",
			"#define S(x) #x\n__asm__(\".inc\" S(bin) \" \\\"data\\\"\");\n", "/* comment */ int c"+strconv.Itoa(n)+";\n",
		))
	}
	fmt.Fprintf(&b, "int f%d(int a) { int unused; switch (a) { case 1: a += %d; case 2: return 2; } return a; }\n", n, e.r.IntN(2))
	return b.String()
}

// command is a compiler and its arguments.
func (e *episode) command() []string {
	argv := []string{e.one("gcc", "gcc", "gcc", "g++", "cc")}
	argv = append(argv, e.some(2+e.r.IntN(4),
		"-Ifirst", "-I./first", "-Ifirst/", "-I*first", "-I.", "-I./", "-I.//first", "-Isrc/../first", "-isystem*first", "-iquote*first",
		"-iquotefirst", "-idirafterfirst", "-Ithird", "-I./third", "-isystem./third", "-Ilink", "-Ireal/link", "-I"+e.where+"/first",
		"-Isys/../third", "-isystem*sys", "-I"+e.where+"/link")...)
	argv = append(argv, e.one("-Isecond", "-I./second", "-isystemsecond", "-idirafter./second/", "-I"+e.where+"/second"))
	argv = append(argv, e.some(e.r.IntN(5),
		"-O1", "-g", "-g3", "-Wall", "-Wextra", "-w", "-MD", "-MMD", "-MMD*-MP", "-MD*-MFout/x.d", "-MMD*-MF*out/x.d*-MTx y", "-MD*-MQ*$x",
		"-Wp,-MD,out/x.d", "-Wp,-MMD,out/x.d", "-fstack-usage", "-fcallgraph-info", "--coverage*-frandom-seed=1", "-gsplit-dwarf", "-flto*-frandom-seed=1",
		"-ffile-prefix-map="+e.where+"=/x", "-fdebug-prefix-map=src=y", "-frecord-gcc-switches", "-grecord-gcc-switches", "-Wa,--noexecstack",
		"-DHAS(x)=__has_include(x)", "-DNAME=\"h.h\"", "-D*NAME=<m.h>", "-DSTAMP=__DATE__", "-DSTAMP=__TIMESTAMP__", "-DASM=\".incbin \\\"data\\\"\"",
		"-DGNU", "-include*o.h", "-imacros*m.h", "-include*m.h", "@rsp", "-fdiagnostics-color=always", "-fverbose-asm", "-std=gnu11", "-Wundef",
		"-fprofile-use", "-march=native", "-fanalyzer", "-Werror=unused-variable", "-pedantic", "-O2*-flto*-ffat-lto-objects*-frandom-seed=2",
		"-fsanitize=undefined", "-iprefix*x", "-nostdinc", "-iquote*.", "-fno-working-directory", "-gdwarf-4", "-ggdb3", "-fsanitize=address", "-m32",
		"-Wp,-imacros,second/m.h", "-Xpreprocessor*-DX", "-fmacro-prefix-map=src=z", "-fdiagnostics-format=json", "-Wno-all", "-P")...)
	argv = append(argv, e.one("-c", "-c", "-c", "-c", "-c", "-c", "-c", "-S", "-S", "-fsyntax-only"))
	source := e.one("src/x.c", "src/x.c", "src/x.c", "./src/x.c", "src/../src/x.c", e.where+"/src/x.c", "src/x.i", "src/x.S")
	argv = append(argv, source)
	if e.chance(8) {
		return append(argv, "src/y.c")
	}
	if e.chance(5) {
		return argv
	}
	return append(argv, "-o", e.one("out/x.o", "out/x.o", "x.out", "./out/x.o", e.where+"/out/x", source, "first/new.h"))
}

// put gives an input a content.
func (e *episode) put(path, content string) {
	full := filepath.Join(e.work, path)
	if content == absent {
		os.Remove(full)
		return
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o666); err != nil {
		e.t.Fatal(err)
	}
}

// edit changes an input, an argument or the environment.
func (e *episode) edit() {
	var paths []string
	for path := range e.files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	path := paths[e.r.IntN(len(paths))]
	switch e.r.IntN(16) {
	case 0:
		to := e.one("first", "second", "third")
		e.log = append(e.log, "link leads to "+to)
		os.Remove(filepath.Join(e.work, "link"))
		os.Symlink(to, filepath.Join(e.work, "link"))
	case 1:
		e.log = append(e.log, "third goes or comes")
		third, away := filepath.Join(e.work, "third"), e.dir+".away"
		if os.Rename(third, away) != nil && os.Rename(away, third) != nil {
			os.Mkdir(third, 0o777)
		}
	case 2:
		e.log = append(e.log, "old "+path)
		old := time.Unix(1e9, 0)
		os.Chtimes(filepath.Join(e.work, path), old, old)
	case 3:
		e.env = append(e.env, e.one("CPATH=first", "CPATH=", "CPATH=./third:", "C_INCLUDE_PATH=link", "LC_ALL=C.UTF-8", "LC_ALL=C", "SOURCE_DATE_EPOCH=1",
			"SOURCE_DATE_EPOCH=2", "GCC_COLORS=", "TERM=xterm", "VPATH=src", "COLUMNS=40", "LIBRARY_PATH=", "DEPENDENCIES_OUTPUT="))
		e.log = append(e.log, e.env[len(e.env)-1])
	case 4:
		source := slices.Index(e.flags, "src/x.c")
		if source < 0 {
			return
		}
		e.flags = slices.Insert(slices.Clone(e.flags), source, e.one("-O2", "-Wunused", "-DX", "-Isecond", "-g0", "-Ifirst"))
		e.log = append(e.log, "other arguments")
	case 5:
		e.move()
	default:
		contents := e.files[path]
		n := e.r.IntN(len(contents))
		e.log = append(e.log, fmt.Sprintf("%s = content %d", path, n))
		e.put(path, contents[n])
	}
}

// move gives the directory another name.
func (e *episode) move() {
	to := e.dir + ".moved"
	if e.work == to {
		to = e.dir + ".back"
	}
	e.log = append(e.log, "move to "+to)
	if err := os.Rename(e.work, to); err != nil {
		e.t.Fatal(err)
	}
	if e.where == e.work {
		for i, a := range e.flags {
			e.flags[i] = strings.ReplaceAll(a, e.work, to)
		}
		e.where = to
	} else {
		os.Remove(e.where)
		os.Symlink(to, e.where)
	}
	e.work = to
}

// both compiles twice from the same state, without and with the cache.
func (e *episode) both() {
	e.t.Helper()
	before := e.r.IntN(24)
	e.log = append(e.log, fmt.Sprintf("compile %q, outputs in state %d", e.flags, before))
	inputs := e.snapshot()
	e.outputsBefore(before)
	want := e.execIn(e.flags[0], e.flags[1:]...)
	alone := e.snapshot()
	e.restore(inputs)
	e.outputsBefore(before)
	got := e.execIn(os.Args[0], append([]string{"cc"}, e.flags...)...)
	cached := e.snapshot()
	e.restore(inputs)
	var bad []string
	if got != want {
		bad = append(bad, fmt.Sprintf("it ended with %+v, want %+v", got, want))
	}
	for path, w := range alone {
		if g := cached[path]; g != w {
			bad = append(bad, fmt.Sprintf("%s is\n%.300q, want\n%.300q", path, g, w))
		}
	}
	for path, g := range cached {
		if _, ok := alone[path]; !ok {
			bad = append(bad, fmt.Sprintf("%s is there: %.300q", path, g))
		}
	}
	if bad != nil {
		e.t.Fatalf("after %s:\n%s\nreplay: SARSEN_SEED=%d go test ./compiler -run '^TestRandom$'",
			strings.Join(e.log, "\n"), strings.Join(bad, "\n"), e.seed)
	}
}

func (e *episode) execIn(name string, argv ...string) outcome {
	env := e.env
	defer func() { e.env = env }()
	work := e.work
	e.env, e.work = append([]string{"PWD=" + e.where}, env...), e.where
	defer func() { e.work = work }()
	return e.exec(name, argv...)
}

// outputsBefore makes what is at the outputs' places before a compile.
func (e *episode) outputsBefore(n int) {
	out := filepath.Join(e.work, "out")
	if n != 0 {
		os.Mkdir(out, 0o777)
	}
	for _, path := range []string{"out/x.o", "out/x.d", "x.o", "x.out"} {
		full := filepath.Join(e.work, path)
		switch n {
		case 1:
			os.WriteFile(full, []byte("before"), 0o600)
		case 2:
			os.WriteFile(full, nil, 0o600)
		case 3:
			os.WriteFile(full, []byte("before"), 0o444)
		case 4:
			os.WriteFile(full, []byte("before"), 0o666)
			os.Link(full, full+".link")
		case 5:
			os.WriteFile(full, nil, 0o666)
			os.Link(full, full+".link")
		case 6:
			os.WriteFile(full+".target", []byte("before"), 0o666)
			os.Symlink(filepath.Base(full)+".target", full)
		case 7, 8:
			os.Mkdir(full, 0o777)
		}
	}
}

// snapshot returns all files: what they are, their modes and contents.
func (e *episode) snapshot() map[string]string {
	found := map[string]string{}
	err := filepath.WalkDir(e.work, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d links ", info.Sys().(*syscall.Stat_t).Nlink) + string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			text += to
		}
		found[path[len(e.work):]] = text
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return found
}

// restore removes what is not in inputs, and fails if one of them is another: the replay would be another too.
func (e *episode) restore(inputs map[string]string) {
	for path := range e.snapshot() {
		if _, ok := inputs[path]; !ok {
			os.RemoveAll(e.work + path)
		}
	}
}
