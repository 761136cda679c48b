package compiler

import (
	"strings"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// twins looks for files with #pragma once or #import that have the content of another one that was read. gcc takes the two
// for one if their times are the same: then it says nothing of the second, which may change later. If they are one file, its
// other names are returned.
func (g *gaps) twins(chain, names []string, contents []content) (same []string, hidden bool) {
	once, read := map[digest.Digest]*content{}, map[string]bool{}
	for _, name := range names {
		read[plain(name)] = true
	}
	imports := false
	for i := range contents {
		imports = imports || contents[i].traits&hasImport != 0
	}
	for i := range names {
		c := &contents[i]
		if c.digest.Size == 0 || !imports && c.traits&hasOnce == 0 {
			continue
		}
		if first := once[c.digest]; first != nil && !first.sameFile(c) {
			return nil, true
		}
		once[c.digest] = c
	}
	if len(once) == 0 || mutant.TwinForgotten {
		return nil, false
	}
	for i, name := range names {
		if strings.HasPrefix(name, "/usr/") {
			continue
		}
		here := append([]string{dirOf(name)}, chain...)
		for _, list := range [][]string{contents[i].quoted, contents[i].angled} {
			for _, included := range list {
				full, c := g.first(here, included)
				if read[full] || c == nil || once[c.digest] == nil {
					continue
				}
				if !once[c.digest].sameFile(c) {
					return nil, true
				}
				read[full], same = true, append(same, full)
			}
		}
	}
	return same, false
}

func (c *content) sameFile(o *content) bool {
	return c.stamp.device == o.stamp.device && c.stamp.inode == o.stamp.inode
}

// first returns the file that is found by a name, nil if there is none.
func (g *gaps) first(dirs []string, name string) (string, *content) {
	for _, dir := range dirs {
		full := join(dir, name)
		if c, err := g.job.daemon.files.digest(g.job.path(full)); err == nil {
			return full, &c
		}
	}
	return "", nil
}
