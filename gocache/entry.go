package gocache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// An id is one of Go's action and output IDs, or a SHA-256.
type id [32]byte

func (x id) String() string { return hex.EncodeToString(x[:]) }

// idOf reads an ID as it comes in a request.
func idOf(b []byte) (x id, err error) {
	if len(b) != len(x) {
		return x, fmt.Errorf("an ID has %d bytes, this one has %d", len(x), len(b))
	}
	return id(b), nil
}

// An entry is what was put for an action.
type entry struct {
	action, output id
	content        id    // SHA-256 of the body; today's Go calls the output so too
	size           int64 // of the body, in bytes
	time           time.Time
}

// maxEntry bounds the text of an entry, in bytes.
const maxEntry = 512

// errEntry says that a file of the index can't be read.
var errEntry = errors.New("not an entry")

// text returns the one line of an entry's file in the index. Its last field is the CRC-32 of what comes before.
func (e entry) text() string {
	line := fmt.Sprintf("sarsen go 1 %s %s %s %d %d ", e.action, e.output, e.content, e.size, e.time.UnixNano())
	return fmt.Sprintf("%s%08x\n", line, crc32.ChecksumIEEE([]byte(line)))
}

// parseEntry reads what text wrote, and nothing else.
func parseEntry(text string) (e entry, err error) {
	if len(text) > maxEntry {
		return e, errEntry
	}
	fields := strings.Fields(text)
	if len(fields) != 9 {
		return e, errEntry
	}
	for i, to := range []*id{&e.action, &e.output, &e.content} {
		if b, err := hex.DecodeString(fields[3+i]); err != nil || len(b) != len(to) {
			return e, errEntry
		} else {
			copy(to[:], b)
		}
	}
	var at int64
	if _, err := fmt.Sscan(fields[6], &e.size); err != nil || e.size < 0 {
		return e, errEntry
	}
	if _, err := fmt.Sscan(fields[7], &at); err != nil {
		return e, errEntry
	}
	if e.time = time.Unix(0, at); e.text() != text {
		return e, errEntry
	}
	return e, nil
}
