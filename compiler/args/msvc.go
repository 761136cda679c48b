package args

import (
	"runtime"
	"strconv"
	"strings"
)

// A msvcParser reads one command line of cl or clang-cl. What clang-cl shares with clang is read by
// the parser of clang's options.
type msvcParser struct {
	gccParser
	all       string   // /TP, /TC: the language of all sources
	syntax    bool     // /Zs
	inputs    bool     // after --: nothing but sources
	clangArgs []string // of /clang:
}

// msvcEnv are the variables that cl and clang-cl read and that can change an object or a message.
var msvcEnv = []string{
	"INCLUDE", "EXTERNAL_INCLUDE", "VSLANG", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "SOURCE_DATE_EPOCH",
	"VCINSTALLDIR", "VCToolsInstallDir", "VCToolsVersion", "WindowsSdkDir", "WindowsSDKVersion", "UniversalCRTSdkDir", "UCRTVersion",
}

// msvcRefused are variables that change where messages go or what the arguments are.
var msvcRefused = []string{"VS_UNICODE_OUTPUT", "CCC_OVERRIDE_OPTIONS", "CC_PRINT_OPTIONS", "CC_PRINT_HEADERS"}

// parseMSVC reads a command line of cl or clang-cl.
func parseMSVC(d Dialect, argv []string, src Source) (*Command, error) {
	if err := refused(src, msvcRefused); err != nil {
		return nil, err
	}
	before, after := variable(d, getenv(src, "CL")), variable(d, getenv(src, "_CL_"))
	argv = append(append(before, argv...), after...)
	argv, err := expand(argv, src, func(text string) []string { return splitMicrosoft(decode(text)) })
	if err != nil {
		return nil, err
	}
	c := &Command{Dialect: d, Env: msvcEnv, Argv: argv, Unset: []string{"CL", "_CL_"}}
	p := &msvcParser{gccParser: gccParser{c: c, argv: argv}}
	for i := 0; i < len(argv); {
		i += p.argument(i)
		if p.err != nil {
			return nil, p.err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	c.IncludeDirs = append(c.IncludeDirs, pathDirs(d, SystemDir, getenv(src, "INCLUDE"))...)
	c.IncludeDirs = append(c.IncludeDirs, pathDirs(d, SystemDir, getenv(src, "EXTERNAL_INCLUDE"))...)
	return c, nil
}

// variable returns the arguments that a variable adds. A # stands for =, which set cannot have in a
// value: in cl's definitions, in any of clang-cl's arguments.
func variable(d Dialect, text string) []string {
	words := splitMicrosoft(text)
	for i, w := range words {
		if d == ClangCL || strings.HasPrefix(w, "/D") || strings.HasPrefix(w, "-D") {
			words[i] = strings.Replace(w, "#", "=", 1)
		}
	}
	return words
}

// argument reads the argument at i and returns how many words it took.
func (p *msvcParser) argument(i int) int {
	arg := p.argv[i]
	switch {
	case arg == "":
		p.refuse(BadArguments, "an empty argument")
		return 1
	case arg == "-":
		p.refuse(SourceStdin, "")
		return 1
	case arg == "--" && p.c.Dialect == ClangCL && !p.inputs:
		p.inputs = true
		p.keep(roleOther, i, 1)
		return 1
	case p.inputs || arg[0] != '/' && arg[0] != '-':
		p.input(i, 1, arg, "")
		return 1
	}
	o, ok := lookup(msvcOptions, arg[1:])
	if !ok || o.name == "o" && p.c.Dialect != ClangCL || o.name == "imsvc" && p.c.Dialect != ClangCL {
		return p.foreign(i)
	}
	value, n := arg[1+len(o.name):], 1
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

// foreign reads an option that is not cl's. On systems where paths begin with / clang-cl takes one
// that it does not know for a file.
func (p *msvcParser) foreign(i int) int {
	arg := p.argv[i]
	if p.c.Dialect != ClangCL {
		p.refuse(TooHard, arg)
		return 1
	}
	if arg[0] == '/' {
		if strings.Contains(arg[1:], "/") && languageOf(Clang, arg) != "" {
			p.input(i, 1, arg, "")
		} else {
			p.refuse(TooHard, arg)
		}
		return 1
	}
	o, ok := lookup(gccOptions, arg)
	if !ok {
		return p.gccParser.argument(i)
	}
	switch o.action {
	case hash, hard, file, prefix, modules, effect, onlyPre:
		return p.gccParser.argument(i)
	case pass:
		if o.name == "-Xclang" {
			return p.gccParser.argument(i)
		}
	case mode:
		if o.name == "-fsyntax-only" {
			p.syntax = true
			p.keep(roleMode, i, 1)
			return 1
		}
	}
	p.refuse(TooHard, arg)
	return 1
}

// input reads a source. lang is set by /Tp and /Tc.
func (p *msvcParser) input(i, n int, name, lang string) {
	if lang == "" {
		lang = microsoftLanguage(p.c.Dialect, name)
	}
	if strings.EqualFold(name, "nul") || strings.HasPrefix(name, "/dev/") {
		p.refuse(Device, name)
	}
	p.c.Sources = append(p.c.Sources, name)
	p.c.sources = append(p.c.sources, source{name, lang})
	p.keep(roleSource, i, n)
}

// microsoftLanguage returns the language of a file by its name, "" if it is not known. cl takes what it
// does not know for the linker's.
func microsoftLanguage(d Dialect, name string) string {
	if d == ClangCL {
		return languageOf(Clang, name)
	}
	switch strings.ToLower(ext(microsoftBase(d, name))) {
	case ".c":
		return "c"
	case ".cpp", ".cxx", ".cc":
		return "c++"
	}
	return ""
}

// separators returns what separates a path's elements. clang-cl goes by the system it runs on.
func separators(d Dialect) string {
	if d == MSVC || runtime.GOOS == "windows" {
		return `/\`
	}
	return "/"
}

// microsoftBase returns the last element of a path.
func microsoftBase(d Dialect, name string) string {
	name = name[strings.LastIndexAny(name, separators(d))+1:]
	if d == MSVC && len(name) > 1 && name[1] == ':' {
		name = name[2:] // a drive
	}
	return name
}

// option reads an option that is in the table, of n words, with its value.
func (p *msvcParser) option(o option, value string, i, n int) {
	c, r := p.c, roleOther
	words := []string{"/" + o.name + value}
	if o.form == either {
		words = []string{"/" + o.name, value}
	}
	switch o.action {
	case hash:
		p.hash(words...)
	case pre, dir, forced:
		c.Preprocessor = append(c.Preprocessor, words...)
		p.preprocessor(o, value)
	case hard:
		p.hard(o.name, p.argv[i])
	case onlyPre:
		p.refuse(Preprocess, p.argv[i])
	case modules:
		p.refuse(ModulesUsed, p.argv[i])
	case mode:
		p.compile = p.compile || o.name == "c"
		p.syntax = p.syntax || o.name == "Zs"
		r = roleMode
	case output:
		p.output(value, p.argv[i])
		r = roleOutput
	case prefix:
		p.prefix(value)
		p.hash(words...)
	case pass:
		p.clangArgs = append(p.clangArgs, value)
		if r = p.clangRole(value); r != roleDep {
			p.hash(words...)
		}
	case effect:
		if o.name == "Tp" || o.name == "Tc" {
			p.input(i, n, value, map[string]string{"Tp": "c++", "Tc": "c"}[o.name])
			return
		}
		r = p.effect(o.name, value, words)
	}
	p.keep(r, i, n)
}

// hard says why an option cannot be cached.
func (p *msvcParser) hard(name, arg string) {
	switch {
	case name == "link":
		p.refuse(Link, arg)
	case name[0] == 'Y':
		p.refuse(PrecompiledHeaders, arg)
	default:
		p.refuse(TooHard, arg)
	}
}

// preprocessor reads directories and headers.
func (p *msvcParser) preprocessor(o option, value string) {
	switch {
	case value == "" && o.form == either:
		p.refuse(BadArguments, "/"+o.name)
	case o.name == "I":
		p.c.IncludeDirs = append(p.c.IncludeDirs, IncludeDir{PlainDir, value})
	case o.action == dir:
		p.c.IncludeDirs = append(p.c.IncludeDirs, IncludeDir{SystemDir, value})
	case o.action == forced:
		p.c.Includes = append(p.c.Includes, value)
	}
}

// output reads /Fo and clang-cl's /o. An empty name means the default. A colon may come before the name,
// but clang-cl does not know that in all versions.
func (p *msvcParser) output(value, arg string) {
	if name, ok := strings.CutPrefix(value, ":"); ok {
		if p.c.Dialect == ClangCL {
			p.refuse(TooHard, arg)
		}
		value = name
	}
	b := microsoftBase(p.c.Dialect, value)
	switch {
	case p.c.out.given != "" || strings.HasSuffix(arg, ":"):
		p.refuse(TooHard, arg)
	case strings.HasPrefix(value, "/dev/") || strings.EqualFold(b, "nul"):
		p.refuse(Device, value)
	case value == "-":
		p.refuse(OutputStdout, "")
	case strings.HasPrefix(b, ".") || strings.HasSuffix(b, "."):
		p.refuse(TooHard, arg)
	}
	p.c.out.given = value
}

// effect notes what an option changes besides what is hashed.
func (p *msvcParser) effect(name, value string, words []string) role {
	c := p.c
	switch name {
	case "MP":
		c.Jobs = -1
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			c.Jobs = n
		} else if value != "" {
			p.refuse(BadArguments, words[0])
		}
		if c.Dialect == ClangCL {
			p.hash(words...) // it says that the argument is not used
		}
		return roleJobs
	case "TP":
		p.all = "c++"
	case "TC":
		p.all = "c"
	case "Zi", "ZI":
		if c.Dialect == MSVC {
			p.refuse(DebugDatabase, words[0])
		}
		c.Flags.Debug = true
	case "Z7":
		c.Flags.Debug = true
	case "FC":
		c.Flags.HashDir = true
	case "showIncludes", "showIncludes:user":
		c.Flags.ShowIncludes = true
		p.hash(words...)
		return roleShow
	case "sourceDependencies":
		p.sourceDependencies(value)
		return roleDep
	}
	p.hash(words...)
	return roleOther
}
