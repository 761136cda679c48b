package args

import "bytes"

// AssemblerReads reports whether source text may make the assembler read another file: .incbin, or
// .include with a quoted name, in assembly or in an asm statement. Neither the preprocessor nor a
// dependency file tells of such files, so what has them is not kept. Case does not matter, as to gas.
func AssemblerReads(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '.' {
			continue
		}
		rest := text[i+1:]
		if directive(rest, "incbin") {
			return true
		}
		if directive(rest, "include") {
			rest = rest[len("include"):]
			for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\\') {
				rest = bytes.TrimPrefix(rest[1:], []byte("t")) // of \t in a string
			}
			if len(rest) > 0 && rest[0] == '"' {
				return true
			}
		}
	}
	return false
}

// directive reports whether text begins with a word, whose letters are lower case.
func directive(text []byte, word string) bool {
	if len(text) < len(word) {
		return false
	}
	for i := range word {
		if text[i]|0x20 != word[i] {
			return false
		}
	}
	return true
}
