package pbs

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
)

// A writer is an index on its way. It belongs to its session's mutex, but what never changes may be read by
// whoever found it.
type writer struct {
	name        string
	fixed       bool
	sized       bool // a fixed one, whose size was said at the start
	incremental bool // it began as a copy of the previous index
	index       format.Index
	filled      []bool // which chunks of a fixed one are there
	holes       int
	appended    uint64
	short       uint64 // the end of a chunk that is shorter than others, or 0
}

// maxWriters is how many indexes may be open at once.
const maxWriters = 256

// open makes a writer and returns its number.
func (s *session) open(w *writer) (int, error) {
	if err := checkName("archive-name", w.name); err != nil {
		return 0, err
	}
	want := ".didx"
	if w.fixed {
		want = ".fidx"
	}
	if !strings.HasSuffix(w.name, want) {
		return 0, badRequest("wrong archive extension: '%s', want %s", w.name, want)
	}
	w.index.Fixed, w.index.Created = w.fixed, time.Now().Unix()
	_, _ = rand.Read(w.index.UUID[:]) // never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	_, taken := s.files[w.name]
	for _, o := range s.writers {
		taken = taken || o.name == w.name
	}
	switch {
	case taken:
		return 0, badRequest("archive '%s' is there already", w.name)
	case len(s.files)+len(s.writers) >= maxFiles || s.lastID >= maxWriters:
		return 0, badRequest("too many archives in one snapshot")
	}
	s.lastID++
	s.writers[s.lastID] = w
	return s.lastID, nil
}

func (s *session) openDynamic(name string) (int, error) { return s.open(&writer{name: name}) }

// openFixed makes a writer of an image of size bytes; of unknown size if that is negative. With reuse, it begins
// with the chunks of the previous index of that checksum.
func (s *session) openFixed(ctx context.Context, name string, size int64, reuse string) (int, error) {
	w := &writer{name: name, fixed: true, sized: size >= 0}
	w.index.ChunkSize = format.FixedChunk
	if size > format.MaxFixed {
		return 0, badRequest("an image of %d bytes; at most %d are supported", size, int64(format.MaxFixed))
	}
	if w.sized {
		w.index.Size = uint64(size)
	}
	if reuse != "" {
		if err := s.copyPrevious(ctx, w, reuse); err != nil {
			return 0, err
		}
	}
	return s.open(w)
}

// copyPrevious fills w with the chunks of the previous index of its name.
func (s *session) copyPrevious(ctx context.Context, w *writer, csum string) error {
	if s.previous == nil {
		return badRequest("reuse-csum: no valid previous backup")
	}
	f, ok := s.previous.file(w.name)
	if !ok || !strings.HasSuffix(w.name, ".fidx") {
		return badRequest("reuse-csum: the previous backup has no %s", w.name)
	}
	x, _, err := s.store.index(ctx, f)
	if err != nil {
		return err
	}
	if got := csumText(x.Csum()); got != csum {
		return badRequest("expected csum (%s) doesn't match last backup's (%s), cannot do incremental backup", csum, got)
	}
	if w.sized && w.index.Size != x.Size {
		return badRequest("cannot reuse index - size mismatch: %d != %d", w.index.Size, x.Size)
	}
	for _, digest := range x.Digests {
		if _, ok := s.base.Find(digest); !ok {
			return badRequest("cannot reuse index - chunk %x is not held", digest)
		}
	}
	w.incremental, w.sized = true, true
	w.index.Size, w.index.ChunkSize, w.index.Digests = x.Size, x.ChunkSize, x.Digests
	w.filled = slices.Repeat([]bool{true}, len(x.Digests))
	return nil
}

// takes says whether a chunk of size bytes may be uploaded for w, which is nil if there is no such writer.
func (w *writer) takes(id int, fixed bool, size uint64) error {
	kind, limit := "dynamic", uint64(format.MaxChunk)
	if fixed {
		kind = "fixed"
	}
	if w == nil || w.fixed != fixed {
		return badRequest("%s writer '%d' not registered", kind, id)
	}
	if fixed {
		limit = w.index.ChunkSize
	}
	if size == 0 || size > limit {
		return badRequest("%s writer '%d' - got a chunk of %d bytes, at most %d are allowed", kind, id, size, limit)
	}
	return nil
}

// add appends chunks, which must be known, at offsets.
func (s *session) add(id int, fixed bool, digests [][32]byte, offsets []uint64) error {
	if len(digests) != len(offsets) {
		return badRequest("offset list has wrong length (%d != %d)", len(digests), len(offsets))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writers[id]
	for i, digest := range digests {
		c, ok := s.known[digest]
		if !ok {
			return badRequest("no such chunk %x", digest)
		}
		if err := w.takes(id, fixed, uint64(c.Size)); err != nil {
			return err
		}
		var err error
		if fixed {
			err = w.addFixed(id, digest, offsets[i], uint64(c.Size))
		} else {
			err = w.addDynamic(id, digest, offsets[i], uint64(c.Size))
		}
		if err != nil {
			return err
		}
		w.appended++
	}
	return nil
}

func (w *writer) addDynamic(id int, digest [32]byte, offset, size uint64) error {
	x := &w.index
	if offset != x.Size {
		return badRequest("dynamic writer '%d' append chunk failed - got strange chunk offset (%d != %d)", id, x.Size, offset)
	}
	x.Size += size
	x.Ends, x.Digests = append(x.Ends, x.Size), append(x.Digests, digest)
	return nil
}

func (w *writer) addFixed(id int, digest [32]byte, offset, size uint64) error {
	x := &w.index
	if offset%x.ChunkSize != 0 || offset > format.MaxFixed {
		return badRequest("fixed writer '%d' - chunk offset %d is not aligned", id, offset)
	}
	end := offset + size
	if end > format.MaxFixed || w.sized && end > x.Size {
		return badRequest("fixed writer '%d' - a chunk ends at %d, behind the image", id, end)
	}
	switch {
	case size == x.ChunkSize && w.short != 0 && end > w.short:
		return badRequest("fixed writer '%d' - a chunk at %d comes after the last one", id, offset)
	case size == x.ChunkSize:
	case w.sized && end != x.Size, !w.sized && (x.Size > end || w.short != 0 && w.short != end):
		return badRequest("fixed writer '%d' - a chunk of %d bytes at %d is not the last one", id, size, offset)
	default:
		w.short = end
	}
	i := int(offset / x.ChunkSize)
	if n := i + 1 - len(x.Digests); n > 0 {
		x.Digests = append(x.Digests, make([][32]byte, n)...)
		w.filled = append(w.filled, make([]bool, n)...)
		w.holes += n
	}
	if !w.filled[i] {
		w.filled[i] = true
		w.holes--
	}
	x.Digests[i] = digest
	if !w.sized {
		x.Size = max(x.Size, end)
	}
	return nil
}

// close ends an index, whatever comes of it, and makes it a file if all that the client says of it is true.
func (s *session) close(ctx context.Context, id int, fixed bool, count, size uint64, csum [32]byte) error {
	s.mu.Lock()
	w := s.writers[id]
	if w != nil && w.fixed == fixed {
		delete(s.writers, id)
	}
	s.mu.Unlock()
	if w == nil || w.fixed != fixed {
		return w.takes(id, fixed, 1)
	}
	x := &w.index
	if want := w.appended; count != want {
		return badRequest("'%s' close failed - received wrong number of chunk (%d != %d)", w.name, want, count)
	}
	// Of an image that began as a copy, clients say how much they sent.
	if x.Size != size && !w.incremental {
		return badRequest("'%s' close failed - unexpected file size (%d != %d)", w.name, x.Size, size)
	}
	if fixed && (w.holes > 0 || uint64(len(x.Digests)) != format.Chunks(x.Size, x.ChunkSize)) {
		return badRequest("'%s' close failed - chunks are missing", w.name)
	}
	if got := x.Csum(); got != csum {
		return badRequest("'%s' close failed - got unexpected checksum (%x != %x)", w.name, got, csum)
	}
	return s.putFile(ctx, w.name, x.Size, x.Encode(), func() {
		for _, digest := range x.Digests {
			s.know(digest) // of an index that was copied
			s.used[digest] = struct{}{}
		}
	})
}
