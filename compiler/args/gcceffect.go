package args

import (
	"slices"
	"strings"
)

// outputs is what decides where the files of a command go.
type outputs struct {
	given       string // -o
	depFile     string // -MF
	targets     bool   // -MT or -MQ was given
	passed      bool   // the dependency file comes from -Wp
	driver      bool   // -MD or -MMD was given to the driver
	notes       bool   // .gcno
	stackUsage  bool
	callGraph   bool
	split       bool // .dwo
	bitcode     bool // clang's -emit-llvm
	named       bool // -c or -S stands beside -fsyntax-only or a header
	verbose     bool // -fverbose-asm
	comments    bool // there are warnings of comments
	profileUse  bool // -fprofile-use without a path: .gcda beside the output, or clang's default
	diagnostics string
	json        string // /sourceDependencies
}

// effect notes what an option changes besides what is hashed.
func (p *gccParser) effect(name, value string) {
	f, out := &p.c.Flags, &p.c.out
	switch name {
	case "-g":
		f.Debug = value != "0"
		f.HashPreprocessor = f.HashPreprocessor || strings.HasSuffix(value, "3") // macros are debug information
	case "-march=", "-mtune=", "-mcpu=":
		f.Native = f.Native || strings.HasPrefix(value, "native")
	case "-gsplit-dwarf", "-gsplit-dwarf=":
		out.split = value != "single"
		f.HashOutput, f.HashDir = true, true
	case "-gno-split-dwarf":
		out.split = false
	case "-fprofile-arcs", "-fprofile-generate", "-fprofile-generate=", "-fprofile-dir=",
		"-fprofile-instr-generate", "-fprofile-instr-generate=", "-fcs-profile-generate", "-fcs-profile-generate=",
		"-fcoverage-mapping":
		f.Coverage = true // the object names its counters' file
	case "-ftest-coverage", "-coverage", "--coverage":
		f.Coverage, out.notes = true, true
	case "-fstack-usage":
		out.stackUsage = true
	case "-fcallgraph-info", "-fcallgraph-info=":
		out.callGraph = true
	case "-flto", "-flto=":
		f.LTO, f.HashDir = true, true // gcc's intermediate code has it, and clang's for Windows
	case "-fworking-directory":
		f.HashDir = true
	case "-fverbose-asm":
		out.verbose = true
	case "-emit-llvm":
		out.bitcode, f.HashDir = true, true
	case "-fdebug-macro":
		f.HashPreprocessor = true
	case "-frecord-gcc-switches", "-frecord-command-line", "-grecord-gcc-switches", "-grecord-command-line":
		p.record(name)
	case "--serialize-diagnostics", "--serialize-diagnostics=":
		if value == "" || strings.HasPrefix(value, "/dev/") || value == "-" || out.diagnostics != "" {
			p.refuse(TooHard, name)
		}
		out.diagnostics = value
	case "-fprofile-use", "-fprofile-instr-use", "-fprofile-use=":
		f.Profile = true
		out.profileUse = value == ""
		f.HashDir = f.HashDir || !p.c.Dialect.Clang() // which gcc names if there is no profile
		if value != "" {
			p.c.ExtraFiles = append(p.c.ExtraFiles, value)
		}
	case "-fplugin-arg-", "-mllvm":
		p.foreign(name, value)
	case "-W":
		// gcc looks for comments that say that a case falls through.
		out.comments = out.comments || !p.c.Dialect.Clang() &&
			(value == "" || value == "extra" || strings.Contains(value, "implicit-fallthrough"))
	case "-Wdocumentation", "-Weverything", "-fparse-all-comments":
		out.comments = true
	case "-fdiagnostics-format=":
		if strings.HasSuffix(value, "-file") {
			p.refuse(TooHard, name+value) // messages go to a file
		}
	case "--driver-mode=":
		if !p.c.Dialect.Clang() || driverMode(p.c.Dialect, []string{name + value}) != p.c.Dialect {
			p.refuse(TooHard, name+value) // it came from a response file, and so too late
		}
	default:
		p.color(name, value)
	}
}

// foreign reads options that are a plugin's, or LLVM's own.
func (p *gccParser) foreign(name, value string) {
	_, file, ok := strings.Cut(value, "=")
	switch {
	case name == "-fplugin-arg-" && ok && file != "": // what it means is the plugin's affair: it may be a file
		p.c.ExtraFiles = append(p.c.ExtraFiles, file)
	case name == "-mllvm" && (strings.Contains(value, "/") || strings.Contains(value, "file")):
		p.refuse(TooHard, name+" "+value) // it may be written
	}
}

// record judges options that keep the command line in the object. clang keeps all of it.
func (p *gccParser) record(name string) {
	switch {
	case p.c.Dialect.Clang():
		p.refuse(TooHard, name)
	case strings.HasPrefix(name, "-f"):
		p.c.Flags.HashOutput, p.c.Flags.HashDir, p.c.Flags.HashPreprocessor = true, true, true
	}
}

// color reads the options that colour messages.
func (p *gccParser) color(name, value string) {
	switch {
	case name == "-fno-diagnostics-color" || name == "-fno-color-diagnostics" || value == "never":
		p.c.Color = ColorNever
	case name == "-fdiagnostics-color" || name == "-fcolor-diagnostics" || value == "always":
		p.c.Color = ColorAlways
	case value == "auto":
		p.c.Color = ColorAuto
	}
}

// finish judges the whole command and fills in what follows from it.
func (p *gccParser) finish() error {
	c, out := p.c, &p.c.out
	p.passed()
	headers := 0
	for _, s := range c.sources {
		if header(s.language) {
			headers++
		}
		if s.language == "" && (p.compile || p.assemble || p.syntax) { // else an object or a library that is linked
			p.refuse(UnknownLanguage, s.name)
		}
	}
	switch {
	case p.err != nil:
	case len(c.sources) == 0:
		p.refuse(NoSource, "")
	case p.syntax:
		c.Mode = SyntaxOnly
	case headers == len(c.sources) && !p.assemble:
		c.Mode = Header
		c.Flags.CreatesPCH = true
	case headers > 0:
		p.refuse(BadArguments, "headers among sources")
	case p.assemble: // -S wins over -c
		c.Mode = Assembly
	case p.compile:
		c.Mode = Compile
	default:
		p.refuse(Link, "")
	}
	out.named = p.compile || p.assemble
	p.combinations()
	if p.err != nil {
		return p.err
	}
	c.Language = c.sources[0].language
	c.Flags.HashDir = c.Flags.HashDir || c.Flags.Debug || c.Flags.Coverage
	c.Flags.HashOutput = c.Flags.HashOutput || c.Flags.Coverage
	c.place()
	return c.distinct()
}

// combinations refuses options that do not go together, or not with several sources.
func (p *gccParser) combinations() {
	c, out := p.c, &p.c.out
	several := len(c.sources) > 1
	aux := out.notes || out.stackUsage || out.callGraph || out.split
	unnamed := c.DepMode != "" && out.depFile == "" && !c.Dialect.Clang() && !out.named
	switch {
	case several && out.given != "":
		p.refuse(BadArguments, "-o with several sources")
	case several && c.Mode == SyntaxOnly:
		p.refuse(TooHard, "-fsyntax-only with several sources")
	case several && (out.depFile != "" || out.diagnostics != ""):
		p.refuse(TooHard, "one file of several sources")
	case c.Dialect.Clang() && slices.ContainsFunc(c.Hashed, func(a string) bool { return strings.HasSuffix(a, "no-integrated-as") }):
		p.refuse(TooHard, "-fno-integrated-as") // which of the assemblers is not known
	case out.passed && out.driver:
		p.refuse(TooHard, "-Wp,-MD and -MD")
	case out.depFile != "" && c.DepMode == "":
		p.refuse(BadArguments, "-MF without -MD")
	case (c.Mode == SyntaxOnly || c.Mode == Header) && (aux || unnamed):
		p.refuse(TooHard, "other files without an object") // gcc names them as if it linked
	case c.Mode != Compile && slices.ContainsFunc(c.sources, func(s source) bool { return strings.HasPrefix(s.language, "assembler") }):
		p.refuse(BadArguments, "assembly that is not assembled")
	case c.Mode == Assembly && out.verbose:
		p.refuse(TooHard, "-fverbose-asm") // the output lists the arguments
	case out.profileUse && slices.ContainsFunc(c.Hashed, func(a string) bool { return strings.HasPrefix(a, "-fprofile-dir=") }):
		p.refuse(TooHard, "-fprofile-use with -fprofile-dir") // which makes a name of the directory
	case c.Mode == Header && out.given == "" && c.Dialect.Clang():
		p.refuse(PrecompiledHeaders, "a name that clang's version decides") // .gch, and .pch since clang 21
	case out.bitcode && c.Mode > Assembly:
		p.refuse(TooHard, "-emit-llvm")
	}
}

// placeGCC derives the outputs of a command with the one source s.
func (c *Command) placeGCC(s source) {
	stemmed, out := stem(base(s.name)), &c.out
	suffix := ".o"
	switch {
	case c.Mode == Assembly && out.bitcode:
		suffix = ".ll"
	case c.Mode == Assembly:
		suffix = ".s"
	case out.bitcode:
		suffix = ".bc"
	}
	c.Output = out.given
	aux := stem(out.given)
	kind := Object
	switch {
	case c.Mode == Header:
		kind = PrecompiledHeader
		if c.Output == "" {
			c.Output = s.name + ".gch"
		}
	case c.Output == "":
		c.Output = stemmed + suffix
	}
	if out.given == "" {
		aux = stemmed
	}
	if c.Mode == SyntaxOnly {
		c.Output = ""
	} else {
		c.Outputs = append(c.Outputs, Output{Kind: kind, Path: c.Output})
	}
	c.placeDep(s, aux)
	compiled := s.language != "assembler" && s.language != "assembler-with-cpp"
	add := func(yes bool, k Kind, path string) {
		if yes {
			c.Outputs = append(c.Outputs, Output{Kind: k, Path: path})
		}
	}
	add(out.notes && compiled, CoverageNotes, aux+".gcno")
	add(out.stackUsage && compiled, StackUsage, aux+".su")
	add(out.callGraph && compiled, CallGraph, aux+".ci")
	c.placeDwarf(compiled, aux)
	add(out.diagnostics != "", Diagnostics, out.diagnostics)
	switch {
	case out.profileUse && c.Dialect.Clang():
		c.ExtraFiles = append(slices.Clone(c.ExtraFiles), "default.profdata")
	case out.profileUse:
		c.ExtraFiles = append(slices.Clone(c.ExtraFiles), aux+".gcda")
	}
}

// placeDwarf derives where debug information goes that is not in the object. gcc always writes the file
// with the object; clang does if there is such information, with assembly output too.
func (c *Command) placeDwarf(compiled bool, aux string) {
	o := Output{Kind: SplitDwarf, Path: aux + ".dwo"}
	switch clang := c.Dialect.Clang(); {
	case !c.out.split:
	case !clang && c.Mode != Compile:
	default:
		o.Maybe = clang && !(compiled && c.Flags.Debug)
		c.Outputs = append(c.Outputs, o)
	}
}

// placeDep derives where the dependency file of s goes and what its target is.
func (c *Command) placeDep(s source, aux string) {
	out := &c.out
	if c.DepMode == "" {
		return
	}
	if !preprocessed(s.language) {
		c.DepMode, c.DepArgs = "", nil // no preprocessor runs that could write it
		return
	}
	c.DepFile = out.depFile
	if c.DepFile == "" {
		c.DepFile = aux + ".d"
	}
	c.Outputs = append(c.Outputs, Output{Kind: Dependencies, Path: c.DepFile})
	switch {
	case out.targets:
	case c.Dialect.Microsoft():
		c.Flags.HashOutput = true // in clang 21 /Fo names the target, as it is given; in older ones the source does
	case out.given != "" && (!out.passed || c.Dialect.Clang()):
		c.DepTarget = out.given
	default:
		c.DepTarget = stem(base(s.name)) + ".o"
	}
}
