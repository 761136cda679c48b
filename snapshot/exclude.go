package snapshot

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// Excludes say what is left out, in the way of .gitignore: the last pattern that matches a path counts. The zero
// value leaves nothing out.
type Excludes struct {
	patterns []pattern
}

type pattern struct {
	parts     []string // of the path, each with * ? [...], or ** for any number of parts, at the end for one at least
	again     bool     // !: take in again
	directory bool     // only directories
}

// Add adds a pattern. With a slash in front or within, it is matched from the top, else at any depth; with one at the
// end, only directories match; with ! in front, what it matches is taken in after all.
func (e *Excludes) Add(text string) error {
	p := pattern{}
	rest := text
	if after, ok := strings.CutPrefix(rest, "!"); ok {
		p.again, rest = true, after
	}
	rest = strings.TrimPrefix(rest, `\`)
	if before, ok := strings.CutSuffix(rest, "/"); ok {
		p.directory, rest = true, before
	}
	anchored := strings.Contains(rest, "/")
	// Git's form of a set of letters that must not be there is ours too.
	p.parts = strings.Split(strings.TrimPrefix(strings.ReplaceAll(rest, "[!", "[^"), "/"), "/")
	if !anchored {
		p.parts = append([]string{"**"}, p.parts...)
	}
	for _, part := range p.parts {
		if _, err := path.Match(part, ""); err != nil || part == "" {
			return fmt.Errorf("exclude %q: no pattern", text)
		}
	}
	e.patterns = append(e.patterns, p)
	return nil
}

// AddAll adds the patterns of a file, one a line. Empty lines and those that begin with # say nothing.
func (e *Excludes) AddAll(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text := strings.TrimRight(lines.Text(), " \t\r")
		if text == "" || text[0] == '#' {
			continue
		}
		if err := e.Add(text); err != nil {
			return err
		}
	}
	return lines.Err()
}

// match reports whether the path, slashed and relative to the top, is left out.
func (e *Excludes) match(name string, directory bool) bool {
	parts := strings.Split(name, "/")
	for i := len(e.patterns) - 1; i >= 0; i-- {
		p := e.patterns[i]
		if (directory || !p.directory) && matches(p.parts, parts) {
			return !p.again
		}
	}
	return false
}

func matches(pattern, parts []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			if len(pattern) == 1 {
				return len(parts) > 0 // all that is below, and not the directory itself
			}
			for i := range len(parts) + 1 {
				if matches(pattern[1:], parts[i:]) {
					return true
				}
			}
			return false
		}
		if len(parts) == 0 {
			return false
		}
		if ok, _ := path.Match(pattern[0], parts[0]); !ok {
			return false
		}
		pattern, parts = pattern[1:], parts[1:]
	}
	return len(parts) == 0
}
