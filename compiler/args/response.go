package args

import "strings"

// Limits of response files. A file may name itself.
const (
	maxFiles = 100
	maxWords = 1 << 17
)

// expand replaces each @FILE of argv by the words of the file, which may name files again.
func expand(argv []string, src Source, split func(string) []string) ([]string, error) {
	files := 0
	var expand1 func(argv, to []string) ([]string, error)
	expand1 = func(argv, to []string) ([]string, error) {
		for _, a := range argv {
			if len(a) < 2 || a[0] != '@' {
				to = append(to, a)
				continue
			}
			text, err := src.ReadFile(a[1:])
			if files++; err != nil || files > maxFiles || len(to) > maxWords {
				return nil, refuse(ResponseFile, a)
			}
			if to, err = expand1(split(string(text)), to); err != nil {
				return nil, err
			}
		}
		return to, nil
	}
	return expand1(argv, make([]string, 0, len(argv)))
}

// splitGNU splits a response file as gcc and clang do: words are separated by space, both kinds of
// quotes keep spaces, and a backslash keeps the next character, in quotes too.
func splitGNU(text string) []string {
	var words []string
	var word strings.Builder
	var quote byte
	inside := false
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '\\' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
			inside = true
		case quote != 0 && ch == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(ch)
		case ch == '\'' || ch == '"':
			quote, inside = ch, true
		case ch == ' ' || '\t' <= ch && ch <= '\r':
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
		default:
			word.WriteByte(ch)
			inside = true
		}
	}
	if inside {
		words = append(words, word.String())
	}
	return words
}
