package compiler

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
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
type trait uint16

const (
	hasTime      trait = 1 << iota // __TIME__
	hasDate                        // __DATE__
	hasTimestamp                   // __TIMESTAMP__
	hasIncbin                      // .incbin or .include: the assembler reads a file that no dependency list names
	hasHidden                      // #embed, __has_embed, and pragmas that look at files: likewise
	hasComputed                    // #include NAME: a macro says what is included
	hasProbe                       // __has_include(NAME): a macro says what is asked for
	hasOnce                        // #pragma once: of files with one content the first is read
	hasImport                      // #import: likewise
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
	if !now.mode.IsRegular() { // a pipe would be waited for
		return content{}, errNoFile
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
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
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
	if before.size > maxScan && isBinary(f) {
		c, err = stream(f)
	} else {
		data := make([]byte, before.size)
		if _, err = io.ReadFull(f, data); err == nil {
			c.digest = digest.SHA256.Of(data)
			c.scan(data)
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

// maxScan is the size in bytes above which a file is first looked at: compilers and their libraries have no traits.
const maxScan = 1 << 20

// isBinary reports whether a file begins as no text does.
func isBinary(f io.ReaderAt) bool {
	var head [512]byte
	n, _ := f.ReadAt(head[:], 0)
	return bytes.IndexByte(head[:n], 0) >= 0
}

// stream hashes a file that is too large for memory.
func stream(r io.Reader) (content, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	c := content{digest: digest.Digest{Function: digest.SHA256, Size: n}}
	h.Sum(c.digest.Hash[:0])
	return c, err
}
