package pbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A snapshot is what a root's value says of it: enough to list snapshots without reading anything else.
type snapshot struct {
	name snapshotName
	was  *blob.Root // it was read from, nil if it is new

	Owner       string        `json:"owner"`
	Protected   bool          `json:"protected,omitempty"`
	Comment     string        `json:"comment,omitempty"` // the first line of the manifest's notes
	Fingerprint string        `json:"fingerprint,omitempty"`
	Verify      *verification `json:"verify,omitempty"`
	Files       []file        `json:"files"`
	Chunks      stored        `json:"chunks"` // the list of all chunks (format.ChunkList)
}

// A verification is how the last look at a snapshot ended, as the manifest has it too.
type verification struct {
	State string `json:"state"` // ok or failed
	UPID  string `json:"upid"`
}

// A file is an index or a blob of a snapshot.
type file struct {
	Name  string `json:"name"`
	Size  uint64 `json:"size"` // what it stands for: of an index, the archive's
	Crypt string `json:"crypt,omitempty"`
	Blob  stored `json:"blob"`
}

// A stored names a blob in a root's value.
type stored struct {
	Hash string `json:"hash"`
	Size int64  `json:"size"`
}

func storedOf(d digest.Digest) stored { return stored{d.Hex(), d.Size} }

func (s stored) digest() (digest.Digest, error) { return digest.New(digest.SHA256, s.Hash, s.Size) }

// isIndex reports whether a file refers to chunks.
func isIndex(name string) bool {
	return strings.HasSuffix(name, ".fidx") || strings.HasSuffix(name, ".didx")
}

func (s *snapshot) file(name string) (file, bool) {
	i := slices.IndexFunc(s.Files, func(f file) bool { return f.Name == name })
	if i < 0 {
		return file{}, false
	}
	return s.Files[i], true
}

// setFile adds a file, or replaces the one of that name. The slice is not shared with a copy of s afterwards.
func (s *snapshot) setFile(f file) {
	s.Files = slices.DeleteFunc(slices.Clone(s.Files), func(o file) bool { return o.Name == f.Name })
	s.Files = append(s.Files, f)
	slices.SortFunc(s.Files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
}

// decodeSnapshot reads a root.
func decodeSnapshot(name snapshotName, r blob.Root) (*snapshot, error) {
	s := &snapshot{}
	if err := json.Unmarshal(r.Value, s); err != nil {
		return nil, fmt.Errorf("%w: the root %q: %w", blob.ErrCorrupt, r.Name, err)
	}
	s.name, s.was = name, &r
	return s, nil
}

// snapshot returns one snapshot, or a refusal.
func (d *datastore) snapshot(ctx context.Context, name snapshotName) (*snapshot, error) {
	r, err := blob.KeptRoot(ctx, d.Keeper, name.root(d.Name))
	if errors.Is(err, blob.ErrNotFound) {
		return nil, refusal.New(http.StatusNotFound, "snapshot %s does not exist", name)
	}
	if err != nil {
		return nil, err
	}
	return decodeSnapshot(name, r)
}

// snapshots yields those of one kind in a namespace, or of one group if id is not "", oldest first in each group.
func (d *datastore) snapshots(ctx context.Context, ns, kind, id string) iter.Seq2[*snapshot, error] {
	prefix := group{ns, kind, id}.root(d.Name)
	if id != "" {
		prefix += "/"
	}
	return func(yield func(*snapshot, error) bool) {
		for r, err := range d.Keeper.Kept(ctx, prefix) {
			if err != nil {
				yield(nil, err)
				return
			}
			name, ok := parseRoot(d.Name, ns, r.Name)
			if !ok || name.time == 0 {
				continue
			}
			s, err := decodeSnapshot(name, r)
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// ofGroup returns the snapshots of a group, oldest first.
func (d *datastore) ofGroup(ctx context.Context, g group) (all []*snapshot, err error) {
	for s, err := range d.snapshots(ctx, g.ns, g.kind, g.id) {
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// patiently calls fn until it finds what it wants, or the datastore's patience ends.
func (d *datastore) patiently(ctx context.Context, fn func() error) error {
	for end := time.Now().Add(d.Patience); ; {
		err := fn()
		if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrUnavailable) || !time.Now().Before(end) {
			return err
		}
		select {
		case <-time.After(min(d.Patience, 200*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// load reads a blob that a root holds, of at most limit bytes. It waits for it.
func (d *datastore) load(ctx context.Context, b stored, limit int64) (data []byte, err error) {
	err = d.patiently(ctx, func() error {
		data, err = d.loadNow(ctx, b, limit)
		return err
	})
	return data, err
}

// loadNow reads a blob of at most limit bytes.
func (d *datastore) loadNow(ctx context.Context, b stored, limit int64) ([]byte, error) {
	want, err := b.digest()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	if want.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes", blob.ErrTooLarge, want.Size)
	}
	data, err := blob.Get(ctx, d.Store, want)
	if err == nil && digest.SHA256.Of(data) != want {
		err = fmt.Errorf("%w: blob %s", blob.ErrCorrupt, want)
	}
	return data, err
}

// The most that an index or a list of chunks has: of MaxFixed bytes in FixedChunk pieces.
const maxIndex = 2 << 30

func (d *datastore) index(ctx context.Context, f file) (*format.Index, []byte, error) {
	b, err := d.load(ctx, f.Blob, maxIndex)
	if err != nil {
		return nil, nil, err
	}
	x, err := format.ParseIndex(b)
	return x, b, err
}

func (d *datastore) chunks(ctx context.Context, s *snapshot) (format.ChunkList, error) {
	b, err := d.load(ctx, s.Chunks, maxIndex)
	if err != nil {
		return format.ChunkList{}, err
	}
	return format.ParseChunks(b)
}

func (d *datastore) manifest(ctx context.Context, s *snapshot) (*format.Manifest, error) {
	f, ok := s.file(format.ManifestName)
	if !ok {
		return nil, refusal.New(http.StatusNotFound, "snapshot %s has no manifest", s.name)
	}
	b, err := d.load(ctx, f.Blob, format.MaxChunk+format.HeaderSize)
	if err != nil {
		return nil, err
	}
	return parseManifest(b)
}

func parseManifest(b []byte) (*format.Manifest, error) {
	d, err := format.ParseBlob(b)
	if err != nil {
		return nil, err
	}
	text, err := d.Plain(format.MaxChunk)
	if err != nil {
		return nil, err
	}
	return format.ParseManifest(text)
}

// putManifest stores a manifest and makes it the snapshot's.
func (h *hold) putManifest(ctx context.Context, s *snapshot, m *format.Manifest) error {
	text, err := m.Encode()
	if err != nil {
		return err
	}
	b := format.EncodeBlob(text)
	d, err := h.put(ctx, b)
	if err != nil {
		return err
	}
	s.setFile(file{Name: format.ManifestName, Size: uint64(len(b)), Blob: storedOf(d)})
	s.Fingerprint = m.Fingerprint()
	var notes string
	m.Get("notes", &notes)
	s.Comment = firstLine(notes)
	s.Verify = nil
	var v verification
	if m.Get("verify_state", &v) {
		s.Verify = &v
	}
	return nil
}

// maxComment is how much of the manifest's notes a root's value has.
const maxComment = 256

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > maxComment {
		line = strings.ToValidUTF8(line[:maxComment], "") + "…"
	}
	return line
}

// blobs returns all blobs of a snapshot.
func (s *snapshot) blobs(chunks format.ChunkList) (digest.Set, error) {
	ds := make([]digest.Digest, 0, chunks.Len()+len(s.Files)+1)
	for i := range chunks.Len() {
		c := chunks.At(i)
		ds = append(ds, digest.Digest{Function: digest.SHA256, Hash: c.Blob, Size: int64(c.Stored)})
	}
	for _, b := range append([]stored{s.Chunks}, blobsOf(s.Files)...) {
		d, err := b.digest()
		if err != nil {
			return digest.Set{}, fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
		}
		ds = append(ds, d)
	}
	return digest.SetOf(ds...), nil
}

func blobsOf(files []file) (all []stored) {
	for _, f := range files {
		all = append(all, f.Blob)
	}
	return all
}

// keep makes s what its root says, if that is still the one that s was read from.
func (d *datastore) keep(ctx context.Context, s *snapshot, set digest.Set) error {
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if s.was == nil || mutant.ChangeUnlocked {
		return d.Keeper.Keep(ctx, s.name.root(d.Name), value, set)
	}
	return d.Keeper.KeepIf(ctx, s.name.root(d.Name), s.was, value, set)
}

// change changes a snapshot in order with other changes of its group: fn does, which may store what is new with the hold,
// and is called again if another server changed the snapshot meanwhile.
func (d *datastore) change(ctx context.Context, name snapshotName, fn func(*snapshot, *hold) error) error {
	if !mutant.ChangeUnlocked {
		release, err := d.turns.Take(ctx, name.group.root(d.Name))
		if err != nil {
			return err
		}
		defer release()
	}
	return blob.WhileChanged(ctx, func() error { return d.changeOnce(ctx, name, fn) })
}

func (d *datastore) changeOnce(ctx context.Context, name snapshotName, fn func(*snapshot, *hold) error) error {
	s, err := d.snapshot(ctx, name)
	if err != nil {
		return err
	}
	h := d.newHold()
	defer func() { _ = h.release(context.WithoutCancel(ctx)) }()
	if err := fn(s, h); err != nil {
		return err
	}
	chunks, err := d.chunks(ctx, s)
	if err != nil {
		return err
	}
	set, err := s.blobs(chunks)
	if err != nil {
		return err
	}
	sim.Point("change")
	err = d.patiently(ctx, func() error { return d.keep(ctx, s, set) })
	missing, ok := errors.AsType[*blob.MissingError](err)
	switch {
	case !ok:
		return err
	case d.Patience > 0 && !mutant.MissingForgotten:
		// It may be there, and what no root names is collected.
		return refusal.New(http.StatusServiceUnavailable, "snapshot %s stays as it is: %v", name, missing)
	}
	// A damaged snapshot is still one to describe. It holds what is left, and once somebody uploaded the rest
	// again, the next verification lets it hold all.
	return d.keep(ctx, s, without(set, missing.Blobs))
}

// keepLeft holds what there is of a snapshot: of a damaged one what is left can be restored.
func (h *hold) keepLeft(ctx context.Context, set digest.Set) error {
	err := h.store.patiently(ctx, func() error { return h.keep(ctx, set) })
	if missing, ok := errors.AsType[*blob.MissingError](err); ok {
		err = h.keep(ctx, without(set, missing.Blobs))
	}
	return err
}

func without(set digest.Set, gone []digest.Digest) digest.Set {
	drop := digest.SetOf(gone...)
	return digest.SetOf(slices.DeleteFunc(slices.Clone(set.List()), drop.Has)...)
}

// forget removes a snapshot.
func (d *datastore) forget(ctx context.Context, name snapshotName) error {
	release, err := d.turns.Take(ctx, name.group.root(d.Name))
	if err != nil {
		return err
	}
	defer release()
	return blob.WhileChanged(ctx, func() error {
		s, err := d.snapshot(ctx, name)
		if err != nil {
			return err
		}
		if s.Protected {
			return badRequest("snapshot %s is protected", name)
		}
		return d.Keeper.ReleaseIf(ctx, *s.was)
	})
}
