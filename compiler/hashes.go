package compiler

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/digest"
)

// settled is how old a file's times must be before its digest is remembered: on file systems with coarse times a
// change right after a change has the same times.
const settled = 2 * time.Second

// maxHashes bounds how many files are remembered.
const maxHashes = 400_000

// A stamp changes whenever a file's content does, once it is settled. The inode is compared beside the path, not
// instead of it, so that overlays that reuse inode numbers are no danger.
type stamp struct {
	device, inode uint64
	size          int64
	mtime, ctime  int64 // nanoseconds since 1970
	mode          os.FileMode
}

// newest returns when the file was last changed in any way.
func (s *stamp) newest() int64 { return max(s.mtime, s.ctime) }

// A trait is something in a file's text that decides how its results may be kept.
type trait uint8

const (
	hasTime      trait = 1 << iota // __TIME__
	hasDate                        // __DATE__
	hasTimestamp                   // __TIMESTAMP__
	hasIncbin                      // .incbin or .include: the assembler reads a file that no dependency list names
	hasEmbed                       // #embed, __has_embed: likewise for some compilers
	hasComputed                    // #include NAME: a macro says what is included
	hasProbe                       // __has_include(NAME): a macro says what is asked for
)

// A content is what is known of a file.
type content struct {
	digest digest.Digest
	traits trait
	quoted []string // names that #include "" asks for
	angled []string // names that #include <> asks for
	probed []string // names that __has_include asks for
	stamp  stamp
}

// hashes remembers the digests of files by their stamps.
type hashes struct {
	mu    sync.Mutex
	known map[string]content
}

func newHashes() *hashes { return &hashes{known: map[string]content{}} }

var errNoFile = errors.New("not a regular file")

// digest returns what the file at an absolute path holds. A file that changes meanwhile is an error.
func (h *hashes) digest(path string) (content, error) {
	now, err := stampOf(path)
	if err != nil {
		return content{}, err
	}
	h.mu.Lock()
	c, ok := h.known[path]
	h.mu.Unlock()
	if ok && c.stamp == now {
		return c, nil
	}
	return h.read(path)
}

func (h *hashes) read(path string) (content, error) {
	f, err := os.Open(path)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	before, err := stampOfFile(f)
	if err != nil {
		return content{}, err
	}
	began := time.Now()
	if !before.mode.IsRegular() {
		return content{}, errNoFile
	}
	var c content
	if before.size > maxScan {
		c, err = stream(f)
	} else {
		data := make([]byte, before.size)
		if _, err = io.ReadFull(f, data); err == nil {
			c = content{digest: digest.SHA256.Of(data), traits: traitsOf(data)}
			directives(&c, data)
		}
	}
	if err != nil {
		return content{}, err
	}
	after, err := stampOfFile(f)
	if err != nil || after != before || c.digest.Size != before.size {
		return content{}, errChanged
	}
	c.stamp = before
	if began.UnixNano()-before.newest() > int64(settled) {
		h.mu.Lock()
		if len(h.known) >= maxHashes {
			clear(h.known) // rarer than any policy would be worth
		}
		h.known[path] = c
		h.mu.Unlock()
	}
	return c, nil
}

var errChanged = errors.New("the file changes")

// maxScan is the size in bytes above which a file is not read for traits: no text that people write is.
const maxScan = 16 << 20

// stream hashes a file that is too large for memory.
func stream(r io.Reader) (content, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	c := content{digest: digest.Digest{Function: digest.SHA256, Size: n}}
	h.Sum(c.digest.Hash[:0])
	return c, err
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
	if bytes.Contains(text, []byte("embed")) && embeds(text) {
		t |= hasEmbed
	}
	return t
}

// embeds reports whether a line is an #embed, or asks for one.
func embeds(text []byte) bool {
	if bytes.Contains(text, []byte("__has_embed")) {
		return true
	}
	for {
		i := bytes.Index(text, []byte("embed"))
		if i < 0 {
			return false
		}
		if before := bytes.TrimRight(text[:i], " \t"); bytes.HasSuffix(before, []byte("#")) {
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
		default:
			continue
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
