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

// A splitter collects the words of a response file.
type splitter struct {
	list   []string
	word   strings.Builder
	inside bool // a word has begun, which may be empty
}

// end ends a word, if one has begun.
func (w *splitter) end() {
	if w.inside {
		w.list = append(w.list, w.word.String())
		w.word.Reset()
		w.inside = false
	}
}

// all returns the words, the last one included.
func (w *splitter) all() []string {
	w.end()
	return w.list
}

// splitGNU splits a response file as gcc and clang do: words are separated by space, both kinds of
// quotes keep spaces, and a backslash keeps the next character, in quotes too.
func splitGNU(text string) []string {
	var w splitter
	var quote byte
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '\\' && i+1 < len(text):
			i++
			w.word.WriteByte(text[i])
			w.inside = true
		case quote != 0 && ch == quote:
			quote = 0
		case quote != 0:
			w.word.WriteByte(ch)
		case ch == '\'' || ch == '"':
			quote, w.inside = ch, true
		case ch == ' ' || '\t' <= ch && ch <= '\r':
			w.end()
		default:
			w.word.WriteByte(ch)
			w.inside = true
		}
	}
	return w.all()
}

// splitMicrosoft splits a response file or CL as cl does: words are separated by space, a quote keeps
// spaces, and backslashes mean themselves unless a quote follows them.
func splitMicrosoft(text string) []string {
	var w splitter
	quoted := false
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
					w.word.WriteString(strings.Repeat(`\`, slashes/2) + `"`)
					n++
				} else {
					w.word.WriteString(strings.Repeat(`\`, slashes/2))
				}
			} else {
				w.word.WriteString(text[i:n])
			}
			i = n - 1
			w.inside = true
		case ch == '"' && quoted && i+1 < len(text) && text[i+1] == '"':
			i++
			w.word.WriteByte('"')
		case ch == '"':
			quoted, w.inside = !quoted, true
		case !quoted && (ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n' || ch == 0):
			w.end()
		default:
			w.word.WriteByte(ch)
			w.inside = true
		}
	}
	return w.all()
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
