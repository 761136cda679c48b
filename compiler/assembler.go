package compiler

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// isGNU reports whether an assembler is one that writes dependency files.
func isGNU(path string) bool {
	text, err := exec.Command(path, "--version").Output()
	return err == nil && bytes.Contains(text, []byte("GNU assembler"))
}

// assemblerFile returns the name of the file in which the assembler shall list what it reads, "" if it can't.
func (j *job) assemblerFile() string {
	// An object for the linker to optimise has the arguments of the assembler in it.
	if c := j.command; c.Flags.LTO || c.Dialect.Clang() || c.Dialect.Microsoft() || c.Mode != args.Compile || !j.identity.gnu {
		return ""
	}
	return j.daemon.tempName(j.daemon.temp)
}

// assembled reports whether the assembler has read only what the compiler was given, and not what .incbin or .include name: no
// search of the text finds those that macros put together.
func (j *job) assembled(file string, names []string) bool {
	text, err := os.ReadFile(file)
	if err != nil || mutant.AssemblerBelieved {
		return err == nil
	}
	read, err := parseRule(text)
	if err != nil {
		return false
	}
	given := map[[2]uint64]bool{}
	for _, name := range append([]string{j.command.Sources[0]}, names...) {
		if s, err := stampOf(j.path(name)); err == nil {
			given[[2]uint64{s.device, s.inode}] = true
		}
	}
	for _, name := range read {
		s, err := stampOf(j.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // what the compiler wrote for it, and names that other options have changed
		}
		if err != nil || !given[[2]uint64{s.device, s.inode}] {
			return false
		}
	}
	return true
}
