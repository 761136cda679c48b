package compiler_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSpecs: gcc reads specs where libraries lie, and those that it is told to.
func TestSpecs(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "#ifndef V\n#define V 0\n#endif\nint x = V;\n")
	u.write("lib/k", "")
	specs := "*cc1:\n+ -DV="
	argv := []string{"gcc", "-c", "x.c", "-o", "x.o"}
	u.alike([]string{"x.o"}, argv...)
	u.env = append(u.env, "LIBRARY_PATH="+filepath.Join(u.work, "lib"))
	u.alike([]string{"x.o"}, argv...)
	u.write("lib/specs", specs+"1\n\n")
	u.alike([]string{"x.o"}, argv...)
	u.write("lib/specs", specs+"2\n\n")
	u.alike([]string{"x.o"}, argv...)
	u.remove("lib/specs")
	u.write("specs", specs+"8\n\n")
	u.env[len(u.env)-1] = "LIBRARY_PATH=" // which is this directory
	u.alike([]string{"x.o"}, argv...)
	u.env[len(u.env)-1] = "LIBRARY_PATH=" + filepath.Join(u.work, "lib")
	argv = append(argv, "-specs=my.specs")
	u.write("my.specs", specs+"3\n\n")
	u.alike([]string{"x.o"}, argv...)
	u.counts("hit.direct", func() { u.compile(argv...) })
	u.write("lib/my.specs", specs+"4\n\n") // which comes first
	u.alike([]string{"x.o"}, argv...)
	u.write("lib/my.specs", specs+"5\n\n%include <other.specs>\n")
	u.write("lib/other.specs", specs+"6\n\n")
	u.alike([]string{"x.o"}, argv...)
	u.write("lib/other.specs", specs+"7\n\n")
	u.alike([]string{"x.o"}, argv...)
}

// TestPreload: compilers are run with the libraries that variables name.
func TestPreload(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "int x;\n")
	u.write("lib.c", "int unused;\n")
	u.exec("gcc", "-shared", "-o", "lib.so", "lib.c")
	argv := []string{"gcc", "-c", "x.c"}
	u.counts("miss.new", func() { u.compile(argv...) })
	u.env = append(u.env, "LD_PRELOAD="+filepath.Join(u.work, "lib.so"))
	u.counts("miss.new", func() { u.compile(argv...) })
	u.counts("hit.direct", func() { u.compile(argv...) })
	u.write("lib.c", "int other;\n")
	u.exec("gcc", "-shared", "-o", "lib.new", "lib.c")
	os.Rename(filepath.Join(u.work, "lib.new"), filepath.Join(u.work, "lib.so"))
	u.counts("miss.new", func() { u.compile(argv...) })
}

// TestTwoInstallations: compilers that are the same find the headers beside them.
func TestTwoInstallations(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "#include <stddef.h>\n#include <only.h>\nint x = V;\n")
	answer, err := exec.Command("gcc", "-print-prog-name=cc1").Output()
	cc1 := strings.TrimSpace(string(answer))
	if err != nil || !strings.HasPrefix(cc1, "/usr/lib/gcc/") {
		t.Skipf("SKIPPED: the compiler lies elsewhere: %s, %v", cc1, err)
	}
	driver, err := os.ReadFile(gcc(t))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"one", "two"} {
		dir := name + strings.TrimPrefix(filepath.Dir(cc1), "/usr")
		u.write(name+"/bin/gcc", string(driver))
		os.Chmod(filepath.Join(u.work, name, "bin/gcc"), 0o777)
		u.write(dir+"/include/only.h", "#define V "+string(rune('1'+i))+"\n")
		u.write(dir+"/include/stddef.h", "")
		if err := os.Symlink(cc1, filepath.Join(u.work, dir, "cc1")); err != nil {
			t.Fatal(err)
		}
		u.alike([]string{"x.o"}, filepath.Join(u.work, name, "bin/gcc"), "-c", "x.c", "-o", "x.o")
	}
}

// TestAssemblerAppears: gcc prefers programs that lie beside it.
func TestAssemblerAppears(t *testing.T) {
	u := newUser(t)
	u.write("x.c", "int x;\n")
	u.write("tools/k", "")
	u.write("bin/as", "#!/bin/sh\nPATH=${PATH#*:} exec as \"$@\"\n")
	os.Chmod(filepath.Join(u.work, "bin/as"), 0o777)
	u.env = append(u.env, "PATH="+filepath.Join(u.work, "tools")+":"+filepath.Join(u.work, "bin")+":"+os.Getenv("PATH"))
	argv := []string{"gcc", "-c", "x.c", "-o", "x.o"}
	u.compile(argv...)
	u.write("tools/as", "#!/bin/sh\necho another assembler >&2\nPATH=${PATH#*:*:} exec as \"$@\"\n")
	os.Chmod(filepath.Join(u.work, "tools/as"), 0o777)
	u.alike([]string{"x.o"}, argv...)
}
