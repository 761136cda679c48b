package pbs

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A readerCalls is the reader's side of the protocol on one connection: one snapshot, which is held until the
// connection ends.
type readerCalls struct {
	server   *Server
	store    *datastore
	snapshot *snapshot
	chunks   format.ChunkList
	hold     *hold

	ahead *ahead // knows the chunks of the indexes that were downloaded
	stop  context.CancelFunc

	mu      sync.Mutex
	running sync.WaitGroup
	ended   bool
}

func (s *Server) beginReader(ctx context.Context, p *params, a *Account) (protocol, error) {
	d, err := s.datastoreOf(p, a)
	if err != nil {
		return nil, err
	}
	name, err := p.snapshotName()
	if err != nil {
		return nil, err
	}
	if !a.may(d.Name, name.ns, Read) && !a.may(d.Name, name.ns, Backup) {
		return nil, forbidden("read")
	}
	snap, err := d.readable(ctx, name, a)
	if err != nil {
		return nil, err
	}
	c := &readerCalls{server: s, store: d, snapshot: snap, hold: d.newHold()}
	if c.chunks, err = d.chunks(ctx, snap); err != nil {
		return nil, err // nothing is held yet
	}
	c.ahead = &ahead{place: map[[32]byte]int{}, coming: map[[32]byte]*coming{}, read: func(ctx context.Context, chunk format.Chunk) ([]byte, error) {
		return blob.Get(ctx, d.Store, blobOf(chunk))
	}}
	c.ahead.ctx, c.stop = context.WithCancel(s.stopping)
	set, err := snap.blobs(c.chunks)
	if err == nil {
		err = c.hold.keepLeft(ctx, set)
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// end lets go of the snapshot when the last call has returned.
func (c *readerCalls) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
	c.ahead.reads.Wait()
	if err := c.hold.release(context.WithoutCancel(c.server.stopping)); err != nil {
		c.server.log.Warn("what a restore held stays until the next start", "snapshot", c.snapshot.name.String(), "err", err)
	}
}

// ServeHTTP answers one call.
func (c *readerCalls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.server.answer(w, r, func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
		c.mu.Lock()
		ended := c.ended
		if !ended {
			c.running.Add(1)
		}
		c.mu.Unlock()
		if ended {
			return nil, errEnded
		}
		defer c.running.Done()
		switch name := r.Method + " " + cleanPath(r.URL.Path); name {
		case "GET /download":
			return c.download(ctx, w, r)
		case "GET /chunk":
			return c.chunk(ctx, w, r)
		case "GET /speedtest":
			return sent, writeBytes(w, make([]byte, 1<<20))
		default:
			return nil, refusal.New(http.StatusNotFound, "Path '%s' not found.", name)
		}
	})
}

func (c *readerCalls) download(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := paramsOf(r, false)
	if err != nil {
		return nil, err
	}
	name, err := p.need("file-name")
	if err != nil {
		return nil, err
	}
	f, ok := c.snapshot.file(name)
	if !ok {
		return nil, refusal.New(http.StatusNotFound, "no such file: %s", name)
	}
	if isIndex(name) {
		x, _, err := c.store.index(ctx, f)
		if err != nil {
			return nil, err
		}
		c.ahead.add(x, c.chunks)
	}
	d, err := f.Blob.digest()
	if err != nil {
		return nil, err
	}
	return sent, c.store.send(ctx, w, d)
}

func (c *readerCalls) chunk(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := paramsOf(r, false)
	if err != nil {
		return nil, err
	}
	name, err := p.digest("digest")
	if err != nil {
		return nil, err
	}
	chunk, coming, ok := c.ahead.take(name)
	if !ok {
		return nil, refusal.New(http.StatusUnauthorized, "download chunk %x not allowed: download an index that refers to it first", name)
	}
	if coming != nil {
		select {
		case <-coming.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if coming.err == nil {
			return sent, writeBytes(w, coming.data)
		}
	}
	return sent, c.store.send(ctx, w, blobOf(chunk))
}

func blobOf(c format.Chunk) digest.Digest {
	return digest.Digest{Function: digest.SHA256, Hash: c.Blob, Size: int64(c.Stored)}
}

// sendPiece is how much is read and sent at once, and sendWithin how long that may take.
const (
	sendPiece  = 1 << 20
	sendWithin = 5 * time.Minute
)

// send sends a blob. If it breaks off in the middle, so does the stream.
func (d *datastore) send(ctx context.Context, w http.ResponseWriter, b digest.Digest) error {
	r, err := d.Store.Open(ctx, b)
	if err != nil {
		return err
	}
	defer r.Close()
	var piece []byte
	out := http.NewResponseController(w)
	for off := int64(0); off < b.Size; off += int64(len(piece)) {
		piece = append(piece[:0], make([]byte, min(sendPiece, b.Size-off))...)
		if n, err := r.ReadAt(piece, off); n < len(piece) {
			if off == 0 {
				return err
			}
			panic(http.ErrAbortHandler)
		}
		if off == 0 {
			header(w, b.Size)
		}
		_ = out.SetWriteDeadline(time.Now().Add(sendWithin))
		if _, err := w.Write(piece); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}

func header(w http.ResponseWriter, size int64) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
}

func writeBytes(w http.ResponseWriter, b []byte) error {
	header(w, int64(len(b)))
	if _, err := io.Copy(w, bytes.NewReader(b)); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}
