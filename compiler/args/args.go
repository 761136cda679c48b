// Package args reads the command lines of C and C++ compilers: gcc, clang, cl and clang-cl.
//
// It says which files a command reads and writes, which arguments can change the result, and whether
// the result may be kept at all. It is pure: files and environment variables are asked for through
// Source, and nothing is run.
//
// Invariants: an option that is not understood makes a command uncacheable if it could name a file.
// Every argument of a command that can be cached is in Hashed, Preprocessor or DepArgs, or is named
// by a field of Command, or cannot change what is written. Command.Outputs has every file that the
// compiler writes. A false miss costs a compile; a false hit is never right.
//
// Concurrency: functions share nothing; a Command is not changed after Parse.
package args

// A Source gives Parse what lies outside of the command line.
type Source interface {
	// ReadFile returns a response file. A relative name is relative to the directory in which the
	// compiler would run.
	ReadFile(name string) ([]byte, error)
	// LookupEnv returns a variable of the compiler's environment, and whether it is set.
	LookupEnv(name string) (string, bool)
}

// getenv returns a variable, "" if it is not set.
func getenv(src Source, name string) string {
	value, _ := src.LookupEnv(name)
	return value
}

// refused returns the reason if one of these variables is set. An empty one may count too.
func refused(src Source, names []string) error {
	for _, name := range names {
		if _, set := src.LookupEnv(name); set {
			return refuse(Environment, name)
		}
	}
	return nil
}

// A Kind says what an output is. The strings are stable: entries name their files with them.
type Kind string

// The kinds of files that compilers write.
const (
	Object             Kind = "object"              // also assembly (-S) and LLVM's bitcode
	Dependencies       Kind = "dependencies"        // a make rule (-MD)
	CoverageNotes      Kind = "coverage-notes"      // .gcno
	SplitDwarf         Kind = "split-dwarf"         // .dwo
	StackUsage         Kind = "stack-usage"         // .su
	CallGraph          Kind = "call-graph"          // .ci
	Diagnostics        Kind = "diagnostics"         // clang's serialised diagnostics
	PrecompiledHeader  Kind = "precompiled-header"  // .gch, .pch
	SourceDependencies Kind = "source-dependencies" // cl's JSON
)

// Kinds has all of them.
var Kinds = []Kind{
	Object, Dependencies, CoverageNotes, SplitDwarf, StackUsage, CallGraph, Diagnostics, PrecompiledHeader, SourceDependencies,
}

// An Output is a file that the compiler writes.
type Output struct {
	Kind  Kind
	Path  string // relative to the compiler's directory, or absolute
	Maybe bool   // the compiler may succeed without writing it, and its absence is part of the result
}

// A Mode says how far the compiler goes.
type Mode uint8

// How far compilers go.
const (
	Compile    Mode = iota + 1 // an object: -c, /c
	Assembly                   // -S
	SyntaxOnly                 // -fsyntax-only, /Zs: nothing but messages and dependencies
	Header                     // a header is precompiled
)

// String returns the mode in a word, which is stable.
func (m Mode) String() string {
	switch m {
	case Compile:
		return "compile"
	case Assembly:
		return "assembly"
	case SyntaxOnly:
		return "syntax"
	case Header:
		return "header"
	}
	return "unknown"
}

// A DirKind says for which includes a directory is searched.
type DirKind uint8

// The chains of include directories, in the order in which they are searched.
const (
	QuoteDir     DirKind = iota + 1 // -iquote: only #include "x"
	PlainDir                        // -I, /I
	SystemDir                       // -isystem, /external:I, -imsvc
	AfterDir                        // -idirafter
	FrameworkDir                    // -F, -iframework
)

// An IncludeDir is a directory that an argument names for the search of headers.
type IncludeDir struct {
	Kind DirKind
	Path string
}

// A Color says whether messages have colours.
type Color uint8

// When messages have colours.
const (
	ColorAuto   Color = iota // when the compiler writes to a terminal
	ColorAlways              // asked for; the argument is in Hashed
	ColorNever               // refused; the argument is in Hashed
)

// A Command is a compilation that can be cached.
type Command struct {
	Dialect Dialect
	Mode    Mode

	// Sources are the inputs, as given. Split makes one Command of each.
	Sources []string
	// Language is that of the first source, in the words of -x: c, c++, cpp-output, assembler …
	Language string

	// Output is the main output as given or as the compiler derives it; "" if there is none.
	Output string
	// Outputs are all files that the compiler writes for a command with one source, the main one
	// first. With several sources it is nil: ask the parts.
	Outputs []Output

	// DepMode is "-MD", "-MMD" or, if no dependency file is asked for, "".
	DepMode string
	// DepFile is where the dependency file goes. DepTarget is what stands before its colon, unquoted; it
	// is "" if -MT or -MQ say that, or clang-cl's version decides. It may follow from Output: either hash it or rewrite the file.
	DepFile, DepTarget string
	// DepArgs are the arguments that change the dependency file only: -MMD, -MP, -MT x …
	DepArgs []string

	// Hashed are the arguments that can change the result, in the order of the command, and then
	// dialect, mode and language in words. Option and value are two strings where they may be apart.
	Hashed []string
	// Preprocessor are those that only the preprocessor reads. What it prints has their effect, so
	// they are hashed only if that is not. Their order is that of the command.
	Preprocessor []string
	// ExtraFiles are files that arguments name and that are read beside sources and headers. Their
	// contents are hashed. One may be absent, which is hashed too; a directory cannot be cached.
	ExtraFiles []string
	// Includes are the headers that arguments include (-include, -imacros, /FI). If NAME.gch or
	// NAME.pch lies beside one or in the include directories, it is read instead.
	Includes []string
	// IncludeDirs are the directories that arguments name, in the order of the command, and then those
	// of CPATH, INCLUDE and their like. The compiler's own come after them and are not here.
	IncludeDirs []IncludeDir
	// PrefixMaps are the pairs of -fdebug-prefix-map and its like. They are hashed too.
	PrefixMaps []PrefixMap
	// Env names the environment variables that can change the result. Hash their values.
	Env []string

	// Argv is the command as the compiler sees it, without the compiler: response files are
	// expanded, and CL and _CL_ are merged.
	Argv []string
	// Unset names the variables that are in Argv and must not be set where it is run.
	Unset []string
	// Jobs is how many sources are compiled at once (/MP): 0 is one, -1 one on each processor.
	Jobs int

	Color Color
	Flags Flags

	items   []item
	sources []source
	out     outputs
}

// Flags are properties of a command that need care beyond its arguments.
type Flags struct {
	// Native: the processor that the compiler runs on changes the result (-march=native).
	Native bool
	// HashDir: the result contains the directory in which the compiler runs, as $PWD has it if that is
	// the same directory. PrefixMaps may undo it.
	HashDir bool
	// HashOutput: the result contains the output's name. Hash Output.
	HashOutput bool
	// Debug: there is debug information, Coverage: .gcno or counters, Profile: a profile is read.
	Debug, Coverage, Profile bool
	// UsesPCH: an argument names a precompiled header, which is in ExtraFiles.
	UsesPCH bool
	// CreatesPCH: the output is a precompiled header. gcc compares times of headers when it is used.
	CreatesPCH bool
	// LTO: the object holds intermediate code.
	LTO bool
	// ShowIncludes: stdout lists headers (/showIncludes).
	ShowIncludes bool
	// NoPreprocessor: the source is not preprocessed (.i, .s): hash the source itself.
	NoPreprocessor bool
	// Assembler: the source is assembly, which may read files with .incbin and .include.
	Assembler bool
	// HashPreprocessor: Preprocessor is to be hashed even with the preprocessor's output.
	HashPreprocessor bool
}

// A PrefixMap replaces Old at the beginning of a path by New.
type PrefixMap struct{ Old, New string }

// A source is an input and its language.
type source struct{ name, language string }

// A role says what an argument is to the builders of command lines.
type role uint8

const (
	roleOther  role = iota
	roleSource      // an input
	roleMode        // -c, -S
	roleOutput      // where the main output goes
	roleDep         // what is said of the dependency file
	roleShow        // /showIncludes
	roleJobs        // /MP
)

// An item is one argument with its value.
type item struct {
	words []string
	role  role
}

// Parse reads a command line without the compiler's name. The error is always an *Uncacheable.
func Parse(d Dialect, argv []string, src Source) (*Command, error) {
	d = driverMode(d, argv)
	switch d {
	case GCC, GXX, Clang, ClangXX:
		return parseGCC(d, argv, src)
	case MSVC, ClangCL:
		return parseMSVC(d, argv, src)
	}
	return nil, &Uncacheable{Reason: TooHard, Detail: "unknown compiler"}
}
