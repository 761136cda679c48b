package compiler

import (
	"bytes"
	"errors"
)

var errDependencies = errors.New("the dependency file makes no sense")

// parseRule returns the prerequisites of the first rule of a dependency file, in their order, each once.
func parseRule(text []byte) ([]string, error) {
	i := colon(text)
	if i < 0 {
		return nil, errDependencies
	}
	var names []string
	seen := map[string]bool{}
	var word []byte
	end := func() {
		if name := string(word); name != "" && !seen[name] {
			seen[name], names = true, append(names, name)
		}
		word = word[:0]
	}
	for i++; i < len(text); i++ {
		c := text[i]
		next := byte(0)
		if i+1 < len(text) {
			next = text[i+1]
		}
		switch {
		case c == '\\' && next == '\n':
			i++
			end()
		case c == '\\' && next == '\r':
			i += 2
			end()
		case c == '\\' && (next == ' ' || next == '#' || next == '\t' || next == ':'):
			word = append(word, next)
			i++
		case c == '$' && next == '$':
			word = append(word, '$')
			i++
		case c == '\n':
			end()
			return names, phony(text[i+1:])
		case c == ' ' || c == '\t' || c == '\r':
			end()
		default:
			word = append(word, c)
		}
	}
	end()
	return names, nil
}

// phony returns an error if what follows the first rule is more than rules without prerequisites: then a name has a new line.
func phony(text []byte) error {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 && line[len(line)-1] != ':' {
			return errDependencies
		}
	}
	return nil
}

// colon returns where the targets of the first rule end.
func colon(text []byte) int {
	for i, c := range text {
		if c == ':' && (i+1 == len(text) || bytes.IndexByte([]byte(" \t\r\n\\"), text[i+1]) >= 0) && (i == 0 || text[i-1] != '\\') {
			return i
		}
	}
	return -1
}

// lineMarkers returns the names of the files that preprocessed text says it was made of.
func lineMarkers(text []byte) []string {
	var names []string
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("# "))
		if !ok {
			if rest, ok = bytes.CutPrefix(line, []byte("#line ")); !ok {
				continue
			}
		}
		digits := len(rest) - len(bytes.TrimLeft(rest, "0123456789"))
		if digits == 0 || digits+1 >= len(rest) || rest[digits] != ' ' || rest[digits+1] != '"' {
			continue
		}
		name, ok := unquote(rest[digits+2:])
		if !ok || seen[name] || name == "" || name[0] == '<' || bytes.HasSuffix([]byte(name), []byte("//")) {
			continue
		}
		seen[name], names = true, append(names, name)
	}
	return names
}

// unquote reads a name up to its closing quote.
func unquote(b []byte) (string, bool) {
	var name []byte
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return string(name), true
		case c == '\\' && i+1 < len(b):
			i++
			name = append(name, b[i])
		default:
			name = append(name, c)
		}
	}
	return "", false
}
