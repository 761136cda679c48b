package compiler_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestPlaces: what is at an output's place before a compile fares as it does with the compiler alone.
func TestPlaces(t *testing.T) {
	write := func(path, text string, mode os.FileMode) {
		os.WriteFile(path, []byte(text), 0o666)
		os.Chmod(path, mode)
	}
	u := newUser(t)
	u.write("x.c", "int x;\n")
	for _, c := range []struct {
		name   string
		before func(path string)
	}{
		{"private", func(path string) { write(path, "before", 0o600) }},
		{"empty and private", func(path string) { write(path, "", 0o600) }},
		{"read-only", func(path string) { write(path, "before", 0o444) }},
		{"two names", func(path string) { write(path, "before", 0o644); os.Link(path, path+".other") }},
		{"empty with two names", func(path string) { write(path, "", 0o644); os.Link(path, path+".other") }},
		{"link", func(path string) {
			write(path+".other", "before", 0o644)
			os.Symlink(filepath.Base(path)+".other", path)
		}},
		{"source", func(path string) {
			os.Symlink("x.c", path)
		}},
		{"other name of the source", func(path string) {
			os.Link(filepath.Join(filepath.Dir(path), "x.c"), path)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u.t = t
			for _, flags := range [][]string{{"-c"}, {"-S"}, {"-c", "-MD", "-MF", "out.d"}} {
				var got [2]string
				clear := func() {
					for _, name := range []string{"out", "out.d", "out.other", "out.d.other"} {
						os.Remove(filepath.Join(u.work, name)) // there may be none
					}
				}
				argv := append(append([]string{"gcc"}, flags...), "x.c", "-o", "out")
				clear()
				u.compile(argv...)
				for i := range got {
					clear()
					for _, name := range []string{"out", "out.d"} {
						c.before(filepath.Join(u.work, name))
					}
					if i == 0 {
						u.exec(argv[0], argv[1:]...)
					} else {
						u.run(argv...)
					}
					got[i] = u.files()
					os.Remove(filepath.Join(u.work, "x.c"))
					u.write("x.c", "int x;\n")
				}
				if got[0] != got[1] {
					t.Errorf("%v: got %s, want %s", flags, got[1], got[0])
				}
			}
		})
	}
}

// files says what files there are, with their modes, numbers of names and contents.
func (u *user) files() string {
	u.t.Helper()
	text := ""
	entries, err := os.ReadDir(u.work)
	if err != nil {
		u.t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			u.t.Fatal(err)
		}
		b, _ := os.ReadFile(filepath.Join(u.work, e.Name())) // it may be no file
		text += e.Name() + " " + info.Mode().String() + " "
		text += string(rune('0'+info.Sys().(*syscall.Stat_t).Nlink)) + " " + string(b) + "\n"
	}
	return text
}

// TestSourceAsOutput: a compiler refuses to write its source.
func TestSourceAsOutput(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "int x;\n")
	u.compile("gcc", "-c", "x.c", "-o", "x.o")
	u.run("gcc", "-c", "x.c", "-o", "x.c")
	if got := u.read("x.c"); got != "int x;\n" {
		t.Errorf("the source is %.20q", got)
	}
}
