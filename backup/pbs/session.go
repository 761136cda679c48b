package pbs

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/refusal"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A session is one backup on its way. What it takes is held (hold.go) and nobody sees it, until finish makes it
// the snapshot.
type session struct {
	store    *datastore
	name     snapshotName // of what it becomes
	owner    string       // of the group
	author   string       // who backs up
	previous *snapshot    // the last one that clients may build upon, or nil
	last     *snapshot    // the last one, or nil
	base     format.ChunkList
	bench    bool
	hold     *hold
	done     func() // ends the turn to write the group

	mu            sync.Mutex
	known         map[[32]byte]format.Chunk
	writers       map[int]*writer
	lastID        int
	files         map[string]file
	used          map[[32]byte]struct{} // chunks that closed indexes refer to
	uploads       map[string]*uploadStats
	manifest      *format.Manifest
	closing       bool           // finish runs, or is done
	ended         bool           // the connection is gone
	calls         sync.WaitGroup // all but finish
	final         sync.WaitGroup // finish
	over          sync.Once
	uploadsAtOnce chan struct{}
}

// uploadStats are what upstream's manifests have of how much was new.
type uploadStats struct {
	Count      uint64 `json:"count"`
	Size       uint64 `json:"size"`
	Compressed uint64 `json:"compressed_size"`
	Duplicates uint64 `json:"duplicates"`
}

// maxUploads is how many uploads of one session are read at once; others wait. A client that stalls stops itself.
const maxUploads = 8

var errEnded = badRequest("the backup is finished or was given up")

// beginBackup starts a session, or says why not.
func (d *datastore) beginBackup(ctx context.Context, name snapshotName, a *Account, bench bool) (_ *session, err error) {
	if err := d.needNamespace(ctx, name.ns); err != nil {
		return nil, err
	}
	done, ok := d.turns.Try(writing(name.group, d.Name))
	if !ok {
		return nil, badRequest("while creating locked backup group '%s': another backup of this group runs", name.group)
	}
	s := &session{
		store: d, name: name, owner: a.Name, author: a.Name, bench: bench, hold: d.newHold(), done: done,
		known: map[[32]byte]format.Chunk{}, writers: map[int]*writer{}, files: map[string]file{}, used: map[[32]byte]struct{}{},
		uploads: map[string]*uploadStats{}, uploadsAtOnce: make(chan struct{}, maxUploads),
	}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	all, err := d.ofGroup(ctx, name.group)
	if err != nil {
		return nil, err
	}
	if info, ok, err := d.group(ctx, name.group); err != nil {
		return nil, err
	} else if ok {
		s.owner = info.Owner
	}
	if !a.owns(s.owner) {
		return nil, refusal.New(http.StatusForbidden, "backup owner check failed (%s != %s)", a.Name, s.owner)
	}
	if len(all) > 0 {
		s.last = all[len(all)-1]
		if s.last.name.time >= name.time {
			return nil, badRequest("backup timestamp is older than last backup.")
		}
	}
	return s, s.holdPrevious(ctx)
}

// holdPrevious makes the last snapshot what clients may build upon, and holds it. One that was found damaged is
// not offered, so that everything is uploaded again.
func (s *session) holdPrevious(ctx context.Context) error {
	if s.last == nil || s.last.Verify != nil && s.last.Verify.State != verifiedOK {
		return nil
	}
	base, err := s.store.chunks(ctx, s.last)
	if err != nil {
		s.store.server.log.Warn("a snapshot can't be built upon", "snapshot", s.last.name.String(), "err", err)
		return nil
	}
	set, err := s.last.blobs(base)
	if err != nil {
		return err
	}
	sim.Point("previous")
	if mutant.PreviousUnheld {
		set = digest.Set{}
	}
	if err := s.hold.keep(ctx, set); err != nil {
		// Something of it is gone, or there is no room: then nothing of it may be said to be here.
		s.store.server.log.Warn("a snapshot can't be built upon", "snapshot", s.last.name.String(), "err", err)
		return nil
	}
	s.previous, s.base = s.last, base
	return nil
}

// enter begins a call, which ends with s.calls.Done.
func (s *session) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.closing {
		return errEnded
	}
	s.calls.Add(1)
	return nil
}

// end ends the session, whatever became of it. What is not in a snapshot by then is let go.
func (s *session) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.calls.Wait()
	s.final.Wait()
	s.over.Do(s.letGo)
}

// letGo lets go of what was held, and of the group, so that the next backup may begin.
func (s *session) letGo() {
	if err := s.hold.release(context.WithoutCancel(s.store.server.stopping)); err != nil {
		s.store.server.log.Warn("what a backup held stays until the next start", "backup", s.name.String(), "err", err)
	}
	s.done()
}

// previousFile returns a file of the last snapshot. The chunks of an index are known from then on.
func (s *session) previousFile(ctx context.Context, name string) ([]byte, error) {
	if s.previous == nil {
		return nil, badRequest("no valid previous backup")
	}
	f, ok := s.previous.file(name)
	if !ok {
		return nil, badRequest("no such file in the previous backup: %s", name)
	}
	if !isIndex(name) {
		return s.store.load(ctx, f.Blob, format.MaxBlob+format.EncryptedHeaderSize)
	}
	x, b, err := s.store.index(ctx, f)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, digest := range x.Digests {
		s.know(digest)
	}
	return b, nil
}

// know makes a chunk of the previous snapshot known, if it is none already. The caller has s.mu.
func (s *session) know(digest [32]byte) (format.Chunk, bool) {
	if c, ok := s.known[digest]; ok {
		return c, true
	}
	c, ok := s.base.Find(digest)
	if ok {
		s.known[digest] = c
	}
	return c, ok
}

// checkChunk verifies a chunk as far as that is possible, and returns what is known of it.
func checkChunk(name [32]byte, size int64, body []byte) (format.Chunk, error) {
	b, err := format.ParseBlob(body)
	if err != nil {
		return format.Chunk{}, err
	}
	c := format.Chunk{Digest: name, Size: uint32(size), Encrypted: b.Encrypted, Stored: uint32(len(body))}
	switch {
	case b.Encrypted && !b.Compressed && int64(len(b.Data)) != size:
		return c, badRequest("the chunk has %d bytes, and was declared with %d", len(b.Data), size)
	case b.Encrypted:
		return c, nil
	}
	plain, err := b.Plain(int(size))
	if err != nil {
		return c, err
	}
	if int64(len(plain)) != size {
		return c, badRequest("the chunk has %d bytes, and was declared with %d", len(plain), size)
	}
	if got := digest.SHA256.Of(plain).Hash; got != name && !mutant.ChunkBelieved {
		return c, badRequest("the chunk's digest is %x, and it was declared with %x", got, name)
	}
	return c, nil
}

// takeChunk stores a chunk that was uploaded for a writer, and makes it known.
func (s *session) takeChunk(ctx context.Context, id int, fixed bool, name [32]byte, size int64, body []byte) error {
	s.mu.Lock()
	w := s.writers[id]
	s.mu.Unlock()
	if err := w.takes(id, fixed, uint64(size)); err != nil {
		return err
	}
	c, err := checkChunk(name, size, body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old, dup := s.known[name]
	s.mu.Unlock()
	if dup && (old.Encrypted != c.Encrypted || old.Size != c.Size) {
		return badRequest("chunk %x is known with another size or encryption", name)
	}
	if !dup {
		// What is known is held already, in the form in which it came first.
		d, err := s.hold.put(ctx, body)
		if err != nil {
			return err
		}
		c.Blob = d.Hash
	}
	sim.Point("chunk")
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.known[name]; !ok {
		s.known[name] = c
	} else if first.Encrypted != c.Encrypted {
		return badRequest("chunk %x is known with another size or encryption", name)
	}
	u := s.uploads[w.name]
	if u == nil {
		u = &uploadStats{}
		s.uploads[w.name] = u
	}
	u.Count++
	u.Size += uint64(size)
	u.Compressed += uint64(len(body))
	if dup {
		u.Duplicates++
	}
	return nil
}

// putFile stores an index or a blob under a name that is free.
func (s *session) putFile(ctx context.Context, name string, size uint64, body []byte, then func()) error {
	d, err := s.hold.put(ctx, body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.files[name]; ok {
		return badRequest("a file named %s is there already", name)
	}
	s.files[name] = file{Name: name, Size: size, Blob: storedOf(d)}
	if then != nil {
		then()
	}
	return nil
}

// maxFiles is how many archives and blobs a snapshot has at most, so that a root's value can describe it.
const maxFiles = 200

// takeBlob stores a file that ends in .blob.
func (s *session) takeBlob(ctx context.Context, name string, body []byte) error {
	if err := checkName("file-name", name); err != nil {
		return err
	}
	if !strings.HasSuffix(name, ".blob") {
		return badRequest("wrong blob file extension: '%s'", name)
	}
	s.mu.Lock()
	full := len(s.files)+len(s.writers) >= maxFiles
	s.mu.Unlock()
	if full {
		return badRequest("a snapshot has %d files at most", maxFiles)
	}
	b, err := format.ParseBlob(body)
	if err != nil {
		return err
	}
	var then func()
	if name == format.ManifestName {
		m, err := parseManifest(body)
		if err != nil {
			return err
		}
		then = func() { s.manifest = m }
	}
	size := uint64(len(body))
	if !b.Compressed {
		size = uint64(len(b.Data))
	}
	return s.putFile(ctx, name, size, body, then)
}

func csumText(csum [32]byte) string { return hex.EncodeToString(csum[:]) }
