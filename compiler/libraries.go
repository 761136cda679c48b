package compiler

import (
	"debug/elf"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// loaderVariables say which libraries programs are run with instead of the system's.
var loaderVariables = []string{"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT"}

// libraries returns the shared libraries that a program is run with in j, as far as the system's loader says so. It is
// asked in a way that does not run the program.
func (j *job) libraries(program string) []string {
	if !traced(program) {
		return nil
	}
	cmd := exec.Command(program)
	cmd.Dir = j.ask.Dir
	cmd.Env = []string{"LD_TRACE_LOADED_OBJECTS=1"}
	for _, name := range loaderVariables {
		if value := j.env[name]; value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	text, err := cmd.Output()
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				found = append(found, word)
			}
		}
	}
	return found
}

// traced reports whether a program is started by a loader that lists libraries instead if it is asked to.
func traced(program string) bool {
	f, err := elf.Open(program)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		loader, err := io.ReadAll(p.Open())
		name := filepath.Base(strings.TrimRight(string(loader), "\x00"))
		return err == nil && (strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld64.so") || name == "ld.so.1")
	}
	return false
}
