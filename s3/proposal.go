package s3

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A proposal is what sessions are asked to let go of, and a verdict's list what they all did.
type proposal struct {
	force bool // what was used since the last look may go too
	lines []line
}

// A line is a key, and, if that is a second copy, the one that stays.
type line struct{ key, survivor string }

const (
	documentHead = "sarsen proposal 1\n"
	forced       = "force\n"
)

func (p proposal) encode() []byte {
	b := []byte(documentHead)
	if p.force {
		b = append(b, forced...)
	}
	for _, l := range p.lines {
		b = append(b, l.key...)
		if l.survivor != "" {
			b = append(append(b, ' '), l.survivor...)
		}
		b = append(b, '\n')
	}
	return b
}

func decodeProposal(text string) (p proposal, err error) {
	text, ok := strings.CutPrefix(text, documentHead)
	if !ok {
		return p, errors.New("a proposal of another version")
	}
	text, p.force = strings.CutPrefix(text, forced)
	for row := range strings.Lines(text) {
		key, survivor, _ := strings.Cut(strings.TrimSuffix(row, "\n"), " ")
		p.lines = append(p.lines, line{key, survivor})
	}
	return p, nil
}

func (p proposal) keys() map[string]bool {
	keys := make(map[string]bool, len(p.lines))
	for _, l := range p.lines {
		keys[l.key] = true
	}
	return keys
}

func (s *Store) readProposal(ctx context.Context, key string) (proposal, error) {
	text, err := s.readLines(ctx, key)
	if err != nil {
		return proposal{}, err
	}
	p, err := decodeProposal(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return p, err
}

// writeLines writes a document, which ends with the XXH3 of what comes before.
func (s *Store) writeLines(ctx context.Context, key string, b []byte) error {
	b = fmt.Appendf(b, "%0*x\n", sumDigits, xxh3.Hash(b))
	_, err := s.bucket.Put(ctx, key, bytesAt(b), int64(len(b)), bucket.Condition{})
	return err
}

const sumDigits = 16

func (s *Store) readLines(ctx context.Context, key string) (string, error) {
	b, _, err := s.bucket.Get(ctx, key, 0, -1)
	if err != nil {
		return "", err
	}
	end := len(b) - sumDigits - 1
	if end < 0 || fmt.Sprintf("%0*x\n", sumDigits, xxh3.Hash(b[:end])) != string(b[end:]) {
		return "", fmt.Errorf("%w: %s", blob.ErrCorrupt, key)
	}
	return string(b[:end]), nil
}

func documentKey(prefix string, epoch int, session string) string {
	return fmt.Sprintf("%s%010d-%s", prefix, epoch, session)
}

// epochOf returns the epoch of a proposal or verdict.
func epochOf(key string) int {
	number, _, _ := strings.Cut(key[min(len(key), len(proposals)):], "-")
	n, _ := strconv.Atoi(strings.TrimLeft(number, "0"))
	return n
}

// answerKey returns where a session's answer lies. It is not below the proposal: where keys are files, nothing can lie
// below an object.
func answerKey(proposal, session string) string { return proposal + "." + session }
