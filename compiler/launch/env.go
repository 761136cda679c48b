package launch

import (
	"os"
	"path"
)

// Matters reports whether a variable of that name may change what a compiler makes or what the daemon
// does, so that it is sent. Others stay here.
func Matters(name string) bool {
	for _, prefix := range [...]string{"LC_", "GCC_", "CLANG_", "CCC_", "CC_PRINT_", "SARSEN_CC_", "SDK", "COLLECT_", "LD_"} {
		if hasPrefix(name, prefix) {
			return true
		}
	}
	for _, suffix := range [...]string{"_INCLUDE_PATH", "_DEPLOYMENT_TARGET", "_DEPENDENCIES", "DEPENDENCIES_OUTPUT"} {
		if hasSuffix(name, suffix) {
			return true
		}
	}
	switch name {
	case "LANG", "LANGUAGE", "CPATH", "COMPILER_PATH", "LIBRARY_PATH", "SOURCE_DATE_EPOCH", "PWD", "PATH", "TMPDIR", "TZ",
		"CL", "_CL_", "INCLUDE", "EXTERNAL_INCLUDE", "LIB", "LIBPATH", "VSLANG", "TERM", "NO_COLOR",
		"ZERO_AR_DATE", "RC_DEBUG_OPTIONS", "DEVELOPER_DIR", "MSYSTEM":
		return true
	}
	return false
}

// environment returns what is sent of this process's environment.
func environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		if Matters(before(entry, "=")) {
			kept = append(kept, entry)
		}
	}
	return kept
}

// Dir returns the folder of the user's cache: SARSEN_CC_DIR, or sarsen-cc where caches lie.
func Dir() (string, error) {
	if dir := os.Getenv("SARSEN_CC_DIR"); dir != "" {
		return absolute(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return path.Join(dir, "sarsen-cc"), nil
}

// inside is the variable that lists the programs which launchers have run instead of themselves, and in which this one runs.
const inside = "SARSEN_CC_INSIDE"

// enter notes for launchers further in that this one runs a program.
func enter(compiler string) {
	if outer := os.Getenv(inside); outer != "" {
		compiler = outer + ":" + compiler
	}
	os.Setenv(inside, compiler)
}

// Find returns the absolute path of the compiler that argv0 means. If that is a path, it is taken, unless it
// leads to this program itself under another name; a name is looked for in PATH, where this program is
// skipped, and so are the programs that this process is run by: one may be a script of the compiler's name that calls sarsen cc.
func Find(argv0 string) (string, error) {
	self, selfErr := os.Stat("/proc/self/exe")
	if selfErr != nil {
		if name, err := os.Executable(); err == nil {
			self, selfErr = os.Stat(name)
		}
	}
	outer := list(os.Getenv(inside))
	other := func(name string) bool {
		for _, o := range outer {
			if abs, err := absolute(name); err == nil && o == abs {
				return false
			}
		}
		info, err := os.Stat(name)
		return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && (selfErr != nil || !os.SameFile(self, info))
	}
	if lastIndex(argv0, '/') >= 0 {
		if other(argv0) {
			return absolute(argv0)
		}
		argv0 = path.Base(argv0)
	}
	for _, dir := range list(os.Getenv("PATH")) {
		if name := path.Join(dir, argv0); other(name) { // an empty dir is the one where this process runs
			return absolute(name)
		}
	}
	return "", &os.PathError{Op: "find compiler", Path: argv0, Err: os.ErrNotExist}
}
