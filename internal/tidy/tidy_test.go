package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root        = "../.."
	module      = "github.com/sarsen-build/sarsen/"
	maxFile     = 500 // lines
	maxFunction = 70  // lines
)

// A source is one parsed Go file that is no test.
type source struct {
	name  string // from the root
	lines int
	fset  *token.FileSet
	file  *ast.File
}

// sources returns the Go files of the module, by package path from the root. Tests are left out:
// tables and scenarios are long, and may import what they like.
func sources(t *testing.T) map[string][]source {
	t.Helper()
	packages := map[string][]source{}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "testdata" || e.Name() == "tools" || len(e.Name()) > 2 && e.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		s := source{lines: strings.Count(string(text), "\n"), fset: token.NewFileSet()}
		if s.file, err = parser.ParseFile(s.fset, name, text, parser.ParseComments); err != nil {
			return err
		}
		if s.name, err = filepath.Rel(root, name); err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(s.name))
		packages[dir] = append(packages[dir], s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// row matches a line of the table in docs/architecture.md: floor, packages in backquotes, what it is.
var row = regexp.MustCompile("^\\| ([0-9-]) \\| ((?:`[a-z0-9/]+`(?:, )?)+) \\| (.+) \\|$")

// floors returns the floor of each package in the table; "-" stands for none.
func floors(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(root + "/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	floors := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if m := row.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			for name := range strings.SplitSeq(m[2], ", ") {
				floors[strings.Trim(name, "`")] = m[1]
			}
		}
	}
	return floors
}

func TestEveryPackageIsInTheTable(t *testing.T) {
	packages, floors := sources(t), floors(t)
	for dir := range packages {
		if floors[dir] == "" {
			t.Errorf("package %s has no line in the table of docs/architecture.md", dir)
		}
	}
	for dir := range floors {
		if packages[dir] == nil {
			t.Errorf("docs/architecture.md lists package %s, which is not there", dir)
		}
	}
}

// sideways are the imports within one floor that are meant.
var sideways = []string{"bench imports client", "segment imports ledger", "files imports ledger", "s3 imports ledger", "blob imports digest", "s3/naming imports digest", "worker/persist imports worker/sandbox"}

func TestImportsRunDownwards(t *testing.T) {
	floors := floors(t)
	for dir, files := range sources(t) {
		for _, s := range files {
			for _, spec := range s.file.Imports {
				to, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
				if !ours || floors[to] == "-" {
					continue
				}
				if floors[dir] == "-" && !strings.HasPrefix(dir, "internal/") {
					continue // black-box tests stand beside the house
				}
				if floors[dir] <= floors[to] && !slices.Contains(sideways, dir+" imports "+to) && floors[dir] != "-" {
					t.Errorf("%s: floor %s imports %s of floor %s", s.name, floors[dir], to, floors[to])
				}
			}
		}
	}
}

var banned = []string{"util", "utils", "common", "types", "helpers", "helper", "pkg", "base", "impl", "interfaces"}

func TestPackages(t *testing.T) {
	for dir, files := range sources(t) {
		if slices.Contains(banned, path.Base(dir)) {
			t.Errorf("%s: a package is named for what is inside", dir)
		}
		commented := slices.ContainsFunc(files, func(s source) bool { return s.file.Doc != nil })
		if !commented {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, files := range sources(t) {
		for _, s := range files {
			if s.lines > maxFile {
				t.Errorf("%s has %d lines, at most %d", s.name, s.lines, maxFile)
			}
			for _, d := range s.file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
				if n > maxFunction {
					t.Errorf("%s: function %s has %d lines, at most %d", s.name, f.Name.Name, n, maxFunction)
				}
			}
		}
	}
}

// TestFilesOnlyThroughVFS keeps the store's file access behind the seam that tests can replace.
func TestFilesOnlyThroughVFS(t *testing.T) {
	floors := floors(t)
	for dir, files := range sources(t) {
		if n, err := strconv.Atoi(floors[dir]); err != nil || n < 1 || n > 3 {
			continue
		}
		for _, s := range files {
			for _, spec := range s.file.Imports {
				switch name := strings.Trim(spec.Path.Value, `"`); name {
				case "os", "io/ioutil", "golang.org/x/sys/unix":
					t.Errorf("%s imports %s: floors 1 to 3 reach files through internal/vfs", s.name, name)
				}
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)

func TestLinksLead(t *testing.T) {
	var documents []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, names...)
	}
	if len(documents) < 5 {
		t.Fatalf("found only %v", documents)
	}
	for _, name := range documents {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
			}
		}
	}
}

// TestMutantsAreExplained: docs/testing.md names every mutant.
func TestMutantsAreExplained(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	off, err := os.ReadFile(root + "/internal/mutant/off.go")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^\t(\w+) += false$`).FindAllStringSubmatch(string(off), -1)
	if len(all) < 100 {
		t.Fatalf("%d mutants found in off.go: it has another form", len(all))
	}
	for _, m := range all {
		if !strings.Contains(string(text), "`"+m[1]+"`") {
			t.Errorf("docs/testing.md does not name the mutant %s", m[1])
		}
	}
}

// TestRow pins the form of the table, so that a line in another form can't hide a package.
func TestRow(t *testing.T) {
	for line, want := range map[string]string{
		"| 5 | `client`, `bench` | a client; the load generator |": "5 `client`, `bench`",
		"| - | `internal/vfs` | files |":                           "- `internal/vfs`",
		"| 5 | client | a client |":                                "",
		"| floor | package | what it is |":                         "",
	} {
		got := ""
		if m := row.FindStringSubmatch(line); m != nil {
			got = fmt.Sprint(m[1], " ", m[2])
		}
		if got != want {
			t.Errorf("%q matches as %q, want %q", line, got, want)
		}
	}
}
