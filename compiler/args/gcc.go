package args

import (
	"slices"
	"strings"
)

// A gccParser reads one command line of gcc or clang.
type gccParser struct {
	c    *Command
	argv []string
	lang string // of the sources to come; "" means by suffix
	arch string

	compile, assemble, syntax bool // -c, -S, -fsyntax-only

	preArgs, asmArgs, cc1Args []string // what is passed on to other programs

	err error // the first reason found
}

// gccEnv are the variables that gcc and clang read and that can change an object or a message.
var gccEnv = []string{
	"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH",
	"LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES",
	"SOURCE_DATE_EPOCH", "GCC_COLORS", "GCC_URLS", "TERM_URLS", "GCC_EXTRA_DIAGNOSTIC_OUTPUT",
	"MACOSX_DEPLOYMENT_TARGET", "IPHONEOS_DEPLOYMENT_TARGET", "SDKROOT", "DEVELOPER_DIR",
}

// gccRefused are variables that write files, change the arguments or replace parts of the compiler.
var gccRefused = []string{
	"DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES", "COMPILER_PATH", "GCC_EXEC_PREFIX", "GCC_COMPARE_DEBUG",
	"CCC_OVERRIDE_OPTIONS", "CCC_ADD_ARGS", "CC_PRINT_OPTIONS", "CC_PRINT_HEADERS", "CC_LOG_DIAGNOSTICS",
	"CC_PRINT_PROC_STAT",
}

// parseGCC reads a command line of gcc or clang.
func parseGCC(d Dialect, argv []string, src Source) (*Command, error) {
	if err := refused(src, gccRefused); err != nil {
		return nil, err
	}
	split := splitGNU
	if d.Clang() {
		split = func(text string) []string { return splitGNU(decode(text)) }
	}
	argv, err := expand(argv, src, split)
	if err != nil {
		return nil, err
	}
	p := &gccParser{c: &Command{Dialect: d, Env: gccEnv, Argv: argv}, argv: argv}
	for i := 0; i < len(argv); {
		i += p.argument(i)
		if p.err != nil {
			return nil, p.err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	p.c.IncludeDirs = append(p.c.IncludeDirs, gccDirs(p.c, src)...)
	return p.c, nil
}

// refuse notes the first reason.
func (p *gccParser) refuse(r Reason, detail string) {
	if p.err == nil {
		p.err = refuse(r, detail)
	}
}

// keep adds an item that argv[i:i+n] is.
func (p *gccParser) keep(r role, i, n int) {
	p.c.items = append(p.c.items, item{p.argv[i : i+n : i+n], r})
}

// hash adds an option and its value to what is hashed.
func (p *gccParser) hash(words ...string) { p.c.Hashed = append(p.c.Hashed, words...) }

// argument reads the argument at i and returns how many words it took.
func (p *gccParser) argument(i int) int {
	arg := p.argv[i]
	if arg == "" {
		p.refuse(BadArguments, "an empty argument")
		return 1
	}
	if arg[0] != '-' || arg == "-" {
		p.input(i)
		return 1
	}
	o, ok := lookup(gccOptions, arg)
	if !ok {
		p.unknown(arg)
		p.keep(roleOther, i, 1)
		return 1
	}
	value, n := arg[len(o.name):], 1
	if o.form == separate || o.form == either && value == "" {
		if i+1 == len(p.argv) {
			p.refuse(BadArguments, arg)
			return 1
		}
		value, n = p.argv[i+1], 2
	}
	p.option(o, value, i, n)
	return n
}

// unknown judges an option that is not in the table: it is hashed if its family never names files.
func (p *gccParser) unknown(arg string) {
	if strings.HasPrefix(arg, "-f") {
		if i := strings.IndexByte(arg, '='); i < 0 || !strings.Contains(arg[i:], "/") {
			p.hash(arg)
			return
		}
	}
	p.refuse(TooHard, arg)
}

// input reads a file name.
func (p *gccParser) input(i int) {
	name := p.argv[i]
	switch {
	case name == "-":
		p.refuse(SourceStdin, "")
	case strings.HasPrefix(name, "/dev/"):
		p.refuse(Device, name)
	case name[0] == '@':
		p.refuse(ResponseFile, name)
	}
	lang := p.lang
	if lang == "" {
		lang = languageOf(p.c.Dialect, name)
	}
	p.c.Sources = append(p.c.Sources, name)
	p.c.sources = append(p.c.sources, source{name, lang})
	p.keep(roleSource, i, 1)
}

// option reads an option that is in the table, of n words, with its value.
func (p *gccParser) option(o option, value string, i, n int) {
	c, r := p.c, roleOther
	canonical := []string{p.argv[i]}
	if o.form == separate || o.form == either {
		canonical = []string{o.name, value}
	}
	switch o.action {
	case hash:
		p.hash(canonical...)
	case pre:
		c.Preprocessor = append(c.Preprocessor, canonical...)
	case hard:
		p.refuse(TooHard, p.argv[i])
	case onlyPre:
		p.refuse(Preprocess, p.argv[i])
	case modules:
		p.refuse(ModulesUsed, p.argv[i])
	case mode:
		r = p.mode(o.name)
	case output:
		p.output(value)
		r = roleOutput
	case language:
		p.language(value)
	case dir:
		p.dir(o.name, value)
		c.Preprocessor = append(c.Preprocessor, canonical...)
	case forced:
		c.Includes = append(c.Includes, value)
		c.Preprocessor = append(c.Preprocessor, canonical...)
	case file:
		p.file(o.name, value)
		p.hash(canonical...)
	case dep:
		p.dep(o.name, value)
		r = roleDep
	case prefix:
		p.prefix(value)
		p.hash(canonical...)
	case arch:
		if p.arch != "" && p.arch != value {
			p.refuse(SeveralArchitectures, value)
		}
		p.arch = value
		p.hash(canonical...)
	case pass:
		r = p.pass(o.name, value, canonical)
	case effect:
		p.effect(o.name, value)
		if strings.HasPrefix(o.name, "--serialize-diagnostics") {
			r = roleDep
		}
		p.hash(canonical...)
	}
	p.keep(r, i, n)
}

// mode reads -c, -S and -fsyntax-only.
func (p *gccParser) mode(name string) role {
	switch name {
	case "-c":
		p.compile = true
	case "-S":
		p.assemble = true
	case "-fsyntax-only":
		p.syntax = true
	}
	return roleMode
}

// output reads -o.
func (p *gccParser) output(value string) {
	switch {
	case value == "":
		p.refuse(BadArguments, "-o")
	case value == "-":
		p.refuse(OutputStdout, "")
	case strings.HasPrefix(value, "/dev/"):
		p.refuse(Device, value)
	case p.c.out.given != "" || strings.HasPrefix(base(value), ".") || base(value) == "":
		p.refuse(BadArguments, "-o "+value)
	}
	p.c.out.given = value
}

// language reads -x.
func (p *gccParser) language(value string) {
	switch {
	case value == "none":
		p.lang = ""
	case known(value):
		p.lang = value
	case strings.Contains(value, "module") || strings.Contains(value, "-unit"):
		p.refuse(ModulesUsed, "-x "+value)
	default:
		p.refuse(UnknownLanguage, "-x "+value)
	}
}

// dirKinds says which chain an option adds to.
var dirKinds = []struct {
	name string
	kind DirKind
}{
	{"-I", PlainDir}, {"-iquote", QuoteDir}, {"-isystem", SystemDir}, {"-idirafter", AfterDir},
	{"-F", FrameworkDir}, {"-iframework", FrameworkDir}, {"-isystem-after", AfterDir},
	{"-cxx-isystem", SystemDir}, {"-stdlib++-isystem", SystemDir},
}

// dir reads an include directory.
func (p *gccParser) dir(name, value string) {
	if value == "" || value == "-" || value[0] == '=' || strings.HasPrefix(value, "$SYSROOT") {
		p.refuse(TooHard, name+value) // -I- splits the chains, = stands for the system root
		return
	}
	i := slices.IndexFunc(dirKinds, func(k struct {
		name string
		kind DirKind
	}) bool {
		return k.name == name
	})
	p.c.IncludeDirs = append(p.c.IncludeDirs, IncludeDir{dirKinds[i].kind, value})
}

// file reads an option that names a file to be hashed.
func (p *gccParser) file(name, value string) {
	if value == "" || strings.Contains(name, "plugin") && !strings.Contains(value, "/") {
		p.refuse(TooHard, name+value) // a plugin without a path is looked for in the compiler's directories
		return
	}
	p.c.ExtraFiles = append(p.c.ExtraFiles, value)
	switch name {
	case "-include-pch":
		p.c.Flags.UsesPCH = true
	case "-fprofile-sample-use=", "-fprofile-instr-use=", "-fauto-profile=", "-fmemory-profile-use=":
		p.c.Flags.Profile = true
	}
}

// dep reads the options of the dependency file.
func (p *gccParser) dep(name, value string) {
	c := p.c
	switch name {
	case "-MD", "-MMD":
		// Without system headers wins over with them, in whatever order they stand.
		if c.DepMode != "-MMD" {
			c.DepMode = name
		}
		c.out.driver = true
		c.DepArgs = append(c.DepArgs, name)
	case "-MP":
		c.DepArgs = append(c.DepArgs, name)
	case "-MF":
		if value == "" || value == "-" || strings.HasPrefix(value, "/dev/") || c.out.depFile != "" {
			p.refuse(TooHard, "-MF "+value)
		}
		c.out.depFile = value
	case "-MT", "-MQ":
		c.out.targets = true
		c.DepArgs = append(c.DepArgs, name, value)
	}
}

// prefix reads the value of an option that maps paths.
func (p *gccParser) prefix(value string) {
	before, after, ok := strings.Cut(value, "=")
	if !ok {
		p.refuse(BadArguments, value)
	}
	p.c.PrefixMaps = append(p.c.PrefixMaps, PrefixMap{before, after})
}
