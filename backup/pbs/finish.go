package pbs

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// finish makes the session a snapshot: in one Keep, so that it is there whole or not at all. After an error it may be
// tried again.
func (s *session) finish(ctx context.Context) error {
	s.mu.Lock()
	if s.ended || s.closing {
		s.mu.Unlock()
		return errEnded
	}
	s.closing = true // nothing is added any more
	s.final.Add(1)
	s.mu.Unlock()
	defer s.final.Done()
	s.calls.Wait()
	err := s.ready()
	if err == nil {
		err = s.commit(context.WithoutCancel(ctx)) // a client that goes now would leave it open what happened
	}
	if err == nil {
		s.over.Do(s.letGo) // a client may begin the next one when it is told
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = false
	return err
}

// commit stores what is missing of the snapshot and makes its root.
func (s *session) commit(ctx context.Context) error {
	snap, chunks, err := s.describe(ctx)
	if err != nil {
		return err
	}
	d := s.store
	set, err := snap.blobs(chunks)
	if err != nil {
		return err
	}
	if s.name.ns != "" {
		release, err := d.turns.Take(ctx, nsTurn)
		if err != nil {
			return err
		}
		defer release()
	}
	release, err := d.turns.Take(ctx, s.name.group.root(d.Name))
	if err != nil {
		return err
	}
	defer release()
	if err := blob.WhileChanged(ctx, func() error { return s.claim(ctx) }); err != nil {
		return err
	}
	sim.Point("finish")
	err = d.keep(ctx, snap, set) // COMMIT: the snapshot is there
	if missing, ok := errors.AsType[*blob.MissingError](err); ok {
		return refusal.New(http.StatusInternalServerError, "the backup can't be finished: it refers to %v; back up again", missing)
	}
	return err
}

// ready says whether a session may finish, in which no call runs.
func (s *session) ready() error {
	switch {
	case s.bench:
		return badRequest("a benchmark can't be finished")
	case len(s.writers) > 0:
		return badRequest("found open index writer - unable to finish backup")
	case len(s.files) == 0:
		return badRequest("backup does not contain valid files (file count == 0)")
	case s.manifest == nil:
		return badRequest("backup has no manifest (%s)", format.ManifestName)
	}
	return nil
}

// claim sees that the group is the author's, and makes it if it is new.
func (s *session) claim(ctx context.Context) error {
	info, ok, err := s.store.group(ctx, s.name.group)
	switch {
	case err != nil:
		return err
	case !ok:
		if err := s.store.needNamespace(ctx, s.name.ns); err != nil {
			return err
		}
		sim.Point("namespace")
		return s.store.keepGroup(ctx, s.name.group, groupInfo{Owner: s.owner})
	case info.Owner != s.owner:
		return refusal.New(http.StatusForbidden, "backup owner check failed: the group has gone to %s", info.Owner)
	}
	return nil
}

// cryptModes are what a manifest says of a file.
var cryptModes = []string{"none", "encrypt", "sign-only"}

// describe stores what a snapshot has besides archives: its manifest, with the server's statistics, and the list of
// its chunks.
func (s *session) describe(ctx context.Context) (*snapshot, format.ChunkList, error) {
	snap := &snapshot{name: s.name, Owner: s.owner}
	chunks := make([]format.Chunk, 0, len(s.used))
	for digest := range s.used {
		chunks = append(chunks, s.known[digest])
	}
	var total uploadStats
	for _, u := range s.uploads {
		total.Count += u.Count
		total.Size += u.Size
		total.Compressed += u.Compressed
		total.Duplicates += u.Duplicates
	}
	for name, f := range s.files {
		if said, ok := s.manifest.File(name); ok && slices.Contains(cryptModes, said.CryptMode) {
			f.Crypt = said.CryptMode
		}
		snap.setFile(f)
	}
	m := s.manifest
	if err := m.Set("chunk_upload_stats", total); err != nil {
		return nil, format.ChunkList{}, err
	}
	// This only the server says.
	if err := m.Set("verify_state", nil); err != nil {
		return nil, format.ChunkList{}, err
	}
	if err := s.hold.putManifest(ctx, snap, m); err != nil {
		return nil, format.ChunkList{}, err
	}
	b := format.EncodeChunks(chunks)
	d, err := s.hold.put(ctx, b)
	if err != nil {
		return nil, format.ChunkList{}, err
	}
	snap.Chunks = storedOf(d)
	list, err := format.ParseChunks(b)
	return snap, list, err
}
