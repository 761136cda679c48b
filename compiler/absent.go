package compiler

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A search is where a compiler looks for headers, as it says itself.
type search struct {
	quote   []string // before the others for names in quotes
	dirs    []string
	missing []string // directories that it would look into if they were there
	double  []string // directories that it leaves out because they are others under another name
}

// searchOf returns where the compiler looks in j, and asks it the first time.
func (ids *identities) searchOf(j *job) (*search, error) {
	argv := append(searching(j.command.PreprocessArgv(), j.command.Sources[0]), "-v")
	switch {
	case !j.command.Dialect.Microsoft():
		argv = append(argv, "-x", j.command.Language, os.DevNull)
	case j.command.Language == "c++":
		argv = append(argv, "-Tp"+os.DevNull)
	default:
		argv = append(argv, "-Tc"+os.DevNull)
	}
	key := j.identity.digest + "\x00" + j.ask.Dir + "\x00" + strings.Join(argv, "\x00")
	for _, name := range []string{"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH"} {
		key += "\x00" + j.env[name]
	}
	ids.mu.Lock()
	s := ids.searches[key]
	ids.mu.Unlock()
	if s != nil && s.stands(j) {
		return s, nil
	}
	_, stderr, err := j.queryBoth(argv...)
	if err != nil {
		return nil, err
	}
	s = parseSearch(stderr)
	ids.mu.Lock()
	if len(ids.searches) > 10_000 {
		clear(ids.searches)
	}
	ids.searches[key] = s
	ids.mu.Unlock()
	return s, nil
}

// stands reports whether the directories that were not there still are not, and those that were others still are.
func (s *search) stands(j *job) bool {
	for _, dir := range s.double {
		now, err := os.Stat(j.path(dir))
		if err != nil || !slices.ContainsFunc(append(slices.Clone(s.quote), s.dirs...), func(kept string) bool {
			other, err := os.Stat(j.path(kept))
			return err == nil && os.SameFile(now, other)
		}) {
			return false
		}
	}
	for _, dir := range s.missing {
		if _, err := os.Lstat(j.path(dir)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// through returns the names by which files were found in directories that links lead to. gcc names a system header by
// where it lies, if that is shorter, and so without the link, which may lead elsewhere later.
func (s *search) through(j *job, names []string) []string {
	var found []string
	for _, dir := range append(slices.Clone(s.quote), s.dirs...) {
		path := j.path(dir)
		real, err := filepath.EvalSymlinks(path)
		if err != nil || real == filepath.Clean(path) {
			continue
		}
		for _, name := range names {
			rest, ok := strings.CutPrefix(name, real+"/")
			if _, named := within(name, dir); !ok || named {
				continue
			}
			if _, err := os.Stat(path + "/" + rest); err == nil {
				found = append(found, dir+"/"+rest)
			}
		}
	}
	return found
}

// searching leaves out of the preprocessor's arguments the source and what says nothing about directories.
func searching(arguments []string, source string) []string {
	var kept []string
	for i := 0; i < len(arguments); i++ {
		switch a := arguments[i]; {
		case a == source || a == "--" || a == "/Tc"+source || a == "/Tp"+source || a == "-Tc"+source || a == "-Tp"+source:
		case a == "-D" || a == "-U" || a == "-A" || a == "-include" || a == "-imacros" || a == "/D" || a == "/U" || a == "/FI":
			i++
		case strings.HasPrefix(a, "-D") || strings.HasPrefix(a, "-U"):
		default:
			kept = append(kept, a)
		}
	}
	return kept
}

// parseSearch reads what gcc and clang print with -v.
func parseSearch(text []byte) *search {
	s := &search{}
	var chain *[]string
	for line := range bytes.Lines(text) {
		l := strings.TrimRight(string(line), "\r\n")
		switch {
		case strings.HasPrefix(l, `ignoring nonexistent directory "`):
			s.missing = append(s.missing, strings.TrimSuffix(strings.TrimPrefix(l, `ignoring nonexistent directory "`), `"`))
		case strings.HasPrefix(l, `ignoring duplicate directory "`):
			s.double = append(s.double, strings.TrimSuffix(strings.TrimPrefix(l, `ignoring duplicate directory "`), `"`))
		case strings.HasPrefix(l, `#include "..."`):
			chain = &s.quote
		case strings.HasPrefix(l, `#include <...>`):
			chain = &s.dirs
		case strings.HasPrefix(l, "End of search list"):
			chain = nil
		case chain != nil && strings.HasPrefix(l, " "):
			*chain = append(*chain, strings.TrimSuffix(l[1:], " (framework directory)"))
		}
	}
	return s
}

// gapsOf returns what was not there when files were read, and would have been read instead had it been, and what was only
// looked for and found. hidden says that there is what may have been read, and is named nowhere.
func (j *job) gapsOf(s *search, names []string, contents []content, began int64) (list []gap, found []string, hidden bool) {
	g := &gaps{job: j, began: began, look: j.daemon.dirs.look(), known: map[string]bool{}, at: map[string]int{}}
	for _, name := range names {
		g.known[plain(name)] = true
	}
	chain := append(slices.Clone(s.quote), s.dirs...)
	for _, dir := range s.missing {
		g.list = append(g.list, gap{Dir: dir})
	}
	var computed []string // directories of files that say with a macro what they include
	for i, name := range names {
		if contents[i].traits&hasComputed != 0 {
			computed = append(computed, dirOf(name))
		}
	}
	for i, name := range names {
		for k, dir := range chain {
			if rest, ok := within(name, dir); ok {
				g.add(chain[:k], rest)
				g.add(s.double, rest)
				g.add(computed, rest)
			}
		}
		here := append([]string{dirOf(name)}, chain...)
		c := &contents[i]
		for _, quoted := range c.quoted {
			g.add(here[:1], quoted)
		}
		for _, probed := range c.probed {
			for k := range here {
				if g.add(here[k:k+1], probed) && !mutant.ProbeForgotten {
					found = append(found, join(here[k], probed))
				}
			}
		}
		if strings.HasPrefix(name, "/usr/") {
			continue // those are not precompiled, and many
		}
		for _, included := range append(slices.Clone(c.quoted), c.angled...) {
			hidden = g.add(here, included+".gch") || hidden
		}
	}
	here := append([]string{dirOf(names[0]), "."}, chain...)
	for _, name := range j.command.Includes {
		g.add(here[1:2], name) // which comes before the chain
		hidden = g.add(here, name+".gch") || hidden
		hidden = g.add(here, name+".pch") || hidden
	}
	for _, dir := range j.command.IncludeDirs {
		now, err := stampOf(j.path(dir.Path))
		hidden = hidden || err == nil && !now.mode.IsDir() // it may become a directory
	}
	same, twins := g.twins(chain, names, contents)
	return g.list, slices.Concat(found, g.dirs, same), hidden || twins || g.young
}

// plain returns a name without the ./ that dependency files leave out.
func plain(name string) string {
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[2:], "/")
	}
	return name
}

// join returns the name of a file that is found in a directory of the search, as dependency files have it.
func join(dir, name string) string {
	switch {
	case dir == "" || filepath.IsAbs(name):
		return plain(name)
	case !strings.HasSuffix(dir, "/"):
		dir += "/"
	}
	return plain(dir + name) // as it is: .. after a link is not what was before it
}

// within returns the name by which a file was found if it was found in a directory of the search.
func within(name, dir string) (string, bool) {
	prefix := join(dir, "")
	if prefix == "" && filepath.IsAbs(name) {
		return "", false
	}
	return strings.CutPrefix(plain(name), prefix)
}

// dirOf returns the directory in a file's name as it is written.
func dirOf(name string) string {
	switch i := strings.LastIndexByte(name, '/'); {
	case i < 0:
		return "."
	case i == 0:
		return "/"
	default:
		return name[:i]
	}
}

// gaps collects names that are absent, by directory.
type gaps struct {
	job   *job
	began int64 // when the compile did
	young bool  // there is a file that may have come since
	look  *look
	known map[string]bool // whether a file is there, for those that were read or looked for
	at    map[string]int  // where a directory is in list
	list  []gap
	dirs  []string // directories, and the like, where a file was looked for
}

// add notes that name is in none of dirs, as far as that is so. It reports whether it is in one. An absolute
// name is looked for in itself.
func (g *gaps) add(dirs []string, name string) (there bool) {
	if filepath.IsAbs(name) {
		dirs = []string{""}
	}
	for _, dir := range dirs {
		full := join(dir, name)
		if seen, ok := g.known[full]; ok {
			there = there || seen
			continue
		}
		parent, base := dirOf(full), filepath.Base(full)
		if !g.look.lacks(g.job.path(parent), base) {
			if info, err := os.Lstat(g.job.path(full)); err == nil {
				now := stampFrom(info.Sys().(*syscall.Stat_t))
				g.young = g.young || g.job.fresh(now, g.began)
			}
			if info, err := os.Stat(g.job.path(full)); err == nil && !info.Mode().IsRegular() {
				g.known[full], g.dirs = false, append(g.dirs, full)
				continue
			}
			g.known[full], there = true, true
			continue
		}
		i, ok := g.at[parent]
		if !ok {
			i = len(g.list)
			g.at[parent], g.list = i, append(g.list, gap{Dir: parent})
		}
		g.list[i].Names = append(g.list[i].Names, base)
	}
	return there
}

// holds reports whether everything in the gap is still absent.
func (g *gap) holds(j *job, l *look) bool {
	dir := j.path(g.Dir)
	if len(g.Names) == 0 {
		return l.at(dir) == gone
	}
	return l.lacks(dir, g.Names...)
}
