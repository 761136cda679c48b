package args

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// A world is a Source made of strings: names of files and, with a $ before them, of variables.
type world map[string]string

func (w world) ReadFile(name string) ([]byte, error) {
	if text, ok := w[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

func (w world) LookupEnv(name string) (string, bool) {
	value, set := w["$"+name]
	return value, set
}

// words splits a command line at spaces.
func words(line string) []string { return strings.Fields(line) }

// parse parses a command line that can be cached.
func parse(t *testing.T, d Dialect, line string, w world) *Command {
	t.Helper()
	c, err := Parse(d, words(line), w)
	if err != nil {
		t.Fatalf("%s %s: %v", d, line, err)
	}
	return c
}

// paths returns outputs as one string: kind=path, separated by spaces.
func paths(outputs []Output) string {
	var s []string
	for _, o := range outputs {
		if o.Maybe {
			o.Path += "?"
		}
		s = append(s, string(o.Kind)+"="+o.Path)
	}
	return strings.Join(s, " ")
}

func TestGCCOutputs(t *testing.T) {
	for _, test := range []struct {
		dialect    Dialect
		line, want string
	}{
		{GCC, "-c a.c", "object=a.o"},
		{GCC, "-c sub/a.c", "object=a.o"},
		{GCC, "-c a.b.c", "object=a.b.o"},
		{GCC, "-c a.c -oout/z", "object=out/z"},
		{GCC, "-c -S a.c", "object=a.s"},
		{GCC, "-MD -c sub/a.c", "object=a.o dependencies=a.d"},
		{GCC, "-MD -c sub/a.c -o out/z.obj", "object=out/z.obj dependencies=out/z.d"},
		{GCC, "-MD -c sub/a.c -o out/z", "object=out/z dependencies=out/z.d"},
		{GCC, "-MMD -MF d/x.d -c a.c -o out/z.o", "object=out/z.o dependencies=d/x.d"},
		{GCC, "-Wp,-MMD,d/.x.d -c a.c -o out/z.o", "object=out/z.o dependencies=d/.x.d"},
		{GCC, "-MD -c a.s", "object=a.o"},
		{GCC, "-MD -c a.S", "object=a.o dependencies=a.d"},
		{GCC, "-c x.y.c -o o/p.q.o --coverage -gsplit-dwarf -fstack-usage -fcallgraph-info",
			"object=o/p.q.o coverage-notes=o/p.q.gcno stack-usage=o/p.q.su call-graph=o/p.q.ci split-dwarf=o/p.q.dwo"},
		{GCC, "-S a.c --coverage -gsplit-dwarf", "object=a.s coverage-notes=a.gcno"},
		{GCC, "-c a.c -gsplit-dwarf -gno-split-dwarf", "object=a.o"},
		{Clang, "-c a.c -gsplit-dwarf", "object=a.o split-dwarf=a.dwo?"},
		{Clang, "-c a.c -gsplit-dwarf -g", "object=a.o split-dwarf=a.dwo"},
		{Clang, "-c a.c -gsplit-dwarf=single -g", "object=a.o"},
		{Clang, "-c a.c -g -gsplit-dwarf -g0", "object=a.o split-dwarf=a.dwo?"},
		{Clang, "-c a.c --serialize-diagnostics x/a.dia", "object=a.o diagnostics=x/a.dia"},
		{Clang, "-emit-llvm -c a.c", "object=a.bc"},
		{Clang, "-emit-llvm -S a.c", "object=a.ll"},
		{Clang, "-emit-llvm -S a.c -o a.o", "object=a.o"},
		{GCC, "-fsyntax-only a.c", ""},
		{GCC, "-fsyntax-only -c a.c -MD -o out/u.o", "dependencies=out/u.d"},
		{GCC, "sub/h.h", "precompiled-header=sub/h.h.gch"},
		{Clang, "-x c-header a.c -o out/h.pch -MD", "precompiled-header=out/h.pch dependencies=out/h.d"},
	} {
		if got := paths(parse(t, test.dialect, test.line, nil).Outputs); got != test.want {
			t.Errorf("%s %s: got %s, want %s", test.dialect, test.line, got, test.want)
		}
	}
}

func TestGCCRefused(t *testing.T) {
	for _, test := range []struct {
		line string
		want Reason
	}{
		{"", NoSource},
		{"--version", TooHard},
		{"-c", NoSource},
		{"a.c", Link},
		{"a.c -o a", Link},
		{"-o a a.o liba.a", Link},
		{"-E a.c", Preprocess},
		{"-c -M a.c", Preprocess},
		{"-c -MM a.c", Preprocess},
		{"-c a.c -save-temps", TooHard},
		{"-c a.c --save-temps=obj", TooHard},
		{"-c a.c -fdump-tree-all", TooHard},
		{"-c a.c -fmodules-ts", ModulesUsed},
		{"-c a.c -fmodule-header", ModulesUsed},
		{"-c a.c -fmodule-mapper=x", ModulesUsed},
		{"-c a.c -frepo", TooHard},
		{"-c a.c -ftime-trace", TooHard},
		{"-c a.c -wrapper gdb", TooHard},
		{"-c a.c -gtoggle", TooHard},
		{"-c a.c -MJ x.json", TooHard},
		{"-c a.c -B/usr/lib", TooHard},
		{"-c a.c -arch i386 -arch ppc", SeveralArchitectures},
		{"-c a.c -o -", OutputStdout},
		{"-c a.c -o /dev/null", Device},
		{"-c -", SourceStdin},
		{"-c -x c /dev/stdin", Device},
		{"-c a.xyz", UnknownLanguage},
		{"-c -x cuda a.c", UnknownLanguage},
		{"-c a.c -o a.o -o b.o", BadArguments},
		{"-c a.c b.c -o x.o", BadArguments},
		{"-c a.c b.c -MD -MF x.d", TooHard},
		{"-c a.c -MF x.d", BadArguments},
		{"-c a.c sub/a.c", TooHard},
		{"-S a.s", BadArguments},
		{"-fsyntax-only a.S", BadArguments},
		{"-c a.c -o", BadArguments},
		{"-c a.c -I-", TooHard},
		{"-c a.c -funknown=/x/y", TooHard},
		{"-c a.c -unknown", TooHard},
		{"-c a.c -Wp,-MD,x,-MT,y", TooHard},
		{"-c a.c -Wp,-P", TooHard},
		{"-c a.c -Wa,-al=x.lst", TooHard},
		{"-c a.c -Xclang -dependency-file -Xclang x", TooHard},
		{"-S a.c -fverbose-asm", TooHard},
		{"-S a.c -fverbose-asm -c", TooHard},
		{"-c a.c -fdiagnostics-format=sarif-file", TooHard},
		{"-c a.c -fdiagnostics-add-output=sarif:file=x", TooHard},
		{"-c a.c -fsave-optimization-record", TooHard},
		{"-c a.c -fopt-info-vec=x", TooHard},
		{"-c a.c -ftime-report", TooHard},
		{"-c a.c -aux-info x", TooHard},
		{"-c a.c -dumpbase x", TooHard},
		{"-c a.c -dM", TooHard},
		{"-c a.c -v", TooHard},
		{"-c a.c -###", TooHard},
		{"-c a.c -P", TooHard},
		{"-c a.c -MG -MD", TooHard},
		{"-c a.c -fcompare-debug", TooHard},
		{"-c a.c -fprofile-note=x", TooHard},
		{"-c a.c -fplugin=name", TooHard},
		{"-c a.c -I=usr", TooHard},
		{"-c a.c -isystem =/usr", TooHard},
		{"-c a.c -ivfsoverlay x", TooHard},
		{"-c a.c -Xarch_x86_64 -DX", TooHard},
		{"-c a.c --driver-mode=cl", TooHard},
		{"-c a.c --unknown", TooHard},
		{"-c a.c --config x.cfg", TooHard},
		{"-c a.c -Wa,-I,x", TooHard},
		{"-c a.c -Xassembler -MD -Xassembler x", TooHard},
		{"-c a.c -Xpreprocessor -MD -Xpreprocessor x", TooHard},
		{"-c a.c -Wp,-MD,x -MMD", TooHard},
		{"-c a.c -Wp,-MD,x -Wp,-MMD,y", TooHard},
		{"-c a.c -MD -MF /dev/stdout", TooHard},
		{"-c a.c -MD -MF x -MF y", TooHard},
		{"-c a.c -Xclang", BadArguments},
		{"-c a.c -Xclang -load", BadArguments},
		{"-c a.c -fdebug-prefix-map=x", BadArguments},
		{"-c a.c -o out/", BadArguments},
		{"-c h.h a.c", BadArguments},
		{"-fsyntax-only -MD a.c", TooHard},
		{"h.h --coverage", TooHard},
		{"-c a.cppm", UnknownLanguage},
		{"-c -x c++-module a.cc", ModulesUsed},
		{"-c a.c -fprebuilt-module-path=x", ModulesUsed},
		{"-c a.c a.o", UnknownLanguage},
		{"-c a.c -Wp,-include", BadArguments},
		{"-c @none", ResponseFile},
	} {
		_, err := Parse(GCC, words(test.line), world{})
		var u *Uncacheable
		if !errors.As(err, &u) || u.Reason != test.want {
			t.Errorf("gcc %s: got %v, want reason %s", test.line, err, test.want)
		}
	}
}

func TestGCCHashed(t *testing.T) {
	for _, test := range []struct{ line, hashed, pre, dep string }{
		{"-c a.c", "", "", ""},
		{"-O2 -Wall -std=c11 -fPIC -pipe -c a.c -o b.o", "-O2 -Wall -std=c11 -fPIC", "", ""},
		{"-Ifoo -I bar -DX=1 -D Y -UZ -c a.c", "", "-I foo -I bar -D X=1 -D Y -U Z", ""},
		{"-isystemfoo -iquote bar -idirafter baz -include h.h -imacros m.h -c a.c", "",
			"-isystem foo -iquote bar -idirafter baz -include h.h -imacros m.h", ""},
		{"-MMD -MP -MT x -MF y.d -c a.c", "", "", "-MMD -MP -MT x"},
		{"-Wp,-DX,-UY -Xpreprocessor -DZ -c a.c", "", "-Wp,-DX,-UY -Xpreprocessor -DZ", ""},
		{"--param max=1 --param=max=2 -c a.c", "--param max=1 --param =max=2", "", ""},
		{"-march=native -mtune=generic -c a.c", "-march=native -mtune=generic", "", ""},
	} {
		c := parse(t, GCC, test.line, nil)
		got := [3]string{strings.Join(c.Hashed[:len(c.Hashed)-3], " "), strings.Join(c.Preprocessor, " "), strings.Join(c.DepArgs, " ")}
		if want := [3]string{test.hashed, test.pre, test.dep}; got != want {
			t.Errorf("gcc %s:\ngot  %q\nwant %q", test.line, got, want)
		}
	}
}

func TestTablesAreSorted(t *testing.T) {
	if !slices.IsSortedFunc(gccOptions, func(a, b option) int { return strings.Compare(a.name, b.name) }) {
		t.Error("gccOptions is not sorted by name")
	}
	if !slices.IsSortedFunc(msvcOptions, func(a, b option) int { return strings.Compare(a.name, b.name) }) {
		t.Error("msvcOptions is not sorted by name")
	}
}
