package args

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

func TestDialectOf(t *testing.T) {
	for _, test := range []struct {
		name string
		want Dialect
	}{
		{"gcc", GCC}, {"/usr/bin/gcc", GCC}, {"gcc-12", GCC}, {"gcc-4.9.3", GCC}, {"gcc12", GCC}, {"cc", GCC}, {"c++", GXX},
		{"g++", GXX}, {"g++-13", GXX}, {"x86_64-linux-gnu-gcc-12", GCC}, {"x86_64-linux-gnu-g++", GXX},
		{"x86_64-w64-mingw32-gcc-posix", GCC}, {"x86_64-w64-mingw32-g++-win32", GXX}, {"arm-none-eabi-gcc.exe", GCC},
		{"clang", Clang}, {"clang-19", Clang}, {"clang++", ClangXX}, {"clang++-19.1", ClangXX}, {"clang++14", ClangXX},
		{"aarch64-linux-android21-clang++", ClangXX}, {"clang-cl", ClangCL}, {"clang-cl-19", ClangCL}, {`C:\LLVM\bin\clang-cl.EXE`, ClangCL},
		{"cl", MSVC}, {"cl.exe", MSVC}, {"CL.EXE", MSVC}, {`C:\VC\bin\cl.exe`, MSVC},
		{"", 0}, {"ld", 0}, {"cc1", 0}, {"gcc-ar", 0}, {"gcc-ar-12", 0}, {"ccache", 0}, {"clang-tidy", 0}, {"clang-format-14", 0},
		{"distcc", 0}, {"nvcc", 0}, {"rustc", 0}, {"gcc/", 0}, {"icc", 0}, {"cpp", 0}, {"ocl", 0},
	} {
		got, ok := DialectOf(test.name)
		if got != test.want || ok != (test.want != 0) {
			t.Errorf("%q: got %v, %v, want %v", test.name, got, ok, test.want)
		}
	}
}

func TestGCCLanguages(t *testing.T) {
	for _, test := range []struct {
		dialect    Dialect
		line, want string
	}{
		{GCC, "-c a.c", "c"},
		{GXX, "-c a.c", "c++"},
		{ClangXX, "-c a.c", "c++"},
		{GXX, "-c a.i", "c++-cpp-output"},
		{GXX, "a.h", "c++-header"},
		{GXX, "-c -x c a.c", "c"},
		{GXX, "-c a.m", "objective-c"},
		{GCC, "-c a.cc b.cpp c.cxx d.C e.c++ f.cp g.CPP", "c++ c++ c++ c++ c++ c++ c++"},
		{GCC, "-c a.i b.ii c.mi d.mii e.m f.mm g.M", "cpp-output c++-cpp-output objective-c-cpp-output objective-c++-cpp-output objective-c objective-c++ objective-c++"},
		{GCC, "-c a.s b.S c.sx", "assembler assembler-with-cpp assembler-with-cpp"},
		{GCC, "-c -x c++ a.c -x none b.c -xassembler c.c", "c++ c assembler"},
		{GCC, "-c a.c -x c++", "c"},
		{GCC, "-c -x c dir.d/noext", "c"},
	} {
		var got []string
		for _, p := range parse(t, test.dialect, test.line, nil).Split() {
			got = append(got, p.Language)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s %s: got %v, want %s", test.dialect, test.line, got, test.want)
		}
	}
}

func TestGCCFlags(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		line    string
		want    Flags
	}{
		{GCC, "-c a.c", Flags{}},
		{GCC, "-c a.c -g", Flags{Debug: true, HashDir: true}},
		{GCC, "-c a.c -ggdb3 -gdwarf-4", Flags{Debug: true, HashDir: true, HashPreprocessor: true}},
		{GCC, "-c a.c -g -g0", Flags{}},
		{GCC, "-c a.c -gsplit-dwarf", Flags{HashDir: true, HashOutput: true}},
		{GCC, "-c a.c -march=native", Flags{Native: true}},
		{GCC, "-c a.c -mtune=native", Flags{Native: true}},
		{GCC, "-c a.c -mcpu=native+crypto", Flags{Native: true}},
		{GCC, "-c a.c -march=x86-64", Flags{}},
		{GCC, "-c a.c --coverage", Flags{Coverage: true, HashDir: true, HashOutput: true}},
		{GCC, "-c a.c -fprofile-arcs", Flags{Coverage: true, HashDir: true, HashOutput: true}},
		{GCC, "-c a.c -fprofile-generate=x", Flags{Coverage: true, HashDir: true, HashOutput: true}},
		{GCC, "-c a.c -fprofile-use=x", Flags{Profile: true, HashDir: true}},
		{Clang, "-c a.c -fcoverage-mapping", Flags{Coverage: true, HashDir: true, HashOutput: true}},
		{Clang, "-c a.c -include-pch x.pch", Flags{UsesPCH: true}},
		{Clang, "-c a.c -Xclang -include-pch -Xclang x.pch", Flags{UsesPCH: true}},
		{Clang, "-c a.c -fdebug-macro", Flags{HashPreprocessor: true}},
		{GCC, "h.h", Flags{CreatesPCH: true}},
		{GCC, "-c a.c -flto=auto", Flags{LTO: true, HashDir: true}},
		{Clang, "-c a.c -flto=thin", Flags{LTO: true, HashDir: true}},
		{GCC, "-c a.c -g3", Flags{Debug: true, HashDir: true, HashPreprocessor: true}},
		{GCC, "-c a.c -fworking-directory", Flags{HashDir: true}},
		{GCC, "-c a.c -frecord-gcc-switches", Flags{HashDir: true, HashOutput: true, HashPreprocessor: true}},
		{GCC, "-c a.i", Flags{NoPreprocessor: true, HashPreprocessor: true}},
		{GCC, "-c a.s", Flags{NoPreprocessor: true, HashPreprocessor: true, Assembler: true}},
		{GCC, "-c a.S -Wa,-gdwarf-5", Flags{HashDir: true, Assembler: true}},
	} {
		if got := parse(t, test.dialect, test.line, nil).Flags; got != test.want {
			t.Errorf("%s %s: got %+v, want %+v", test.dialect, test.line, got, test.want)
		}
	}
}

func TestGCCNames(t *testing.T) {
	c := parse(t, GCC, "-c a.c -include x.h -imacrosy.h -Ip -iquote q -isystem r -idirafter s -F t -Wp,-include,z.h -Xpreprocessor -Iu"+
		" -fplugin=./p.so -fplugin-arg-p-list=p.txt -specs=s.specs -fprofile-use=prof -fdebug-prefix-map=/a=b -fmacro-prefix-map=c==", world{"$CPATH": ":v", "$C_INCLUDE_PATH": "w", "$CPLUS_INCLUDE_PATH": "no"})
	if want := []string{"x.h", "y.h", "z.h"}; !slices.Equal(c.Includes, want) {
		t.Errorf("got includes %q, want %q", c.Includes, want)
	}
	dirs := []IncludeDir{{PlainDir, "p"}, {QuoteDir, "q"}, {SystemDir, "r"}, {AfterDir, "s"}, {FrameworkDir, "t"}, {PlainDir, "u"},
		{PlainDir, "."}, {PlainDir, "v"}, {SystemDir, "w"}}
	if !slices.Equal(c.IncludeDirs, dirs) {
		t.Errorf("got directories %v, want %v", c.IncludeDirs, dirs)
	}
	if want := []string{"./p.so", "p.txt", "s.specs", "prof"}; !slices.Equal(c.ExtraFiles, want) {
		t.Errorf("got files %q, want %q", c.ExtraFiles, want)
	}
	if want := []PrefixMap{{"/a", "b"}, {"c", "="}}; !slices.Equal(c.PrefixMaps, want) {
		t.Errorf("got prefixes %v, want %v", c.PrefixMaps, want)
	}
}

func TestGCCProfiles(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		line    string
		want    []string
	}{
		{GCC, "-c sub/a.c -fprofile-use", []string{"a.gcda"}},
		{GCC, "-c sub/a.c -fprofile-use -o out/x.o", []string{"out/x.gcda"}},
		{Clang, "-c a.c -fprofile-use", []string{"default.profdata"}},
		{Clang, "-c a.c -fprofile-instr-use=x.profdata", []string{"x.profdata"}},
		{Clang, "-c a.c -fprofile-sample-use=x -fsanitize-blacklist=y -fsanitize-ignorelist=z", []string{"x", "y", "z"}},
		{Clang, "-c a.c -fpass-plugin=./x.so -Xclang -load -Xclang ./y.so", []string{"./x.so", "./y.so"}},
	} {
		if got := parse(t, test.dialect, test.line, nil).ExtraFiles; !slices.Equal(got, test.want) {
			t.Errorf("%s %s: got %q, want %q", test.dialect, test.line, got, test.want)
		}
	}
}

func TestGCCDependencies(t *testing.T) {
	for _, test := range []struct {
		dialect                  Dialect
		line, mode, file, target string
	}{
		{GCC, "-c a.c", "", "", ""},
		{GCC, "-c a.c -MD", "-MD", "a.d", "a.o"},
		{GCC, "-c sub/a.c -MMD -o out/b.o", "-MMD", "out/b.d", "out/b.o"},
		{GCC, "-c a.c -MMD -MD -MFx", "-MMD", "x", "a.o"},
		{GCC, "-c a.c -MD -MT t", "-MD", "a.d", ""},
		{GCC, "-c sub/a.c -Wp,-MD,x -o out/b.o", "-MD", "x", "a.o"},
		{Clang, "-c sub/a.c -Wp,-MD,x -o out/b.o", "-MD", "x", "out/b.o"},
		{GCC, "-c a.s -MD", "", "", ""},
		{GCC, "-c a.i -MD -MF x", "", "", ""},
	} {
		c := parse(t, test.dialect, test.line, nil)
		if c.DepMode != test.mode || c.DepFile != test.file || c.DepTarget != test.target {
			t.Errorf("%s %s: got %q %q %q, want %q %q %q", test.dialect, test.line, c.DepMode, c.DepFile, c.DepTarget, test.mode, test.file, test.target)
		}
	}
}

func TestGCCColors(t *testing.T) {
	for _, test := range []struct {
		line string
		want Color
	}{
		{"-c a.c", ColorAuto},
		{"-c a.c -fdiagnostics-color", ColorAlways},
		{"-c a.c -fcolor-diagnostics", ColorAlways},
		{"-c a.c -fdiagnostics-color=always -fno-diagnostics-color", ColorNever},
		{"-c a.c -fno-color-diagnostics", ColorNever},
		{"-c a.c -fdiagnostics-color=never -fdiagnostics-color=auto", ColorAuto},
	} {
		if got := parse(t, GCC, test.line, nil).Color; got != test.want {
			t.Errorf("gcc %s: got %v, want %v", test.line, got, test.want)
		}
	}
}

func TestGCCBuild(t *testing.T) {
	for _, test := range []struct{ line, preprocess, compile string }{
		{"-c a.c", "-E a.c", "-MD -MF D -c a.c"},
		{"-O2 -c a.c -o x -MD -MF y -MT z -DX", "-E -O2 a.c -DX", "-O2 -c a.c -o x -MD -MF y -MT z -DX"},
		{"-S a.c -Wp,-MD,x -Wp,-DY", "-E a.c -Wp,-DY", "-S a.c -Wp,-MD,x -Wp,-DY"},
		{"-c a.s", "", "-c a.s"},
		{"-c a.c -Wdocumentation-pedantic", "-E -C a.c -Wdocumentation-pedantic", "-MD -MF D -c a.c -Wdocumentation-pedantic"},
		{"-fsyntax-only a.c", "-E a.c", "-MD -MF D -fsyntax-only a.c"},
		{"-c -x c strange", "-E -x c strange", "-MD -MF D -c -x c strange"},
	} {
		c := parse(t, GCC, test.line, nil)
		if got := strings.Join(c.PreprocessArgv(), " "); got != test.preprocess {
			t.Errorf("%s: preprocess with %s, want %s", test.line, got, test.preprocess)
		}
		if got := strings.Join(c.CompileArgv("D"), " "); got != test.compile {
			t.Errorf("%s: compile with %s, want %s", test.line, got, test.compile)
		}
		if got := strings.Join(c.CompileArgv(""), " "); got != test.line {
			t.Errorf("%s: compile with %s", test.line, got)
		}
	}
}

// What may be hashed apart is apart: commands that differ in what they mean differ in what is hashed.
func TestHashedDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, test := range []struct {
		dialect Dialect
		line    string
	}{
		{GCC, "-c a.c"}, {GXX, "-c a.c"}, {Clang, "-c a.c"}, {GCC, "-S a.c"}, {GCC, "-fsyntax-only a.c"}, {GCC, "-c -x c++ a.c"},
		{GCC, "-x c-header a.c"}, {GCC, "-c a.c -DX"}, {GCC, "-c a.c -DX -DY"}, {GCC, "-c a.c -DY -DX"}, {GCC, "-c a.c -DX -UX"}, {GCC, "-c a.c -UX -DX"},
		{GCC, "-c a.c -O2"}, {GCC, "-c a.c -O2 -O3"}, {GCC, "-c a.c -O3 -O2"}, {GCC, "-c a.c -Ix"}, {GCC, "-c a.c -isystem x"}, {GCC, "-c a.c -include x"},
		{GCC, "-c a.c -MD -MFz"}, {GCC, "-c a.c -MMD -MFz"}, {GCC, "-c a.c -MD -MP -MFz"}, {GCC, "-c a.c -MD -MT x -MFz"}, {GCC, "-c a.c -MD -MQ x -MFz"}, {GCC, "-c a.c -Wp,-MD,z"},
		{MSVC, "/c a.c"}, {MSVC, "/TP /c a.c"}, {MSVC, "/c /Tpa.c"}, {ClangCL, "/c a.c"}, {MSVC, "/c a.c /showIncludes"}, {MSVC, "/c a.c /nologo"}, {MSVC, "/Zs a.c"},
		{MSVC, "/c a.c /sourceDependencies x.json"},
	} {
		c := parse(t, test.dialect, test.line, nil)
		key := strings.Join(slices.Concat(c.Hashed, []string{"|"}, c.Preprocessor, []string{"|"}, c.DepArgs), " ")
		line := test.dialect.String() + " " + test.line
		if seen[key] != "" {
			t.Errorf("%s and %s are hashed alike: %s", line, seen[key], key)
		}
		seen[key] = line
	}
}

func TestHashedAlike(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		a, b    string
	}{
		{GCC, "-c a.c -o x.o", "-c -oy.o a.c"},
		{GCC, "-c a.c -Ix -DY", "-I x -D Y -c a.c"},
		{GCC, "-c a.c -pipe", "-c a.c"},
		{GCC, "-c a.c -x c++", "-c a.c"},
		{GCC, "-c -x c a.c", "-c a.c"},
		{MSVC, "/c a.c /Fox.obj", "-c -Foy.obj a.c"},
		{MSVC, "/c a.c /MP8 /O2", "/c -O2 a.c"},
		{MSVC, "/c /Tca.c", "/c a.c"},
		{ClangCL, "/c a.c /clang:-MD /clang:-MF /clang:x /clang:-MTy", "/c a.c"},
	} {
		a, b := parse(t, test.dialect, test.a, nil), parse(t, test.dialect, test.b, nil)
		if !slices.Equal(a.Hashed, b.Hashed) || !slices.Equal(a.Preprocessor, b.Preprocessor) {
			t.Errorf("%s and %s are hashed apart: %q %q, %q %q", test.a, test.b, a.Hashed, a.Preprocessor, b.Hashed, b.Preprocessor)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		name    string
	}{
		{GCC, "DEPENDENCIES_OUTPUT"}, {GXX, "SUNPRO_DEPENDENCIES"}, {GCC, "COMPILER_PATH"}, {GCC, "GCC_EXEC_PREFIX"},
		{Clang, "CCC_OVERRIDE_OPTIONS"}, {ClangCL, "CCC_OVERRIDE_OPTIONS"}, {MSVC, "VS_UNICODE_OUTPUT"},
	} {
		for _, value := range []string{"x", ""} { // an empty one is set too
			_, err := Parse(test.dialect, words("-c a.c"), world{"$" + test.name: value})
			var u *Uncacheable
			if !errors.As(err, &u) || u.Reason != Environment || u.Detail != test.name {
				t.Errorf("%s with %s=%s: got %v", test.dialect, test.name, value, err)
			}
		}
	}
}

func TestSplitGNU(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"", nil}, {" \t\r\n\v\f ", nil},
		{"a b\tc\nd\r\ne", []string{"a", "b", "c", "d", "e"}},
		{`'a b' "c d"`, []string{"a b", "c d"}},
		{`a'b c'd"e f"`, []string{"ab cde f"}},
		{`a\ b \"c \'d \\e`, []string{"a b", `"c`, "'d", `\e`}},
		{`"a\"b" 'c\'d' "e\\f" "g\h"`, []string{`a"b`, "c'd", `e\f`, "gh"}},
		{`"a'b" 'c"d'`, []string{"a'b", `c"d`}},
		{`'' ""`, []string{"", ""}},
		{`"a`, []string{"a"}},
		{`a\`, []string{`a\`}},
		{"a\\\nb", []string{"a\nb"}},
	} {
		if got := splitGNU(test.text); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

func TestSplitMicrosoft(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"", nil}, {" \t\r\n ", nil},
		{"a b\r\nc", []string{"a", "b", "c"}},
		{`"a b" c"d e"f`, []string{"a b", "cd ef"}},
		{`'a b'`, []string{"'a", "b'"}},
		{`a\b\\c`, []string{`a\b\\c`}},
		{`a\"b`, []string{`a"b`}},
		{`a\\"b c"`, []string{`a\b c`}},
		{`a\\\"b`, []string{`a\"b`}},
		{`a\\\\"b c" d`, []string{`a\\b c`, "d"}},
		{`"a\" b" c`, []string{`a" b`, "c"}},
		{`"C:\dir\\" x`, []string{`C:\dir\`, "x"}},
		{`"a""b" c`, []string{`a"b`, "c"}},
		{`/DX="\"a b\""`, []string{`/DX="a b"`}},
		{`"" x`, []string{"", "x"}},
		{`"a`, []string{"a"}},
		{`a\`, []string{`a\`}},
	} {
		if got := splitMicrosoft(test.text); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

// units returns text as UTF-16 with a byte order mark.
func units(text string, little bool) string {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + text)) {
		if little {
			u = u<<8 | u>>8
		}
		b = append(b, byte(u>>8), byte(u))
	}
	return string(b)
}

func TestDecode(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""}, {"a", "a"}, {"\xff", "\xff"}, {"\xffa", "\xffa"},
		{"\ufeffä", "ä"}, {units("ä€𝄞", true), "ä€𝄞"}, {units("ä€𝄞", false), "ä€𝄞"},
		{"\xff\xfea", ""}, {"\xff\xfe", ""},
	} {
		if got := decode(test.text); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

func TestResponseFiles(t *testing.T) {
	w := world{
		"args": "-DX -c '@more'", "more": `a\ b.c "-o" x.o`, "self": "@self",
		"ms": units(`/c "a b.c" /Fo"x y.obj" @sub\more`, true), `sub\more`: "\ufeff/O2",
	}
	for _, test := range []struct {
		dialect    Dialect
		line, want string
	}{
		{GCC, "@args -O2", "-DX|-c|a b.c|-o|x.o|-O2"},
		{Clang, "@args", "-DX|-c|a b.c|-o|x.o"},
		{MSVC, "@ms /W4", "/c|a b.c|/Fox y.obj|/O2|/W4"},
		{ClangCL, "@ms", "/c|a b.c|/Fox y.obj|/O2"},
	} {
		if got := strings.Join(parse(t, test.dialect, test.line, w).Argv, "|"); got != test.want {
			t.Errorf("%s %s: got %s, want %s", test.dialect, test.line, got, test.want)
		}
	}
	for _, line := range []string{"@self", "-c a.c @none", "-c a.c -o @none"} {
		_, err := Parse(GCC, words(line), w)
		var u *Uncacheable
		if !errors.As(err, &u) || u.Reason != ResponseFile {
			t.Errorf("gcc %s: got %v, want reason %s", line, err, ResponseFile)
		}
	}
}

func TestAssemblerReads(t *testing.T) {
	for _, test := range []struct {
		text string
		want bool
	}{
		{"", false}, {".", false}, {".inc", false}, {"x.include", false}, {".incbin", true}, {`asm(".incbin \"x\"");`, true},
		{"\t.INCBIN x", true}, {`.include "x"`, true}, {`asm(".include\t\"x\"")`, true}, {`a.include = "x"`, false}, {"#include <x>", false},
		{"..incbin", true}, {"incbin", false},
	} {
		if got := AssemblerReads([]byte(test.text)); got != test.want {
			t.Errorf("%q: got %v, want %v", test.text, got, test.want)
		}
	}
}

func TestReasons(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons {
		if seen[r] || r.Text() == string(r) {
			t.Errorf("%s is there twice, or has no words", r)
		}
		seen[r] = true
	}
	if got, want := refuse(TooHard, "-x").Error(), "an option that cannot be cached: -x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLookup(t *testing.T) {
	for _, table := range [][]option{gccOptions, msvcOptions} {
		for _, o := range table {
			if got, _ := lookup(table, o.name); got != o {
				t.Errorf("%s finds %v", o.name, got)
			}
			// Whatever follows, the longest name that takes it is found.
			for _, tail := range []string{"z", "=", "-", "~"} {
				var want option
				for _, p := range table {
					if strings.HasPrefix(o.name+tail, p.name) && p.takes(o.name+tail) && len(p.name) > len(want.name) {
						want = p
					}
				}
				if got, _ := lookup(table, o.name+tail); got != want {
					t.Errorf("%s finds %v, want %v", o.name+tail, got, want)
				}
			}
		}
	}
}

// stable checks that what was parsed is parsed alike again.
func stable(t *testing.T, c *Command, src Source) {
	t.Helper()
	again, err := Parse(c.Dialect, c.Argv, src)
	if err != nil {
		t.Fatalf("%s %q: %v", c.Dialect, c.Argv, err)
	}
	if !reflect.DeepEqual(again, c) {
		t.Errorf("%s %q:\nfirst  %+v\nsecond %+v", c.Dialect, c.Argv, c, again)
	}
}

// FuzzParse sees that no command line makes Parse panic, that what can be cached is parsed alike once
// its response files are expanded, and so are its parts.
func FuzzParse(f *testing.F) {
	for _, line := range slices.Concat(bothLines, gccLines, clangLines) {
		f.Add(byte(GCC), strings.Join(words(line), "\n"), "-O2 'a b'")
		f.Add(byte(ClangXX), strings.Join(words(line), "\n"), "@r")
	}
	for _, line := range clangCLLines {
		f.Add(byte(ClangCL), strings.Join(words(line), "\n"), "/O2 \"a b\"")
		f.Add(byte(MSVC), strings.Join(words(line), "\n"), "/DX#1")
	}
	f.Fuzz(func(t *testing.T, dialect byte, line, file string) {
		argv := strings.Split(line, "\n")
		w := world{"args": file, "nested": "@args", "r": file, "$CL": "", "$CPATH": file}
		c, err := Parse(Dialect(dialect%8), argv, w)
		if err != nil {
			var u *Uncacheable
			if !errors.As(err, &u) || !slices.Contains(Reasons, u.Reason) {
				t.Fatalf("%q: %v is no reason", argv, err)
			}
			return
		}
		if c.Split()[0] == c {
			stable(t, c, w)
		}
		for _, p := range c.Split() {
			if len(p.Sources) != 1 || p.Language == "" || p.Outputs == nil && p.Mode != SyntaxOnly {
				t.Fatalf("%q: a part without source, language or output: %s", argv, strconv.Quote(p.Output))
			}
			p.PreprocessArgv()
			p.CompileArgv("x")
			again, err := Parse(p.Dialect, p.Argv, w)
			if err != nil || !slices.Equal(again.Hashed, p.Hashed) || !slices.Equal(again.Outputs, p.Outputs) || again.Flags != p.Flags {
				t.Fatalf("%s %q: %v\nfirst  %+v\nsecond %+v", p.Dialect, p.Argv, err, p, again)
			}
		}
	})
}

// FuzzSplit sees that words that need no quotes come back as they were.
func FuzzSplit(f *testing.F) {
	f.Add("a 'b c' \\\"", "\\\\\" x")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, split := range []func(string) []string{splitGNU, splitMicrosoft} {
			for _, w := range split(decode(a)) {
				if strings.ContainsAny(w, " \t\r\n\v\f\x00\\'\"") || w == "" {
					continue
				}
				if got := split("x " + w + "\n" + w); !slices.Equal(got, []string{"x", w, w}) {
					t.Errorf("%q: got %q", w, got)
				}
			}
			split(b)
		}
	})
}
