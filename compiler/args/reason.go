package args

// A Reason says why a command is passed through to the compiler. The strings are stable: statistics
// have them as keys.
type Reason string

// The reasons why a command is passed through.
const (
	NoSource             Reason = "no_source"
	Link                 Reason = "link"
	Preprocess           Reason = "preprocess"
	TooHard              Reason = "too_hard"
	BadArguments         Reason = "bad_arguments"
	SeveralArchitectures Reason = "several_architectures"
	OutputStdout         Reason = "output_stdout"
	SourceStdin          Reason = "source_stdin"
	Device               Reason = "device"
	UnknownLanguage      Reason = "unknown_language"
	ModulesUsed          Reason = "modules"
	ResponseFile         Reason = "response_file"
	Environment          Reason = "environment"
	DebugDatabase        Reason = "debug_database"
	PrecompiledHeaders   Reason = "precompiled_headers"
	AssemblerInclude     Reason = "assembler_include"
)

// Reasons are all reasons, in the order in which they are shown.
var Reasons = []Reason{
	NoSource, Link, Preprocess, TooHard, BadArguments, SeveralArchitectures, OutputStdout, SourceStdin, Device,
	UnknownLanguage, ModulesUsed, ResponseFile, Environment, DebugDatabase, PrecompiledHeaders, AssemblerInclude,
}

// Text returns the reason in words.
func (r Reason) Text() string {
	switch r {
	case NoSource:
		return "no source file"
	case Link:
		return "called for linking"
	case Preprocess:
		return "called for preprocessing"
	case TooHard:
		return "an option that cannot be cached"
	case BadArguments:
		return "arguments that the compiler refuses"
	case SeveralArchitectures:
		return "several architectures at once"
	case OutputStdout:
		return "output to stdout"
	case SourceStdin:
		return "source from stdin"
	case Device:
		return "source or output is a device"
	case UnknownLanguage:
		return "a language that is not known"
	case ModulesUsed:
		return "modules of C++ or clang"
	case ResponseFile:
		return "a response file that cannot be read"
	case Environment:
		return "an environment variable that cannot be cached"
	case DebugDatabase:
		return "debug information in a shared database (/Zi)"
	case PrecompiledHeaders:
		return "precompiled headers (/Yc, /Yu)"
	case AssemblerInclude:
		return "assembly that reads files (.incbin)"
	}
	return string(r)
}

// An Uncacheable says why a command is to be passed through as it is.
type Uncacheable struct {
	Reason Reason
	Detail string // the argument, file or variable; "" if none is to blame
}

// Error returns the reason in words, with the detail.
func (u *Uncacheable) Error() string {
	if u.Detail == "" {
		return u.Reason.Text()
	}
	return u.Reason.Text() + ": " + u.Detail
}

// refuse returns the error for a reason.
func refuse(r Reason, detail string) error { return &Uncacheable{r, detail} }
