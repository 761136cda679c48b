package compiler

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/compiler/launch"
)

// maxPast bounds how many sources are remembered for explanations.
const maxPast = 10_000

// past remembers the last two misses of each source, and what the nearest result differed in.
type past struct {
	mu     sync.Mutex
	misses map[string][]missed // by the source's absolute path, the latest last
}

// A missed is one miss.
type missed struct {
	counter string
	fields  []field
	nearest []string
	place   string // where it was compiled, if a server might have done so
}

func newPast() *past { return &past{misses: map[string][]missed{}} }

// sourcePath returns the source's path as people write it.
func (j *job) sourcePath() string { return filepath.Clean(j.path(j.command.Sources[0])) }

func (p *past) note(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := j.sourcePath()
	if len(p.misses) >= maxPast && p.misses[path] == nil {
		clear(p.misses)
	}
	m := append(p.misses[path], missed{j.miss, j.fields, j.nearest, ""})
	p.misses[path] = m[max(0, len(m)-2):]
}

// place notes where the latest miss of a source was compiled.
func (p *past) place(j *job, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.misses[j.sourcePath()]; len(m) > 0 {
		m[len(m)-1].place = text
	}
}

// explain says in sentences why the last compile of a source was a miss, and where it was compiled.
func (p *past) explain(path string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	misses := p.misses[path]
	lines := why(misses)
	if len(misses) > 0 && misses[len(misses)-1].place != "" {
		lines = append(lines, misses[len(misses)-1].place)
	}
	return lines
}

func why(misses []missed) []string {
	if len(misses) == 0 {
		return []string{"no miss of this source is remembered: it was a hit, was passed through, or was not compiled since the daemon started"}
	}
	last := misses[len(misses)-1]
	switch last.counter {
	case missHeader:
		return each("a header differs from the nearest entry: %s", last.nearest)
	case missAbsent:
		return each("a header may be there now that would be found first, in %s", last.nearest)
	case missDate:
		return each("__DATE__ is used; the entry is of %s", last.nearest)
	case missEvicted:
		return []string{"the entry was evicted; a larger --max-size keeps more"}
	case missForced:
		return []string{"SARSEN_CC_RECACHE is set"}
	}
	if len(misses) == 1 {
		return []string{"nothing was compiled from this source with these arguments before"}
	}
	differ := difference(misses[0].fields, last.fields)
	if len(differ) == 0 {
		return []string{"this source was compiled with these arguments before, but the result could not be stored; see not_stored in --stats"}
	}
	return differ
}

func each(format string, values []string) []string {
	var lines []string
	for _, v := range values {
		lines = append(lines, fmt.Sprintf(format, v))
	}
	return lines
}

// difference says what two keys were made of differently.
func difference(old, now []field) []string {
	var lines []string
	for _, f := range old {
		if !slices.Contains(now, f) {
			lines = append(lines, "without "+f.Name+" "+f.Value)
		}
	}
	for _, f := range now {
		if !slices.Contains(old, f) {
			lines = append(lines, "with "+f.Name+" "+f.Value)
		}
	}
	return lines
}

// Check returns why a command, with the compiler as its first word, can't be cached when it runs in dir with that
// environment.
func Check(argv []string, dir string, env []string) error {
	j := &job{ask: &launch.Ask{Dir: dir}, env: map[string]string{}}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		j.env[name] = value
	}
	dialect, ok := args.DialectOf(argv[0])
	if !ok {
		return fmt.Errorf("%s is no compiler that is known", argv[0])
	}
	_, err := args.Parse(dialect, argv[1:], j)
	return err
}
