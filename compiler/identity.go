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

	"github.com/sarsen-build/sarsen/compiler/launch"
)

// queryTime bounds how long a compiler may take to answer a question about itself.
const queryTime = 5 * time.Second

// An identity says which compiler it is, by content: what it names may lie anywhere.
type identity struct {
	digest  string
	stamps  map[string]stamp // of the files that it was made from
	windows bool             // clang compiles for Windows unless it is told otherwise
}

// identities remembers compilers, and what they search, until the files that make them up change.
type identities struct {
	files *hashes

	mu       sync.Mutex
	known    map[string]*identity
	searches map[string]*search
}

func newIdentities(files *hashes) *identities {
	return &identities{files: files, known: map[string]*identity{}, searches: map[string]*search{}}
}

// of returns the identity of the compiler that j runs.
func (ids *identities) of(j *job) (*identity, error) {
	c := j.command
	question := []string{j.ask.Compiler, c.Dialect.String(), c.Language, j.env["COMPILER_PATH"], j.env["GCC_EXEC_PREFIX"]}
	question = append(question, prefixes(c.Hashed)...)
	if !c.Dialect.Clang() {
		question = append(question, j.env["PATH"], j.lookPath("as"))
	}
	key := strings.Join(question, "\x00")
	ids.mu.Lock()
	known := ids.known[key]
	ids.mu.Unlock()
	if known != nil && known.stands() {
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

// stands reports whether the compiler is still made of the same files.
func (id *identity) stands() bool {
	for path, was := range id.stamps {
		if now, err := stampOf(path); err != nil || now != was {
			return false
		}
	}
	return true
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
	id := &identity{stamps: map[string]stamp{}}
	k := newKey("compiler")
	add := func(role, path string) error {
		f, err := ids.files.digest(path)
		if err != nil {
			return err
		}
		id.stamps[path] = f.stamp
		k.add(role, f.digest.String())
		return nil
	}
	if err := add("driver", j.ask.Compiler); err != nil {
		return nil, err
	}
	if j.command.Dialect.Clang() {
		version, err := j.query("--version")
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(version) {
			name, isConfig := bytes.CutPrefix(bytes.TrimSpace(line), []byte("Configuration file: "))
			if isConfig {
				if err := add("configuration", string(name)); err != nil {
					return nil, err
				}
			} else if !bytes.HasPrefix(line, []byte("InstalledDir:")) {
				k.add("version", string(line))
				id.windows = id.windows || bytes.HasPrefix(line, []byte("Target: ")) && windows(string(line))
			}
		}
		id.digest = k.digest().Hex()
		return id, nil
	}
	for _, program := range append(programs(j.command.Language), "as") {
		answer, err := j.query(append(prefixes(j.command.Hashed), "-print-prog-name="+program)...)
		if err != nil {
			return nil, err
		}
		path := strings.TrimSpace(string(answer))
		if !filepath.IsAbs(path) {
			if path = j.lookPath(path); path == "" {
				return nil, fmt.Errorf("%s: %w", program, exec.ErrNotFound)
			}
		}
		if err := add(program, path); err != nil {
			return nil, err
		}
	}
	if answer, err := j.query("-print-file-name=specs"); err == nil {
		if path := strings.TrimSpace(string(answer)); filepath.IsAbs(path) {
			if err := add("specs", path); err != nil {
				return nil, err
			}
		}
	}
	id.digest = k.digest().Hex()
	return id, nil
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
