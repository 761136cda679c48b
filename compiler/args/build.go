package args

import "slices"

// rebuild returns the command's words, but for items that drop says.
func (c *Command) rebuild(drop func(item) bool) []string {
	var argv []string
	for _, it := range c.items {
		if !drop(it) {
			argv = append(argv, it.words...)
		}
	}
	return argv
}

// Split returns one command for each source. Only the first one has /MP, of which clang-cl complains once.
func (c *Command) Split() []*Command {
	if len(c.sources) == 1 {
		return []*Command{c}
	}
	var parts []*Command
	for n, s := range c.sources {
		p := *c
		p.Sources, p.Language, p.sources = []string{s.name}, s.language, []source{s}
		p.items = slices.Clone(c.items[:0:0])
		seen := 0
		for _, it := range c.items {
			if it.role == roleSource {
				seen++
				if seen-1 != n {
					continue
				}
			}
			if it.role == roleJobs && n > 0 {
				continue
			}
			p.items = append(p.items, it)
		}
		p.Argv = p.rebuild(func(item) bool { return false })
		p.place()
		parts = append(parts, &p)
	}
	return parts
}

// distinct refuses a command whose sources would write one file, as a.c and b/a.c do.
func (c *Command) distinct() error {
	if len(c.sources) == 1 {
		return nil
	}
	seen := map[string]bool{}
	for _, p := range c.Split() {
		for _, o := range p.Outputs {
			if seen[o.Path] {
				return refuse(TooHard, "several sources write "+o.Path)
			}
			seen[o.Path] = true
		}
	}
	return nil
}

// place derives what depends on the one source: language, outputs and flags.
func (c *Command) place() {
	c.Outputs = nil
	if len(c.sources) != 1 {
		return
	}
	s := c.sources[0]
	c.Flags.NoPreprocessor = !preprocessed(s.language)
	c.Flags.HashPreprocessor = c.Flags.HashPreprocessor || c.Flags.NoPreprocessor
	c.Flags.Assembler = s.language == "assembler" || s.language == "assembler-with-cpp"
	if c.Dialect.Microsoft() {
		c.placeMSVC(s)
	} else {
		c.placeGCC(s)
	}
	// What stands for the mode and the language on the command line may be a suffix or a name.
	c.Hashed = append(slices.Clip(c.Hashed), c.Dialect.String(), c.Mode.String(), s.language)
}

// PreprocessArgv returns the command that prints the preprocessed source on stdout and writes no file.
// It is nil if the source is not preprocessed, or if there are several.
func (c *Command) PreprocessArgv() []string {
	if len(c.sources) != 1 || c.Flags.NoPreprocessor {
		return nil
	}
	argv := c.rebuild(func(it item) bool { return it.role != roleOther && it.role != roleSource })
	switch {
	case c.Dialect.Microsoft():
		return append([]string{"/E"}, argv...)
	case c.out.comments:
		return append([]string{"-E", "-C"}, argv...)
	}
	return append([]string{"-E"}, argv...)
}

// CompileArgv returns the command as it is to be run. If depFile is not "" and the command asks for
// no dependencies, they are written there: a make rule with the system headers, or cl's JSON.
func (c *Command) CompileArgv(depFile string) []string {
	if depFile == "" || c.DepMode != "" || c.Flags.NoPreprocessor || c.out.json != "" {
		return slices.Clone(c.Argv)
	}
	switch c.Dialect {
	case MSVC:
		return append([]string{"/sourceDependencies", depFile}, c.Argv...)
	case ClangCL:
		return append([]string{"/clang:-MD", "/clang:-MF" + depFile}, c.Argv...)
	}
	return append([]string{"-MD", "-MF", depFile}, c.Argv...)
}
