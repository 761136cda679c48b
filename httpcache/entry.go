package httpcache

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// maxPath bounds an entry's path, in bytes: it becomes part of its record.
const maxPath = 4096

// A space is a namespace of a dialect. What is in one is never seen in another.
type space struct {
	route     route
	namespace string
}

// instance returns the instance name under which the entries of s are action results.
func (s space) instance() string { return string(s.route) + "/" + s.namespace }

// key returns the action cache's key of what parts name in s. Every part is preceded by its length, so that
// no two names run together.
func (s space) key(parts ...string) action.Key {
	b := []byte("sarsen entry\x00")
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	d := digest.SHA256.Of(b)
	d.Size = digest.AnySize
	return action.Key{Instance: s.instance(), Action: d}
}

// An entry is what a build tool keeps under a path: bytes, and a few values that it wants back with them.
// It is stored as an action result with one output file, so it is there complete or absent.
type entry struct {
	digest digest.Digest
	kept   []*repb.NodeProperty
}

// value returns what was kept under name, or "".
func (e *entry) value(name string) string {
	for _, p := range e.kept {
		if p.GetName() == name {
			return p.GetValue()
		}
	}
	return ""
}

// epoch returns what every name in s has in common until s is cleaned, or blob.ErrNotFound if nothing was
// ever put there. Reading it leases it, so that a namespace in use keeps it. It is drawn at random: should its own
// record be evicted, because nobody used s for long, the next one is another, and nothing of before comes back.
func (h *handler) epoch(ctx context.Context, s space) (string, error) {
	result, err := h.Actions.Get(ctx, s.key("epoch"))
	if err != nil {
		return "", err
	}
	if links := result.GetOutputSymlinks(); len(links) == 1 {
		return links[0].GetTarget(), nil
	}
	return "", fmt.Errorf("%w: the epoch of %s is malformed", blob.ErrCorrupt, s.instance())
}

// epochToPut is epoch for a caller who is about to put an entry: it draws the first one.
func (h *handler) epochToPut(ctx context.Context, s space) (string, error) {
	g, err := h.epoch(ctx, s)
	if !errors.Is(err, blob.ErrNotFound) {
		return g, err
	}
	// Of two who draw, the second would take from the first what was just acknowledged.
	release, err := h.turns.take(ctx, s.key("epoch"))
	if err != nil {
		return "", err
	}
	defer release()
	if g, err = h.epoch(ctx, s); !errors.Is(err, blob.ErrNotFound) && !mutant.EpochApart {
		return g, err
	}
	return h.draw(ctx, s)
}

// draw begins an epoch. The caller has the turn.
func (h *handler) draw(ctx context.Context, s space) (string, error) {
	g := rand.Text()
	if mutant.EpochGuessed {
		g = s.namespace
	}
	return g, h.putEpoch(ctx, s, g)
}

func (h *handler) putEpoch(ctx context.Context, s space, g string) error {
	link := &repb.OutputSymlink{Path: "epoch", Target: g}
	return h.Actions.Put(ctx, s.key("epoch"), &repb.ActionResult{OutputSymlinks: []*repb.OutputSymlink{link}})
}

// clean makes everything in s absent, durably, at once: names get another epoch. What lay there is evicted
// as all else that nobody asks for. A put that is under way may still be acknowledged, and is then gone too.
func (h *handler) clean(ctx context.Context, s space) error {
	release, err := h.turns.take(ctx, s.key("epoch"))
	if err != nil {
		return err
	}
	defer release()
	if _, err = h.epoch(ctx, s); errors.Is(err, blob.ErrNotFound) {
		return nil // there is nothing
	}
	if err == nil && !mutant.EpochKept {
		_, err = h.draw(ctx, s)
	}
	return err
}

// find returns the entry at path with its bytes leased, or blob.ErrNotFound.
func (h *handler) find(ctx context.Context, s space, path string) (*entry, error) {
	g, err := h.epoch(ctx, s)
	if err != nil {
		return nil, err
	}
	return h.findIn(ctx, s, g, path)
}

func (h *handler) findIn(ctx context.Context, s space, epoch, path string) (*entry, error) {
	result, err := h.Actions.Get(ctx, s.key("entry", epoch, path))
	if err != nil {
		return nil, err
	}
	files := result.GetOutputFiles()
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: it was deleted", blob.ErrNotFound)
	}
	f := files[0]
	d, err := digest.New(digest.SHA256, f.GetDigest().GetHash(), f.GetDigest().GetSizeBytes())
	if err != nil || f.GetPath() != path {
		return nil, fmt.Errorf("%w: the entry %s of %s is malformed", blob.ErrCorrupt, path, s.instance())
	}
	return &entry{d, f.GetNodeProperties().GetProperties()}, nil
}

// keep makes e, whose bytes are in the store, the entry at path. If once is set, what is there stays, and stored
// is false.
func (h *handler) keep(ctx context.Context, s space, path string, e *entry, once bool) (stored bool, err error) {
	g, err := h.epochToPut(ctx, s)
	if err != nil {
		return false, err
	}
	key := s.key("entry", g, path)
	if once {
		release, err := h.turns.take(ctx, key)
		if err != nil {
			return false, err
		}
		if mutant.OnceApart {
			release()
		} else {
			defer release()
		}
		if _, err := h.findIn(ctx, s, g, path); !errors.Is(err, blob.ErrNotFound) {
			return false, err
		}
	}
	file := &repb.OutputFile{Path: path, Digest: &repb.Digest{Hash: e.digest.Hex(), SizeBytes: e.digest.Size}}
	if len(e.kept) > 0 {
		file.NodeProperties = &repb.NodeProperties{Properties: e.kept}
	}
	return true, h.Actions.Put(ctx, key, &repb.ActionResult{OutputFiles: []*repb.OutputFile{file}})
}

// remove makes the entry at path absent. A result without files takes its place, which outlives a restart as the
// entry did; to drop it might not.
func (h *handler) remove(ctx context.Context, s space, path string) error {
	g, err := h.epoch(ctx, s)
	if err == nil {
		_, err = h.findIn(ctx, s, g, path)
	}
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.Actions.Put(ctx, s.key("entry", g, path), new(repb.ActionResult))
}

// pathOf joins the segments of a path below a namespace.
func pathOf(segments []string) (string, error) {
	for _, s := range segments {
		if s == "." || s == ".." || !utf8.ValidString(s) { // a record's strings are UTF-8
			return "", refusal.New(400, "the path has a segment %q", s)
		}
	}
	path := strings.Join(segments, "/")
	if path == "" || len(path) > maxPath {
		return "", refusal.New(400, "an entry's path has 1 to %d bytes, this one has %d", maxPath, len(path))
	}
	return path, nil
}
