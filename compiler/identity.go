package compiler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// queryTime bounds how long a compiler may take to answer a question about itself.
const queryTime = 5 * time.Second

// An identity says which compiler it is, by content: what it names may lie anywhere.
type identity struct {
	digest  string
	stamps  map[string]stamp // of the files that it was made from
	gnu     bool             // the assembler can list what it reads
	windows bool             // clang compiles for Windows unless it is told otherwise
	absent  []gap            // files that the compiler would run or read if they were there
}

// identities remembers compilers, and what they search, until the files that make them up change.
type identities struct {
	files *hashes

	mu       sync.Mutex
	known    map[string]*identity
	searches map[string]*search
	called   map[string]called
}

func newIdentities(files *hashes) *identities {
	return &identities{files: files, known: map[string]*identity{}, searches: map[string]*search{}, called: map[string]called{}}
}

// of returns the identity of the compiler that j runs.
func (ids *identities) of(j *job) (*identity, error) {
	c := j.command
	question := []string{j.ask.Compiler, c.Dialect.String(), c.Language}
	below := false // this directory matters too
	for _, name := range slices.Concat(loaderVariables, []string{"LIBRARY_PATH", "PATH"}) {
		if list, set := j.env[name]; set {
			question = append(question, name, list)
			below = below || relative(list)
		}
	}
	if below {
		question = append(question, j.ask.Dir)
	}
	question = append(question, prefixes(c.Hashed)...)
	if !c.Dialect.Clang() {
		question = append(question, j.lookPath("as"))
		question = append(question, specsOf(c.Argv)...)
		if slices.ContainsFunc(c.Outputs, func(o args.Output) bool { return o.Kind == args.SplitDwarf }) {
			question = append(question, "objcopy", j.lookPath("objcopy"))
		}
	}
	key := strings.Join(question, "\x00")
	ids.mu.Lock()
	known := ids.known[key]
	ids.mu.Unlock()
	if known != nil && known.stands(j) {
		return known, nil
	}
	id, err := ids.make(j)
	if err != nil {
		return nil, err
	}
	ids.mu.Lock()
	ids.known[key] = id
	ids.mu.Unlock()
	return id, nil
}

// relative reports whether a list of directories has one that is below the directory in which the compiler runs.
func relative(list string) bool {
	return list == "" || slices.ContainsFunc(filepath.SplitList(list), func(dir string) bool { return !filepath.IsAbs(dir) })
}

// stands reports whether the compiler is still made of the same files.
func (id *identity) stands(j *job) bool {
	for path, was := range id.stamps {
		if now, err := stampOf(path); err != nil || now != was {
			return false
		}
	}
	look := j.daemon.dirs.look()
	for i := range id.absent {
		if !id.absent[i].holds(j, look) {
			return false
		}
	}
	return true
}

// dialect returns how a compiler is called: as its name says, which may be a link to another one. A link to a program with
// another kind of name, as ccache makes, is no compiler.
func (ids *identities) dialect(compiler string) (args.Dialect, bool) {
	d, ok := args.DialectOf(compiler)
	now, err := stampOf(compiler)
	if !ok || err != nil {
		return 0, false
	}
	ids.mu.Lock()
	known := ids.called[compiler]
	ids.mu.Unlock()
	if known.stamp == now {
		return known.dialect, known.dialect != 0
	}
	d = follow(compiler, d)
	ids.mu.Lock()
	ids.called[compiler] = called{now, d}
	ids.mu.Unlock()
	return d, d != 0
}

// called is how a compiler is called, which has that stamp.
type called struct {
	stamp   stamp
	dialect args.Dialect // 0 if it is none
}

// follow returns the dialect of a compiler whose name has the dialect d, 0 if it is none.
func follow(compiler string, d args.Dialect) args.Dialect {
	real, err := filepath.EvalSymlinks(compiler)
	if err != nil {
		return 0
	}
	is, ok := args.DialectOf(real)
	switch {
	case !ok:
		return 0
	case is.Clang() && d == args.GCC:
		return args.Clang
	case is.Clang() && d == args.GXX:
		return args.ClangXX
	case is.Clang() != d.Clang():
		return 0
	}
	return d
}

// errScript says that the compiler is a script, which may read any file and any variable before it runs another.
var errScript = errors.New("the compiler is a script")

// isScript reports whether the kernel would run a file by an interpreter.
func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [2]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "#!"
}

// make asks the compiler which programs it runs, and hashes them.
func (ids *identities) make(j *job) (*identity, error) {
	if isScript(j.ask.Compiler) {
		return nil, errScript
	}
	m := &maker{ids: ids, job: j, key: newKey("compiler"), id: &identity{stamps: map[string]stamp{}}}
	if err := m.program("driver", j.ask.Compiler); err != nil {
		return nil, err
	}
	var err error
	switch {
	case mutant.DriverOnly:
	case j.command.Dialect.Clang():
		err = m.clang()
	default:
		err = m.gcc()
	}
	m.id.digest = m.key.digest().Hex()
	return m.id, err
}

// A maker makes an identity.
type maker struct {
	ids *identities
	job *job
	key *key
	id  *identity
}

// add adds a file.
func (m *maker) add(role, path string) error {
	f, err := m.ids.files.digest(path)
	if err != nil {
		return err
	}
	m.id.stamps[path] = f.stamp
	m.key.add(role, f.digest.String())
	return nil
}

// program adds a program and the libraries that it is run with.
func (m *maker) program(role, path string) error {
	if err := m.add(role, path); err != nil {
		return err
	}
	for _, library := range m.job.libraries(path) {
		if err := m.add("library", library); err != nil {
			return err
		}
	}
	return nil
}

// clang adds what clang says of itself.
func (m *maker) clang() error {
	version, err := m.job.query("--version")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(version) {
		name, isConfig := bytes.CutPrefix(bytes.TrimSpace(line), []byte("Configuration file: "))
		if !isConfig {
			m.key.add("version", string(line)) // and where it is installed: there it has headers
			m.id.windows = m.id.windows || bytes.HasPrefix(line, []byte("Target: ")) && windows(string(line))
		} else if err := m.add("configuration", string(name)); err != nil {
			return err
		}
	}
	return nil
}

// gcc adds the programs that gcc runs and the specs that it reads, and that there are none where it would look first.
func (m *maker) gcc() error {
	j := m.job
	names := append(programs(j.command.Language), "as")
	if slices.ContainsFunc(j.command.Outputs, func(o args.Output) bool { return o.Kind == args.SplitDwarf }) {
		names = append(names, "objcopy")
	}
	for _, name := range names {
		answer, err := j.query(append(prefixes(j.command.Hashed), "-print-prog-name="+name)...)
		if err != nil {
			return err
		}
		path := strings.TrimSpace(string(answer))
		m.key.add("place", path) // beside it are headers, and a root for them
		if !filepath.IsAbs(path) {
			if path = j.lookPath(path); path == "" {
				return fmt.Errorf("%s: %w", name, exec.ErrNotFound)
			}
		}
		if err := m.program(name, path); err != nil {
			return err
		}
		m.id.gnu = m.id.gnu || name == "as" && isGNU(path)
	}
	specs := append(specsOf(j.command.Argv), "specs")
	answer, err := j.query(append(prefixes(j.command.Hashed), "-print-search-dirs")...)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(answer) {
		if list, ok := bytes.CutPrefix(line, []byte("programs: =")); ok {
			m.lacks(string(list), names)
		} else if list, ok := bytes.CutPrefix(line, []byte("libraries: =")); ok {
			for _, path := range m.lacks(string(list), specs) {
				if err := m.specs(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// lacks notes which files are in none of the directories in a list, and returns those that are there.
func (m *maker) lacks(list string, names []string) (there []string) {
	look := m.job.daemon.dirs.look()
	for _, dir := range filepath.SplitList(strings.TrimSpace(list)) {
		dir = filepath.Clean(m.job.path(dir))
		g := gap{Dir: dir}
		for _, name := range names {
			if look.lacks(dir, name) {
				g.Names = append(g.Names, name)
			} else if !slices.Contains(there, dir+"/"+name) {
				there = append(there, dir+"/"+name)
			}
		}
		if len(g.Names) > 0 && !slices.ContainsFunc(m.id.absent, func(o gap) bool { return o.Dir == dir && slices.Equal(o.Names, g.Names) }) {
			m.id.absent = append(m.id.absent, g)
		}
	}
	return there
}

// errSpecs says that specs include other ones.
var errSpecs = errors.New("specs that include others")

// specs adds a file that changes what gcc does.
func (m *maker) specs(path string) error {
	if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte("%include")) {
		return errors.Join(errSpecs, err)
	}
	return m.add("specs", path)
}

// specsOf returns the specs that arguments name.
func specsOf(argv []string) (names []string) {
	for i, a := range argv {
		name, ok := strings.CutPrefix(strings.TrimLeft(a, "-"), "specs")
		switch {
		case !ok || a[0] != '-':
		case name == "" && i+1 < len(argv):
			names = append(names, argv[i+1])
		default:
			names = append(names, strings.TrimPrefix(name, "="))
		}
	}
	return names
}

// records reports whether the object may hold the command line, as debug information for Windows does. Nothing can be
// added to that line then.
func (j *job) records() bool {
	c := j.command
	return c.Flags.Debug && (c.Dialect.Microsoft() || c.Dialect.Clang() && (j.identity.windows || slices.ContainsFunc(c.Hashed, windows)))
}

// windows reports whether a text may name Windows, or UEFI, as a compiler's target.
func windows(text string) bool {
	return strings.Contains(text, "win") && !strings.Contains(text, "darwin") || strings.Contains(text, "msvc") || strings.Contains(text, "uefi")
}

// lookPath returns the absolute path of the program that the compiler finds by its name, "" if there is none.
func (j *job) lookPath(name string) string {
	for _, dir := range filepath.SplitList(j.env["PATH"]) {
		path := j.path(filepath.Join(dir, name))
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// programs returns what gcc runs for a language before the assembler.
func programs(language string) []string {
	switch {
	case strings.HasPrefix(language, "objective-c++"), strings.HasPrefix(language, "objc++"):
		return []string{"cc1objplus"}
	case strings.HasPrefix(language, "objective-c"), strings.HasPrefix(language, "objc"):
		return []string{"cc1obj"}
	case strings.HasPrefix(language, "c++"):
		return []string{"cc1plus"}
	case language == "assembler":
		return nil
	}
	return []string{"cc1"}
}

// prefixes returns the arguments that say where gcc looks for its programs.
func prefixes(arguments []string) []string {
	var found []string
	for i, a := range arguments {
		if a == "-B" && i+1 < len(arguments) {
			found = append(found, a, arguments[i+1])
		} else if strings.HasPrefix(a, "-B") && a != "-B" {
			found = append(found, a)
		}
	}
	return found
}

// query runs the compiler and returns what it prints on standard output.
func (j *job) query(arguments ...string) ([]byte, error) {
	stdout, _, err := j.queryBoth(arguments...)
	return stdout, err
}

func (j *job) queryBoth(arguments ...string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, j.ask.Compiler, arguments...)
	cmd.Dir = j.ask.Dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return launch.Matters(name) // here it is that of the compile which began the daemon
	})
	for name, value := range j.env {
		if name != "PWD" && !slices.Contains(j.command.Unset, name) {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	// Should the compiler turn out to be a launcher, it must not ask this daemon again.
	cmd.Env = append(cmd.Env, "LC_ALL=C", "LANGUAGE=C", "SARSEN_CC_DISABLE=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", j.ask.Compiler, strings.Join(arguments, " "), err)
	}
	return out.Bytes(), errs.Bytes(), nil
}
