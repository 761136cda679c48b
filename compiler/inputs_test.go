package compiler_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// alike compiles with the cache and without, and wants the same: what is said, and these files.
func (u *user) alike(files []string, argv ...string) {
	u.t.Helper()
	got, read := u.run(argv...), map[string]string{}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(u.work, name))
		read[name] = string(b)
		if err != nil {
			read[name] = "no file"
		}
	}
	if want := u.exec(argv[0], argv[1:]...); got != want {
		u.t.Errorf("got %+v, want %+v", got, want)
	}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(u.work, name))
		want := string(b)
		if err != nil {
			want = "no file"
		}
		if read[name] != want {
			u.t.Errorf("%s is not what the compiler alone writes:\n%.300q, want\n%.300q", name, read[name], want)
		}
	}
}

// TestInputs: what a compile depends on beside the files that it names. Each is compiled, changed, and compiled again.
func TestInputs(t *testing.T) {
	value := func(n string) string { return "#undef V\n#define V " + n + "\n" }
	use := "#include <h.h>\nint x = V;\n"
	for _, c := range []struct {
		name   string
		files  [][2]string
		argv   []string
		change func(u *user)
	}{
		{"directory with ./", [][2]string{{"first/k", ""}, {"second/h.h", value("1")}, {"x.c", use}},
			[]string{"-I./first", "-I./second"}, func(u *user) { u.write("first/h.h", value("2")) }},
		{"this directory", [][2]string{{"first/k", ""}, {"h.h", value("1")}, {"x.c", use}},
			[]string{"-Ifirst", "-I."}, func(u *user) { u.write("first/h.h", value("2")) }},
		{"directory with a slash", [][2]string{{"first/k", ""}, {"second/h.h", value("1")}, {"x.c", use}},
			[]string{"-Ifirst/", "-Isecond//"}, func(u *user) { u.write("first/h.h", value("2")) }},
		{"directory of the name of a header", [][2]string{{"first/h.h/k", ""}, {"second/h.h", value("1")}, {"x.c", use}},
			[]string{"-Ifirst", "-Isecond"}, func(u *user) { u.remove("first/h.h/k", "first/h.h"); u.write("first/h.h", value("2")) }},
		{"probed header goes", [][2]string{{"inc/o.h", ""}, {"x.c", "#if __has_include(<o.h>)\nint x = 1;\n#else\nint x = 2;\n#endif\n"}},
			[]string{"-Iinc"}, func(u *user) { u.remove("inc/o.h") }},
		{"twin of a header that is read once", [][2]string{{"a/h.h", "#pragma once\nint y;\n"}, {"b/h.h", "#pragma once\nint y;\n"},
			{"x.c", "#include \"a/h.h\"\n#include \"b/h.h\"\nint x;\n"}}, nil, func(u *user) { u.write("b/h.h", "int z = 1;\n") }},
		{"twin of an imported header", [][2]string{{"a/h.h", "int y;\n"}, {"b/h.h", "int y;\n"},
			{"x.c", "#import \"a/h.h\"\n#import \"b/h.h\"\nint x;\n"}}, []string{"-w"}, func(u *user) { u.write("b/h.h", "int z = 1;\n") }},
		{"macros without a dependency file", [][2]string{{"m.h", value("1")}, {"x.c", "int x = V;\n"}},
			[]string{"-MMD", "-imacros", "m.h"}, func(u *user) { u.write("m.h", value("2")) }},
		{"header that gcc includes by itself", [][2]string{{"inc/k", ""}, {"x.c", "#ifdef V\nint x = V;\n#endif\n"}},
			[]string{"-MMD", "-Iinc"}, func(u *user) { u.write("inc/stdc-predef.h", value("2")) }},
		{"time as an argument", [][2]string{{"x.c", "const char *x = V;\n"}},
			[]string{"-DV=__TIMESTAMP__"}, func(u *user) { old := time.Unix(1e9, 0); os.Chtimes(filepath.Join(u.work, "x.c"), old, old) }},
		{"probe as an argument", [][2]string{{"x.c", "#if HAS(<o.h>)\nint x = 1;\n#endif\n"}, {"inc/k", ""}},
			[]string{"-Iinc", "-DHAS(x)=__has_include(x)"}, func(u *user) { u.write("inc/o.h", "") }},
		{"assembly as an argument", [][2]string{{"x.c", "__asm__(V);\n"}, {"data", "1"}},
			[]string{"-DV=\".incbin \\\"data\\\"\""}, func(u *user) { u.write("data", "2") }},
		{"assembly in pieces", [][2]string{{"x.c", "#define S(x) #x\n__asm__(\".inc\" S(bin) \" \\\"data\\\"\");\n"}, {"data", "1"}},
			nil, func(u *user) { u.write("data", "2") }},
		{"assembly that includes", [][2]string{{"x.c", "#define S(x) #x\n__asm__(\".inc\" S(lude) \" \\\"data\\\"\");\n"}, {"data", ".ascii \"1\""}},
			[]string{"-g", "-ffile-prefix-map=x=y"}, func(u *user) { u.write("data", ".ascii \"2\"") }},
		{"include after a comment", [][2]string{{"x.c", "#/**/include \"h.h\"\nint x = V;\n"}, {"inc/h.h", value("1")}},
			[]string{"-Iinc"}, func(u *user) { u.write("h.h", value("2")) }},
		{"include with another sign", [][2]string{{"x.c", "%:include \"h.h\"\nint x = V;\n"}, {"inc/h.h", value("1")}},
			[]string{"-Iinc"}, func(u *user) { u.write("h.h", value("2")) }},
		{"include on two lines", [][2]string{{"x.c", "#inc\\\nlude \"h.h\"\nint x = V;\n"}, {"inc/h.h", value("1")}},
			[]string{"-Iinc"}, func(u *user) { u.write("h.h", value("2")) }},
		{"age of a file", [][2]string{{"data", ""}, {"x.c", "#pragma GCC dependency \"data\"\nint x;\n"}},
			nil, func(u *user) { u.write("data", "") }},
	} {
		for i, mode := range []string{"depend", "preprocess"} {
			if i > 0 && testing.Short() {
				continue
			}
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				u := newUser(t, "SARSEN_CC_MODE="+mode)
				old := time.Unix(1.5e9, 0)
				for _, f := range c.files {
					u.write(f[0], f[1])
					os.Chtimes(filepath.Join(u.work, f[0]), old, old)
				}
				u.write("stamp", "")
				argv := append(append([]string{"gcc"}, c.argv...), "-c", "x.c", "-o", "x.o")
				u.alike([]string{"x.o"}, argv...)
				c.change(u)
				u.write("stamp", "")
				u.alike([]string{"x.o"}, argv...)
			})
		}
	}
}

// TestPipeAsHeader: nobody waits for the other end of a pipe that was a header.
func TestPipeAsHeader(t *testing.T) {
	u := newUser(t)
	u.write("h.h", "")
	u.write("x.c", "#include \"h.h\"\nint x;\n")
	u.compile("gcc", "-c", "x.c")
	u.remove("h.h")
	if err := syscall.Mkfifo(filepath.Join(u.work, "h.h"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan outcome)
	go func() { done <- u.run("gcc", "-c", "x.c") }()
	u.write("h.h", "int y;\n") // until the compiler reads it
	if got := <-done; got.status != 0 {
		t.Errorf("got %+v, want success", got)
	}
}

// TestBack: a header that is as it was leads to the entry of then.
func TestBack(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "#include \"h.h\"\nint x = V;\n")
	for i, want := range []string{"miss.new", "miss.header", "hit.direct"} {
		u.write("h.h", []string{"#define V 1\n", "#define V 2\n", "#define V 1\n"}[i])
		u.counts(want, func() { u.compile("gcc", "-c", "x.c") })
	}
}
