package args

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestMSVCOutputs(t *testing.T) {
	for _, test := range []struct {
		dialect    Dialect
		line, want string
	}{
		{MSVC, "/c a.cpp", "object=a.obj"},
		{MSVC, "-c a.cpp", "object=a.obj"},
		{MSVC, `/c dir\a.b.cpp`, "object=a.b.obj"},
		{MSVC, `/c C:a.cpp`, "object=a.obj"},
		{MSVC, `/c a.cpp /Foout\`, `object=out\a.obj`},
		{MSVC, "/c a.cpp /Foout/", "object=out/a.obj"},
		{MSVC, `/c a.cpp /Fo:out\x.o`, `object=out\x.o`},
		{MSVC, "/c a.cpp /Foout", "object=out.obj"},
		{MSVC, `/c a.cpp /Fo.\x`, `object=.\x.obj`},
		{MSVC, "/c a.cpp /Fo", "object=a.obj"},
		{MSVC, `/c /Tpa.x /Fox.obj`, "object=x.obj"},
		{MSVC, `/c a.cpp /sourceDependencies d.json`, "object=a.obj source-dependencies=d.json"},
		{MSVC, `/c a.cpp /sourceDependenciesout\`, `object=a.obj source-dependencies=out\a.cpp.json`},
		{MSVC, "/Zs a.cpp", ""},
		{ClangCL, "/c a.cpp", "object=a.obj"},
		{ClangCL, "/c a.cpp -o x/y", "object=x/y.obj"},
		{ClangCL, "/c a.cpp /ox/y.o", "object=x/y.o"},
		{ClangCL, "-c -- /usr/a.cpp", "object=a.obj"},
		{ClangCL, "-c /home/me/a.cpp", "object=a.obj"},
		{ClangCL, "/c a.cpp /clang:-MD /clang:-MF /clang:x.d", "object=a.obj dependencies=x.d"},
		{ClangCL, "/c a.cpp /clang:-MMD /clang:-MFx.d", "object=a.obj dependencies=x.d"},
		{ClangCL, "/c a.cpp /Zi /Fdx.pdb", "object=a.obj"},
		{Clang, "--driver-mode=cl /c a.cpp", "object=a.obj"},
	} {
		if got := paths(parse(t, test.dialect, test.line, nil).Outputs); got != test.want {
			t.Errorf("%s %s: got %s, want %s", test.dialect, test.line, got, test.want)
		}
	}
}

func TestMSVCRefused(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		line    string
		want    Reason
	}{
		{MSVC, "", NoSource},
		{MSVC, "/c", NoSource},
		{MSVC, "/c /nologo", NoSource},
		{MSVC, "a.cpp", Link},
		{MSVC, "a.cpp /link", Link},
		{MSVC, "a.obj b.lib", Link},
		{MSVC, "/c a.cpp /link /OUT:x", Link},
		{MSVC, "a.cpp /Fex.exe", Link},
		{MSVC, "/c a.cpp /Zi", DebugDatabase},
		{MSVC, "/c a.cpp -ZI", DebugDatabase},
		{MSVC, "/c a.cpp /Z7 /Zi", DebugDatabase},
		{MSVC, "/c a.cpp /Yc", PrecompiledHeaders},
		{MSVC, "/c a.cpp /Ycx.h", PrecompiledHeaders},
		{MSVC, "/c a.cpp /Yux.h", PrecompiledHeaders},
		{MSVC, "/E a.cpp", Preprocess},
		{MSVC, "/EP /c a.cpp", Preprocess},
		{MSVC, "/P a.cpp", Preprocess},
		{MSVC, "/c a.obj", UnknownLanguage},
		{MSVC, "/c a.cpp b.lib", UnknownLanguage},
		{MSVC, "/c a.cpp b.cpp /Fox.obj", BadArguments},
		{MSVC, "/c a.cpp /FAcs", TooHard},
		{MSVC, `/c a.cpp sub\a.c`, TooHard},
		{MSVC, "/c a.cpp /Fax.asm", TooHard},
		{MSVC, "/c a.cpp /FR", TooHard},
		{MSVC, "/c a.cpp /analyze", TooHard},
		{MSVC, "/c a.cpp /docx.xml", TooHard},
		{MSVC, "/c a.cpp /clr", TooHard},
		{MSVC, "/c a.cpp /AI x", TooHard},
		{MSVC, "/c a.cpp /unknown", TooHard},
		{MSVC, "/c a.cpp -fwhatever", TooHard},
		{MSVC, "/c a.cpp /Fo: x.obj", TooHard},
		{ClangCL, "/c a.cpp /Fo:x.obj", TooHard},
		{ClangCL, "/c a.cpp /clang:-MD", TooHard},
		{MSVC, "/c a.cpp /interface", ModulesUsed},
		{MSVC, "/c a.cpp /ifcOutput x.ifc", ModulesUsed},
		{MSVC, "/c a.cpp /headerUnit x=y", ModulesUsed},
		{MSVC, "/c a.cpp /sourceDependencies -", OutputStdout},
		{MSVC, "/c a.cpp /sourceDependencies out", TooHard},
		{MSVC, "/c a.cpp b.cpp /sourceDependencies out.json", TooHard},
		{MSVC, "/c a.cpp /sourceDependencies:directives x.json", TooHard},
		{MSVC, "/c a.cpp /MPx", BadArguments},
		{MSVC, "/c a.cpp /I", BadArguments},
		{MSVC, "/c a.cpp /Fonul", Device},
		{MSVC, "/c @none", ResponseFile},
		{ClangCL, "/c a.cpp /Ycx.h", PrecompiledHeaders},
		{ClangCL, "/c a.cpp -Xclang -emit-pch", TooHard},
		{ClangCL, "/c a.cpp /clang:--coverage", TooHard},
		{ClangCL, "/c a.cpp /clang:-o /clang:x", TooHard},
		{ClangCL, "/c a.cpp /clang:-save-temps", TooHard},
		{ClangCL, "/c a.cpp /clang:-MF", BadArguments},
		{ClangCL, "/c a.cpp -isystem x", TooHard},
		{ClangCL, "/c -", SourceStdin},
		{ClangCL, "/c a.h", PrecompiledHeaders},
		{ClangCL, "/c a.cpp /usr/lib/b.o", TooHard},
	} {
		_, err := Parse(test.dialect, words(test.line), world{})
		var u *Uncacheable
		if !errors.As(err, &u) || u.Reason != test.want {
			t.Errorf("%s %s: got %v, want reason %s", test.dialect, test.line, err, test.want)
		}
	}
}

func TestMSVCHashed(t *testing.T) {
	for _, test := range []struct {
		dialect           Dialect
		line, hashed, pre string
	}{
		{MSVC, "/nologo -O2 /W4 /wd4127 /EHsc /MD /Z7 /c a.cpp /Foa.obj", "/nologo /O2 /W4 /wd4127 /EHsc /MD /Z7", ""},
		{MSVC, "/c a.cpp /MP4 /showIncludes", "/showIncludes", ""},
		{MSVC, "/c a.cpp /Ifoo /I bar /DX=1 /D Y /UZ /FIh.h /FI i.h", "", "/I foo /I bar /D X=1 /D Y /U Z /FI h.h /FI i.h"},
		{MSVC, "/c a.cpp /external:I x /external:Iy /external:W0 /X", "/external:W0", "/external:I x /external:I y /X"},
		{MSVC, "/TP /c a.c", "/TP", ""},
		{ClangCL, "/c a.cpp -m32 --target=i686-pc-windows-msvc -fsanitize=address -Xclang -fno-pch-timestamp /clang:-O3 -imsvc x",
			"-m32 --target=i686-pc-windows-msvc /fsanitize=address -Xclang -fno-pch-timestamp /clang:-O3", "/imsvc x"},
	} {
		c := parse(t, test.dialect, test.line, nil)
		got := [2]string{strings.Join(c.Hashed[:len(c.Hashed)-3], " "), strings.Join(c.Preprocessor, " ")}
		if want := [2]string{test.hashed, test.pre}; got != want {
			t.Errorf("%s %s:\ngot  %q\nwant %q", test.dialect, test.line, got, want)
		}
	}
}

func TestMSVCLanguages(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"/c a.c", "c"},
		{"/c a.C", "c"},
		{"/c a.CPP", "c++"},
		{"/c a.cxx", "c++"},
		{"/c a.cc", "c++"},
		{"/c /Tpa.c", "c++"},
		{"/c /Tp a.c", "c++"},
		{"/c /Tca.cpp", "c"},
		{"/c /TP a.c", "c++"},
		{"/c a.cpp /TC", "c"},
		{"/c a.c b.cpp", "c c++"},
		{"/c /Tpa.c b.c", "c++ c"},
		{"/c /TP a.c b.xyz", "c++ c++"},
	} {
		var got []string
		for _, p := range parse(t, MSVC, test.line, nil).Split() {
			got = append(got, p.Language)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("cl %s: got %v, want %s", test.line, got, test.want)
		}
	}
}

func TestMSVCJobs(t *testing.T) {
	for _, test := range []struct {
		line string
		want int
	}{{"/c a.c", 0}, {"/c a.c /MP", -1}, {"/c a.c -MP12", 12}} {
		if got := parse(t, MSVC, test.line, nil).Jobs; got != test.want {
			t.Errorf("cl %s: got %d, want %d", test.line, got, test.want)
		}
	}
}

func TestMSVCVariables(t *testing.T) {
	for _, test := range []struct {
		dialect             Dialect
		before, argv, after string
		want                string
		wantPre             string
	}{
		{MSVC, "", "/c a.c", "", "/c a.c", ""},
		{MSVC, "/DX#1 /O2", "/c a.c", "/DY#a#b", "/DX=1 /O2 /c a.c /DY=a#b", "/D X=1 /D Y=a#b"},
		{MSVC, "/Ia#b", "/c a.c", "", "/Ia#b /c a.c", "/I a#b"},
		{ClangCL, "/Ia#b", "/c a.c", "", "/Ia=b /c a.c", "/I a=b"},
		{MSVC, "@r", "/c a.c", "", "/DR /c a.c", "/D R"},
		{MSVC, "/c", "", "a.c", "/c a.c", ""},
	} {
		w := world{"$CL": test.before, "$_CL_": test.after, "r": "/DR"}
		c := parse(t, test.dialect, test.argv, w)
		if got := strings.Join(c.Argv, " "); got != test.want {
			t.Errorf("CL=%s _CL_=%s %s: got %s, want %s", test.before, test.after, test.argv, got, test.want)
		}
		if got := strings.Join(c.Preprocessor, " "); got != test.wantPre {
			t.Errorf("CL=%s _CL_=%s %s: got %s, want %s", test.before, test.after, test.argv, got, test.wantPre)
		}
		if want := []string{"CL", "_CL_"}; !slices.Equal(c.Unset, want) {
			t.Errorf("got %v to unset, want %v", c.Unset, want)
		}
	}
	if _, err := Parse(MSVC, words("/c a.c"), world{"$_CL_": "/Zi"}); err == nil {
		t.Error("/Zi in _CL_ is cached")
	}
}

func TestMSVCSplit(t *testing.T) {
	c := parse(t, MSVC, `/c /O2 a.cpp /Foout\ dir/b.c /Tp c.x /MP`, nil)
	if c.Outputs != nil || c.PreprocessArgv() != nil {
		t.Error("a command with several sources has outputs")
	}
	var got []string
	for _, p := range c.Split() {
		got = append(got, strings.Join(p.Argv, " ")+" -> "+paths(p.Outputs))
	}
	want := []string{
		`/c /O2 a.cpp /Foout\ /MP -> object=out\a.obj`,
		`/c /O2 /Foout\ dir/b.c -> object=out\b.obj`,
		`/c /O2 /Foout\ /Tp c.x -> object=out\c.obj`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestMSVCBuild(t *testing.T) {
	for _, test := range []struct {
		dialect                   Dialect
		line, preprocess, compile string
	}{
		{MSVC, "/c /O2 a.c /Fox.obj /showIncludes /MP2", "/E /O2 a.c", "/sourceDependencies D /c /O2 a.c /Fox.obj /showIncludes /MP2"},
		{MSVC, "/c a.c /sourceDependencies x.json", "/E a.c", "/c a.c /sourceDependencies x.json"},
		{ClangCL, "/c a.c -o x", "/E a.c", "/clang:-MD /clang:-MFD /c a.c -o x"},
		{ClangCL, "/c a.c /clang:-MD /clang:-MF /clang:x", "/E a.c", "/c a.c /clang:-MD /clang:-MF /clang:x"},
		{ClangCL, "/c a.s", "", "/c a.s"},
	} {
		c := parse(t, test.dialect, test.line, nil)
		if got := strings.Join(c.PreprocessArgv(), " "); got != test.preprocess {
			t.Errorf("%s: preprocess with %s, want %s", test.line, got, test.preprocess)
		}
		if got := strings.Join(c.CompileArgv("D"), " "); got != test.compile {
			t.Errorf("%s: compile with %s, want %s", test.line, got, test.compile)
		}
	}
}

func TestMSVCFlags(t *testing.T) {
	for _, test := range []struct {
		dialect Dialect
		line    string
		want    Flags
	}{
		{MSVC, "/c a.c", Flags{}},
		{MSVC, "/c a.c /Z7", Flags{Debug: true, HashDir: true, HashOutput: true, HashPreprocessor: true}},
		{ClangCL, "/c a.c /Zi", Flags{Debug: true, HashDir: true, HashOutput: true, HashPreprocessor: true}},
		{MSVC, "/c a.c /FC", Flags{HashDir: true}},
		{MSVC, "/c a.c /showIncludes", Flags{ShowIncludes: true}},
		{ClangCL, "/c a.c -flto", Flags{LTO: true, HashDir: true}},
		{ClangCL, "/c a.c /clang:-MD /clang:-MFx", Flags{HashOutput: true}},
		{ClangCL, "/c a.c -march=native", Flags{Native: true}},
		{ClangCL, "/c a.s", Flags{NoPreprocessor: true, Assembler: true, HashPreprocessor: true}},
	} {
		if got := parse(t, test.dialect, test.line, nil).Flags; got != test.want {
			t.Errorf("%s %s: got %+v, want %+v", test.dialect, test.line, got, test.want)
		}
	}
}
