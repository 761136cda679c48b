package compiler

import "bytes"

// scan notes what matters in a text.
func (c *content) scan(text []byte) {
	if bytes.Contains(text, []byte("\\\n")) {
		text = bytes.ReplaceAll(text, []byte("\\\n"), nil) // a line that goes on may split a word
	}
	if bytes.Contains(text, []byte("%:")) || bytes.Contains(text, []byte("??=")) { // other ways to write #
		text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("%:"), []byte("#")), []byte("??="), []byte("#"))
	}
	c.traits |= traitsOf(text)
	directives(c, text)
}

// traitsOf looks for words that matter. A word in a comment counts: that costs a miss at most.
func traitsOf(text []byte) trait {
	var t trait
	if bytes.Contains(text, []byte("__TIME")) {
		if bytes.Contains(text, []byte("__TIME__")) {
			t |= hasTime
		}
		if bytes.Contains(text, []byte("__TIMESTAMP__")) {
			t |= hasTimestamp
		}
	}
	if bytes.Contains(text, []byte("__DATE__")) {
		t |= hasDate
	}
	if bytes.Contains(text, []byte(".incbin")) || bytes.Contains(text, []byte(".include")) {
		t |= hasIncbin
	}
	if bytes.Contains(text, []byte("embed")) && embeds(text) || bytes.Contains(text, []byte("pch_preprocess")) {
		t |= hasHidden
	}
	if follows(text, "dependency", "GCC") { // is the file newer?
		t |= hasHidden
	}
	if follows(text, "once", "pragma") {
		t |= hasOnce
	}
	return t
}

// embeds reports whether a line is an #embed, or asks for one.
func embeds(text []byte) bool {
	return bytes.Contains(text, []byte("__has_embed")) || follows(text, "embed", "#")
}

// follows reports whether a word stands somewhere after another one, with nothing but space between.
func follows(text []byte, word, before string) bool {
	for {
		i := bytes.Index(text, []byte(word))
		if i < 0 {
			return false
		}
		if bytes.HasSuffix(bytes.TrimRight(text[:i], " \t\"("), []byte(before)) {
			return true
		}
		text = text[i+1:]
	}
}

// directives notes the names that text includes, and those that it asks for with __has_include. Directives that are
// switched off count too: a name that is not there is all that matters about them.
func directives(c *content, text []byte) {
	for rest := text; ; {
		i := bytes.IndexByte(rest, '#')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		after := bytes.TrimLeft(rest, " \t")
		word := bytes.TrimLeft(after, "abcdefghijklmnopqrstuvwxyz_")
		switch string(after[:len(after)-len(word)]) {
		case "include", "include_next", "import":
		case "":
			if bytes.HasPrefix(after, []byte("/*")) {
				c.traits |= hasComputed // whatever it is
			}
			continue
		default:
			continue
		}
		if bytes.HasPrefix(after, []byte("import")) {
			c.traits |= hasImport
		}
		if name, ok := operand(word, '"', '"'); ok {
			c.quoted = append(c.quoted, name)
		} else if name, ok := operand(word, '<', '>'); ok {
			c.angled = append(c.angled, name)
		} else {
			c.traits |= hasComputed
		}
	}
	for rest := text; ; {
		i := bytes.Index(rest, []byte("__has_include"))
		if i < 0 {
			return
		}
		rest = bytes.TrimPrefix(rest[i+len("__has_include"):], []byte("_next"))
		after := bytes.TrimLeft(rest, " \t")
		inside := bytes.TrimLeft(bytes.TrimPrefix(after, []byte("(")), " \t")
		if name, ok := operand(inside, '"', '"'); ok {
			c.probed = append(c.probed, name)
		} else if name, ok := operand(inside, '<', '>'); ok {
			c.probed = append(c.probed, name)
		} else if len(inside) < len(after) && len(inside) > 0 && inside[0] != ')' {
			c.traits |= hasProbe
		}
	}
}

// operand returns the name between open and end, with which text begins.
func operand(text []byte, open, end byte) (string, bool) {
	text = bytes.TrimLeft(text, " \t")
	if len(text) == 0 || text[0] != open {
		return "", false
	}
	text = text[1:]
	for i, c := range text {
		if c == end {
			return string(text[:i]), i > 0
		}
		if c == '\n' {
			break
		}
	}
	return "", false
}
