package args

import (
	"strings"
	"unicode/utf16"
)

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

// splitMicrosoft splits a response file or CL as cl does: words are separated by space, a quote keeps
// spaces, and backslashes mean themselves unless a quote follows them.
func splitMicrosoft(text string) []string {
	var words []string
	var word strings.Builder
	inside, quoted := false, false
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '\\':
			n := i
			for n < len(text) && text[n] == '\\' {
				n++
			}
			slashes := n - i
			if n < len(text) && text[n] == '"' {
				if slashes%2 == 1 {
					word.WriteString(strings.Repeat(`\`, slashes/2) + `"`)
					n++
				} else {
					word.WriteString(strings.Repeat(`\`, slashes/2))
				}
			} else {
				word.WriteString(text[i:n])
			}
			i = n - 1
			inside = true
		case ch == '"' && quoted && i+1 < len(text) && text[i+1] == '"':
			i++
			word.WriteByte('"')
		case ch == '"':
			quoted, inside = !quoted, true
		case !quoted && (ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n' || ch == 0):
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

// decode returns a response file as UTF-8: a byte order mark says whether it is UTF-8 or UTF-16.
// Without one the bytes are left as they are.
func decode(text string) string {
	if s, ok := strings.CutPrefix(text, "\xef\xbb\xbf"); ok {
		return s
	}
	little := strings.HasPrefix(text, "\xff\xfe")
	if !little && !strings.HasPrefix(text, "\xfe\xff") {
		return text
	}
	var units []uint16
	for i := 2; i+1 < len(text); i += 2 {
		a, b := uint16(text[i]), uint16(text[i+1])
		if little {
			a, b = b, a
		}
		units = append(units, a<<8|b)
	}
	return string(utf16.Decode(units))
}
