package args

import "strings"

// suffixes are the languages of file names, as gcc and clang know them. Case counts.
var suffixes = []struct{ suffix, language string }{
	{".c", "c"}, {".i", "cpp-output"}, {".ii", "c++-cpp-output"},
	{".cc", "c++"}, {".cp", "c++"}, {".cxx", "c++"}, {".cpp", "c++"}, {".CPP", "c++"}, {".c++", "c++"}, {".C", "c++"},
	{".m", "objective-c"}, {".mi", "objective-c-cpp-output"},
	{".mm", "objective-c++"}, {".M", "objective-c++"}, {".mii", "objective-c++-cpp-output"},
	{".h", "c-header"}, {".hh", "c++-header"}, {".H", "c++-header"}, {".hp", "c++-header"}, {".hxx", "c++-header"},
	{".hpp", "c++-header"}, {".HPP", "c++-header"}, {".h++", "c++-header"}, {".tcc", "c++-header"},
	{".s", "assembler"}, {".S", "assembler-with-cpp"}, {".sx", "assembler-with-cpp"},
}

// languageOf returns the language of a file by its name, "" if it is not known.
func languageOf(d Dialect, name string) string {
	suffix := ext(name)
	for _, s := range suffixes {
		if s.suffix != suffix {
			continue
		}
		if d == GXX || d == ClangXX {
			switch s.language {
			case "c":
				return "c++"
			case "c-header":
				return "c++-header"
			case "cpp-output":
				return "c++-cpp-output"
			}
		}
		return s.language
	}
	return ""
}

// known reports whether -x may name the language.
func known(language string) bool {
	for _, s := range suffixes {
		if s.language == language {
			return true
		}
	}
	return language == "objective-c-header" || language == "objective-c++-header"
}

// preprocessed reports whether the compiler runs the preprocessor on the language.
func preprocessed(language string) bool {
	return language != "assembler" && !strings.HasSuffix(language, "cpp-output")
}

// header reports whether compiling the language gives a precompiled header.
func header(language string) bool { return strings.HasSuffix(language, "-header") }

// base returns the last element of a path; only / separates.
func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// ext returns the suffix of a path's last element with its dot, "" if there is none.
func ext(name string) string {
	b := base(name)
	if i := strings.LastIndexByte(b, '.'); i >= 0 {
		return b[i:]
	}
	return ""
}

// stem returns a path without its suffix.
func stem(name string) string { return name[:len(name)-len(ext(name))] }
