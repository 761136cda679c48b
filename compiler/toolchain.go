package compiler

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// loaderCache is what the loader looks libraries up in, if it is there.
const loaderCache = "/etc/ld.so.cache"

var errToolchain = errors.New("it is not known what the compiler is made of")

// toolchains remembers which files compilers run and load.
type toolchains struct {
	mu    sync.Mutex
	known map[string][]string
}

// of returns the names of all files that j's compiler runs and loads: programs, the loader, libraries, specs. What
// they lead to is for the caller to look up, each time.
func (t *toolchains) of(j *job) ([]string, error) {
	split := slices.ContainsFunc(j.command.Hashed, func(a string) bool { return strings.HasPrefix(a, "-gsplit-dwarf") })
	cache, _ := stampOf(loaderCache) // none is as good as any
	key := fmt.Sprint(j.ask.Compiler, "\x00", j.identity.digest, "\x00", j.command.Language, split, cache, "\x00", j.env["PATH"])
	t.mu.Lock()
	known, ok := t.known[key]
	t.mu.Unlock()
	if ok {
		return known, nil
	}
	names, err := j.toolchain(split)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	if len(t.known) > 1000 {
		clear(t.known)
	}
	t.known[key] = names
	t.mu.Unlock()
	return names, nil
}

// toolchain asks gcc and the loader.
func (j *job) toolchain(split bool) ([]string, error) {
	names := []string{j.ask.Compiler}
	programs := append(programs(j.command.Language), "as")
	if split {
		programs = append(programs, "objcopy") // takes .dwo out of the object
	}
	for _, program := range programs {
		answer, err := j.query("-print-prog-name=" + program)
		if err != nil {
			return nil, err
		}
		path := strings.TrimSpace(string(answer))
		if !filepath.IsAbs(path) {
			if path = j.lookPath(path); path == "" {
				return nil, fmt.Errorf("%s: %w", program, exec.ErrNotFound)
			}
		}
		names = append(names, path)
	}
	for _, program := range slices.Clone(names) {
		loaded, err := loads(program)
		if err != nil {
			return nil, err
		}
		names = append(names, loaded...)
	}
	if answer, err := j.query("-print-file-name=specs"); err != nil {
		return nil, err
	} else if path := strings.TrimSpace(string(answer)); filepath.IsAbs(path) {
		names = append(names, path)
	}
	if _, err := os.Stat(loaderCache); err == nil {
		names = append(names, loaderCache)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// loads returns the loader of a program and the libraries that the loader finds for it.
func loads(program string) ([]string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", program, errToolchain, err)
	}
	defer f.Close()
	i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i < 0 {
		return nil, nil
	}
	name, err := io.ReadAll(io.LimitReader(f.Progs[i].Open(), 4096))
	if err != nil {
		return nil, err
	}
	loader := string(bytes.TrimRight(name, "\x00"))
	ctx, cancel := context.WithTimeout(context.Background(), queryTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, loader, "--list", program)
	cmd.Env = []string{"LC_ALL=C"}
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list %s: %w", loader, program, err)
	}
	names := []string{loader}
	for line := range strings.Lines(string(text)) {
		// "name => path (address)", "path (address)", or the kernel's own, which has no path.
		line, _, _ = strings.Cut(strings.TrimSpace(line), " (0x")
		name, path, arrow := strings.Cut(line, " => ")
		if !arrow {
			path = name
		}
		switch {
		case filepath.IsAbs(path):
			names = append(names, path)
		case arrow || !strings.HasPrefix(name, "linux-"):
			return nil, fmt.Errorf("%s needs %q: %w", program, line, errToolchain)
		}
	}
	return names, nil
}
