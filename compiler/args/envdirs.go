package args

import (
	"runtime"
	"slices"
	"strings"
)

// gccDirs returns the include directories that gcc and clang take from the environment.
func gccDirs(c *Command, src Source) []IncludeDir {
	dirs := pathDirs(c.Dialect, PlainDir, getenv(src, "CPATH"))
	for _, v := range []struct{ name, language string }{
		{"C_INCLUDE_PATH", "c"}, {"CPLUS_INCLUDE_PATH", "c++"},
		{"OBJC_INCLUDE_PATH", "objective-c"}, {"OBJCPLUS_INCLUDE_PATH", "objective-c++"},
	} {
		if slices.ContainsFunc(c.sources, func(s source) bool { return strings.TrimSuffix(s.language, "-header") == v.language }) {
			dirs = append(dirs, pathDirs(c.Dialect, SystemDir, getenv(src, v.name))...)
		}
	}
	return dirs
}

// pathDirs splits a variable that lists directories. An empty element is the current directory to gcc,
// and nothing to cl.
func pathDirs(d Dialect, kind DirKind, value string) []IncludeDir {
	if value == "" {
		return nil
	}
	separator := ":"
	if d == MSVC || runtime.GOOS == "windows" {
		separator = ";"
	}
	var dirs []IncludeDir
	for name := range strings.SplitSeq(value, separator) {
		switch {
		case name != "":
			dirs = append(dirs, IncludeDir{kind, name})
		case !d.Microsoft():
			dirs = append(dirs, IncludeDir{kind, "."})
		}
	}
	return dirs
}
