package args

import "strings"

// sourceDependencies reads where cl's JSON goes: to a file, or to a directory if the name ends so.
// Without a suffix it could be a directory that is there, which nobody can tell from the name.
func (p *msvcParser) sourceDependencies(value string) {
	d := p.c.Dialect
	switch {
	case value == "-":
		p.refuse(OutputStdout, "/sourceDependencies-")
	case p.c.out.json != "" || d != MSVC || !strings.HasSuffix(value, ".json") && !directory(d, value):
		p.refuse(TooHard, "/sourceDependencies"+value)
	}
	p.c.out.json = value
	p.c.DepArgs = append(p.c.DepArgs, "/sourceDependencies")
	p.c.Flags.HashDir = true // the file has absolute paths
}

// directory reports whether a path can only be a directory.
func directory(d Dialect, name string) bool {
	return name != "" && strings.IndexByte(separators(d), name[len(name)-1]) >= 0
}

// clangRole says what an argument of /clang: is to the builders. A value may follow in the next one.
func (p *msvcParser) clangRole(value string) role {
	if o, ok := lookup(gccOptions, value); ok && o.action == dep {
		return roleDep
	}
	if n := len(p.clangArgs); n > 1 {
		switch p.clangArgs[n-2] {
		case "-MF", "-MT", "-MQ":
			return roleDep
		}
	}
	return roleOther
}

// clangPassed judges the arguments of /clang:.
func (p *msvcParser) clangPassed() {
	for i := 0; i < len(p.clangArgs); i++ {
		arg := p.clangArgs[i]
		o, ok := lookup(gccOptions, arg)
		if !ok {
			p.unknown(arg)
			continue
		}
		value := arg[len(o.name):]
		if o.form == separate || o.form == either && value == "" {
			if i++; i == len(p.clangArgs) {
				p.refuse(BadArguments, "/clang:"+arg)
				return
			}
			value = p.clangArgs[i]
		}
		switch o.action {
		case hash:
		case pre:
			p.c.Flags.HashPreprocessor = true
		case dep:
			p.dep(o.name, value)
		case effect:
			p.gccParser.effect(o.name, value)
		case file:
			p.file(o.name, value)
		default:
			p.refuse(TooHard, "/clang:"+arg)
		}
	}
}

// finish judges the whole command and fills in what follows from it.
func (p *msvcParser) finish() error {
	c, out := p.c, &p.c.out
	p.passedCC1()
	p.clangPassed()
	for i := range c.sources {
		if p.all != "" {
			c.sources[i].language = p.all
		}
		if c.sources[i].language == "" && (p.compile || p.syntax) { // else an object or a library that is linked
			p.refuse(UnknownLanguage, c.sources[i].name)
		}
		if header(c.sources[i].language) {
			p.refuse(PrecompiledHeaders, c.sources[i].name)
		}
	}
	c.Mode = Compile
	several := len(c.sources) > 1
	switch {
	case len(c.sources) == 0:
		p.refuse(NoSource, "")
	case p.syntax:
		c.Mode = SyntaxOnly
	case !p.compile:
		p.refuse(Link, "")
	}
	switch {
	case several && c.Mode == SyntaxOnly:
		p.refuse(TooHard, "/Zs with several sources")
	case several && out.given != "" && !directory(c.Dialect, out.given):
		p.refuse(BadArguments, "/Fo with several sources")
	case several && (out.depFile != "" || out.diagnostics != "" || out.json != "" && !directory(c.Dialect, out.json)):
		p.refuse(TooHard, "one file of several sources")
	case out.depFile != "" && c.DepMode == "":
		p.refuse(BadArguments, "-MF without -MD")
	case c.DepMode != "" && out.depFile == "":
		p.refuse(TooHard, "/clang:-MD without /clang:-MF")
	case out.notes || out.stackUsage || out.callGraph || out.split || out.bitcode || out.profileUse:
		p.refuse(TooHard, "other files of clang")
	}
	if p.err != nil {
		return p.err
	}
	c.Language = c.sources[0].language
	// The debug information has the directory, the object's name and the arguments.
	f := &c.Flags
	f.HashDir = f.HashDir || f.Debug || f.Coverage
	f.HashOutput = f.HashOutput || f.Debug || f.Coverage
	f.HashPreprocessor = f.HashPreprocessor || f.Debug
	c.place()
	return c.distinct()
}

// placeMSVC derives the outputs of a command with the one source s.
func (c *Command) placeMSVC(s source) {
	out := &c.out
	b := stem(microsoftBase(c.Dialect, s.name))
	c.Output = b + ".obj"
	if given := out.given; given != "" {
		switch {
		case directory(c.Dialect, given):
			c.Output = given + c.Output
		case ext(microsoftBase(c.Dialect, given)) == "":
			c.Output = given + ".obj"
		default:
			c.Output = given
		}
	}
	if c.Mode == SyntaxOnly {
		c.Output = ""
	} else {
		c.Outputs = append(c.Outputs, Output{Kind: Object, Path: c.Output})
	}
	c.placeDep(s, "")
	if out.json != "" {
		name := out.json
		if directory(c.Dialect, name) {
			name += microsoftBase(c.Dialect, s.name) + ".json"
		}
		c.Outputs = append(c.Outputs, Output{Kind: SourceDependencies, Path: name})
	}
	if out.diagnostics != "" {
		c.Outputs = append(c.Outputs, Output{Kind: Diagnostics, Path: out.diagnostics})
	}
}
