package launch

import (
	"os"
	"path"
)

// What follows is in packages of the standard library too, which are initialised too late: see TestImports.

func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && s[:len(prefix)] == prefix
}

func hasSuffix(s, suffix string) bool {
	return len(s) >= len(suffix) && s[len(s)-len(suffix):] == suffix
}

func trimSuffix(s, suffix string) string {
	if hasSuffix(s, suffix) {
		return s[:len(s)-len(suffix)]
	}
	return s
}

// index returns where part first occurs in s, -1 if it does not.
func index(s, part string) int {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return i
		}
	}
	return -1
}

// lastIndex returns where c last occurs in s, -1 if it does not.
func lastIndex(s string, c byte) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// before returns what s has before the first end, all of it if there is none.
func before(s, end string) string {
	if i := index(s, end); i >= 0 {
		return s[:i]
	}
	return s
}

// list returns the parts of a list as PATH is one.
func list(s string) []string {
	var parts []string
	for i := index(s, ":"); i >= 0; i = index(s, ":") {
		parts, s = append(parts, s[:i]), s[i+1:]
	}
	if s == "" && parts == nil {
		return nil
	}
	return append(parts, s)
}

// absolute returns the absolute form of a name.
func absolute(name string) (string, error) {
	if path.IsAbs(name) {
		return path.Clean(name), nil
	}
	cwd, err := os.Getwd()
	return path.Join(cwd, name), err
}

// relative returns the name that a file has in dir. Both are absolute and clean, and dir leads through no link.
func relative(dir, file string) string {
	up := ""
	for dir = trimSuffix(dir, "/"); !hasPrefix(file, dir+"/"); up += "../" {
		dir = dir[:lastIndex(dir, '/')]
	}
	return up + file[len(dir)+1:]
}

// complain says what went wrong on standard error.
func complain(what string) { os.Stderr.WriteString("sarsen cc: " + what + "\n") }
