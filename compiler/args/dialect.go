package args

import "strings"

// A Dialect is a way of writing a compiler's command line. The name of the compiler decides it, and
// also whether .c is C or C++.
type Dialect uint8

// The dialects.
const (
	GCC     Dialect = iota + 1 // gcc, cc
	GXX                        // g++, c++: .c is C++
	Clang                      // clang
	ClangXX                    // clang++: .c is C++
	MSVC                       // cl
	ClangCL                    // clang-cl, or clang --driver-mode=cl
)

// String returns the compiler's usual name.
func (d Dialect) String() string {
	switch d {
	case GCC:
		return "gcc"
	case GXX:
		return "g++"
	case Clang:
		return "clang"
	case ClangXX:
		return "clang++"
	case MSVC:
		return "cl"
	case ClangCL:
		return "clang-cl"
	}
	return "unknown"
}

// Clang reports whether the compiler is clang, whatever its command line looks like.
func (d Dialect) Clang() bool { return d == Clang || d == ClangXX || d == ClangCL }

// Microsoft reports whether the command line is that of cl.
func (d Dialect) Microsoft() bool { return d == MSVC || d == ClangCL }

// DialectOf returns the dialect of a compiler by its name: directories, ".exe", a target before it
// (x86_64-linux-gnu-gcc) and a version after it (gcc-12, clang++-19.1) do not matter. cc and c++ may be
// links to any compiler: ask for what they lead to first.
func DialectOf(argv0 string) (Dialect, bool) {
	name := argv0[strings.LastIndexAny(argv0, `/\`)+1:]
	if lower := strings.ToLower(name); strings.HasSuffix(lower, ".exe") {
		name = lower[:len(lower)-len(".exe")]
	}
	for _, threads := range []string{"-posix", "-win32"} { // how Debian names MinGW's
		name = strings.TrimSuffix(name, threads)
	}
	if n := strings.TrimRight(name, "0123456789."); strings.HasSuffix(n, "-") {
		name = n[:len(n)-1]
	} else if strings.HasPrefix(n, "clang") || strings.HasPrefix(n, "gcc") || strings.HasPrefix(n, "g++") {
		name = n // clang++14 and gcc12, as BSD and MacPorts call them
	}
	if strings.EqualFold(name, "cl") {
		return MSVC, true
	}
	for _, k := range []struct {
		name    string
		dialect Dialect
	}{
		{"clang-cl", ClangCL}, {"clang++", ClangXX}, {"clang", Clang}, {"gcc", GCC}, {"g++", GXX},
		{"cc", GCC}, {"c++", GXX},
	} {
		if name == k.name || strings.HasSuffix(name, "-"+k.name) {
			return k.dialect, true
		}
	}
	return 0, false
}

// driverMode follows clang's --driver-mode. The last one counts.
func driverMode(d Dialect, argv []string) Dialect {
	if !d.Clang() {
		return d
	}
	for _, a := range argv {
		mode, ok := strings.CutPrefix(a, "--driver-mode=")
		if !ok {
			continue
		}
		switch mode {
		case "cl":
			d = ClangCL
		case "gcc":
			d = Clang
		case "g++":
			d = ClangXX
		default:
			return 0
		}
	}
	return d
}
