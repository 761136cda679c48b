package args

import "strings"

// pass reads what is passed on to the preprocessor, the assembler or clang's front end.
func (p *gccParser) pass(name, value string, canonical []string) role {
	switch name {
	case "-Wp,":
		if p.depPass(value) {
			return roleDep
		}
		p.preArgs = append(p.preArgs, strings.Split(value, ",")...)
		p.c.Preprocessor = append(p.c.Preprocessor, canonical...)
	case "-Xpreprocessor":
		p.preArgs = append(p.preArgs, value)
		p.c.Preprocessor = append(p.c.Preprocessor, canonical...)
	case "-Wa,":
		p.asmArgs = append(p.asmArgs, strings.Split(value, ",")...)
		p.hash(canonical...)
	case "-Xassembler":
		p.asmArgs = append(p.asmArgs, value)
		p.hash(canonical...)
	case "-Xclang":
		p.cc1Args = append(p.cc1Args, value)
		p.hash(canonical...)
	}
	return roleOther
}

// depPass reads -Wp,-MD,FILE and -Wp,-MMD,FILE, as the kernel's build has them. The target is then
// the source's, not the output's, if the compiler is gcc.
func (p *gccParser) depPass(value string) bool {
	option, name, ok := strings.Cut(value, ",")
	if !ok || option != "-MD" && option != "-MMD" || name == "" || strings.Contains(name, ",") {
		return false
	}
	p.dep("-MF", name)
	p.c.DepMode = option
	p.c.DepArgs = append(p.c.DepArgs, "-Wp,"+option)
	p.c.out.passed = true
	return true
}

// passed judges what is passed on. It is called when all of it is known, since an option and its value
// may be passed on apart.
func (p *gccParser) passed() {
	p.passedPre()
	for _, a := range p.asmArgs {
		if !assemblerFlag(a) {
			p.refuse(TooHard, "-Wa,"+a)
		}
		if strings.HasPrefix(a, "-g") || strings.HasPrefix(a, "--g") {
			p.c.Flags.HashDir = true
		}
	}
	p.passedCC1()
}

// passedPre judges what the preprocessor is given: definitions and directories.
func (p *gccParser) passedPre() {
	for i := 0; i < len(p.preArgs); i++ {
		arg := p.preArgs[i]
		o, ok := lookup(gccOptions, arg)
		if !ok || o.form != either {
			p.refuse(TooHard, "-Wp,"+arg)
			return
		}
		value := arg[len(o.name):]
		if value == "" {
			if i++; i == len(p.preArgs) {
				p.refuse(BadArguments, "-Wp,"+arg)
				return
			}
			value = p.preArgs[i]
		}
		switch o.action {
		case pre:
		case dir:
			p.dir(o.name, value)
		case forced:
			p.c.Includes = append(p.c.Includes, value)
		default:
			p.refuse(TooHard, "-Wp,"+arg)
			return
		}
	}
}

// assemblerFlags are what gas takes without reading or writing other files; * stands for any ending.
var assemblerFlags = []string{
	"--noexecstack", "--execstack", "--fatal-warnings", "--warn", "--no-warn", "-W", "-march=*", "-mcpu=*", "-mtune=*",
	"-mfpu=*", "-mfloat-abi=*", "-mabi=*", "-mimplicit-it=*", "-mthumb", "-mbig-obj", "-mrelax*", "-mno-relax*", "-mbranch*",
	"-mlfence*", "-mx86-used-note=*", "-mdivide*", "-mshared", "-mno-shared", "-m32", "-m64", "-many", "-mpower*",
	"-g", "-gdwarf-*", "--gdwarf-*", "--gen-debug", "-gstabs", "--gsframe", "--compress-debug-sections*",
	"--nocompress-debug-sections", "--elf-stt-common=*", "--generate-missing-build-notes=*", "-L", "--keep-locals", "-J", "-Z",
	"--strip-local-absolute", "--reduce-memory-overheads", "--size-check=*", "--64", "--32", "--x32", "-n", "--divide",
}

// assemblerFlag reports whether the assembler may be given the argument.
func assemblerFlag(arg string) bool {
	for _, f := range assemblerFlags {
		if stem, open := strings.CutSuffix(f, "*"); arg == f || open && strings.HasPrefix(arg, stem) {
			return true
		}
	}
	return false
}

// cc1Values are options of clang's front end that take a value which names no file.
var cc1Values = []string{"-mllvm", "-target-feature", "-target-abi", "-target-cpu", "-tune-cpu", "-plugin", "-add-plugin", "-fmessage-length"}

// passedCC1 judges what clang's front end is given.
func (p *gccParser) passedCC1() {
	for i := 0; i < len(p.cc1Args); i++ {
		arg := p.cc1Args[i]
		takes := arg == "-load" || arg == "-include-pch" || strings.HasPrefix(arg, "-plugin-arg-")
		for _, v := range cc1Values {
			takes = takes || arg == v
		}
		switch o, ok := lookup(gccOptions, arg); {
		case takes && i+1 == len(p.cc1Args):
			p.refuse(BadArguments, "-Xclang "+arg)
		case takes:
			i++
			switch {
			case arg == "-load" || arg == "-include-pch":
				p.file(arg, p.cc1Args[i])
			case arg == "-mllvm":
				p.effect(arg, p.cc1Args[i])
			case strings.HasPrefix(arg, "-plugin-arg-"):
				p.effect("-fplugin-arg-", "="+p.cc1Args[i])
			}
		case ok && o.action == hash && o.form != separate && o.form != either:
		case !ok && strings.HasPrefix(arg, "-f") && !strings.Contains(arg, "/"):
		default:
			p.refuse(TooHard, "-Xclang "+arg)
		}
	}
}
