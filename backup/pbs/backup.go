package pbs

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/internal/refusal"
)

// A backupCalls is the writer's side of the protocol on one connection.
type backupCalls struct {
	server  *Server
	session *session
}

func (b *backupCalls) end() { b.session.end() }

// beginBackup checks what an upgrade to the backup protocol asks for.
func (s *Server) beginBackup(ctx context.Context, p *params, a *Account) (protocol, error) {
	d, err := s.datastoreOf(p, a)
	if err != nil {
		return nil, err
	}
	name, err := p.snapshotName()
	if err != nil {
		return nil, err
	}
	if !a.may(d.Name, name.ns, Backup) {
		return nil, forbidden("backup")
	}
	bench, err := p.truth("benchmark")
	if err != nil {
		return nil, err
	}
	if bench && (name.kind != "host" || name.id != "benchmark") {
		return nil, badRequest("unable to run benchmark without --benchmark flags: the group must be host/benchmark")
	}
	ss, err := d.beginBackup(ctx, name, a, bench)
	if err != nil {
		return nil, err
	}
	s.log.Info("backup began", "store", d.Name, "ns", name.ns, "backup", name.String(), "by", a.Name)
	return &backupCalls{s, ss}, nil
}

// ServeHTTP answers one call.
func (b *backupCalls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Method + " " + cleanPath(r.URL.Path)
	b.server.answer(w, r, func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
		if name == "POST /finish" {
			return nil, b.finish(ctx)
		}
		c, ok := b.calls()[name]
		if !ok {
			return nil, refusal.New(http.StatusNotFound, "Path '%s' not found.", name)
		}
		if err := b.session.enter(); err != nil {
			return nil, err
		}
		defer b.session.calls.Done()
		return c(ctx, w, r)
	})
}

func (b *backupCalls) calls() map[string]call {
	return map[string]call{
		"GET /previous":             b.previous,
		"GET /previous_backup_time": b.previousTime,
		"POST /dynamic_index":       b.openIndex(false),
		"POST /fixed_index":         b.openIndex(true),
		"PUT /dynamic_index":        b.addChunks(false),
		"PUT /fixed_index":          b.addChunks(true),
		"POST /dynamic_chunk":       b.chunk(false),
		"POST /fixed_chunk":         b.chunk(true),
		"POST /dynamic_close":       b.closeIndex(false),
		"POST /fixed_close":         b.closeIndex(true),
		"POST /blob":                b.blob,
		"POST /speedtest":           discard,
	}
}

func (b *backupCalls) finish(ctx context.Context) error {
	s := b.session
	if err := s.finish(ctx); err != nil {
		return err
	}
	b.server.log.Info("backup finished", "store", s.store.Name, "ns", s.name.ns, "backup", s.name.String(), "by", s.author)
	return nil
}

func (b *backupCalls) previous(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := paramsOf(r, false)
	if err != nil {
		return nil, err
	}
	name, err := p.need("archive-name")
	if err != nil {
		return nil, err
	}
	data, err := b.session.previousFile(ctx, name)
	if err != nil {
		return nil, err
	}
	return sent, writeBytes(w, data)
}

func (b *backupCalls) previousTime(context.Context, http.ResponseWriter, *http.Request) (any, error) {
	if b.session.previous == nil {
		return nil, nil
	}
	return b.session.previous.name.time, nil
}

func (b *backupCalls) openIndex(fixed bool) call {
	return func(ctx context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
		p, err := paramsOf(r, true)
		if err != nil {
			return nil, err
		}
		name, err := p.need("archive-name")
		if err != nil {
			return nil, err
		}
		if !fixed {
			return b.session.openDynamic(name)
		}
		size, ok, err := p.number("size")
		if err != nil {
			return nil, err
		}
		if !ok {
			size = -1
		}
		reuse, _ := p.text("reuse-csum")
		return b.session.openFixed(ctx, name, size, reuse)
	}
}

func (b *backupCalls) addChunks(fixed bool) call {
	return func(_ context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
		p, err := paramsOf(r, true)
		if err != nil {
			return nil, err
		}
		id, err := p.needNumber("wid")
		if err != nil {
			return nil, err
		}
		var texts []string
		var offsets []uint64
		if err := p.list("digest-list", &texts); err != nil {
			return nil, err
		}
		if err := p.list("offset-list", &offsets); err != nil {
			return nil, err
		}
		digests := make([][32]byte, len(texts))
		for i, text := range texts {
			if digests[i], err = parseDigest(text); err != nil {
				return nil, err
			}
		}
		return nil, b.session.add(int(id), fixed, digests, offsets)
	}
}

func (b *backupCalls) chunk(fixed bool) call {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
		p, err := paramsOf(r, false)
		if err != nil {
			return nil, err
		}
		id, err := p.needNumber("wid")
		if err != nil {
			return nil, err
		}
		size, err := p.needNumber("size")
		if err != nil {
			return nil, err
		}
		name, err := p.digest("digest")
		if err != nil {
			return nil, err
		}
		if size > format.MaxChunk {
			return nil, badRequest("a chunk of %d bytes, at most %d are allowed", size, format.MaxChunk)
		}
		body, free, err := b.body(ctx, w, r, p, format.MaxChunk+format.EncryptedHeaderSize)
		if err != nil {
			return nil, err
		}
		defer free()
		return csumText(name), b.session.takeChunk(ctx, int(id), fixed, name, size, body)
	}
}

func (b *backupCalls) blob(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := paramsOf(r, false)
	if err != nil {
		return nil, err
	}
	name, err := p.need("file-name")
	if err != nil {
		return nil, err
	}
	body, free, err := b.body(ctx, w, r, p, format.MaxChunk+format.EncryptedHeaderSize)
	if err != nil {
		return nil, err
	}
	defer free()
	return nil, b.session.takeBlob(ctx, name, body)
}

// bodyWithin is how long one upload may take. A chunk over a line of 256 kbit/s takes 9 minutes.
const bodyWithin = 10 * time.Minute

// body reads an upload of encoded-size bytes. Until free is called, it counts as one that is in memory.
func (b *backupCalls) body(ctx context.Context, w http.ResponseWriter, r *http.Request, p *params, limit int64) (data []byte, free func(), err error) {
	size, err := p.needNumber("encoded-size")
	if err != nil {
		return nil, nil, err
	}
	if size > limit || r.ContentLength >= 0 && r.ContentLength != size {
		return nil, nil, badRequest("encoded-size is %d and the body has %d bytes; at most %d are allowed", size, r.ContentLength, limit)
	}
	turns := []chan struct{}{b.session.uploadsAtOnce, b.server.bodies}
	for i, turn := range turns {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			if i > 0 {
				<-turns[0]
			}
			return nil, nil, ctx.Err()
		}
	}
	free = func() { <-turns[1]; <-turns[0] }
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWithin))
	data = make([]byte, size)
	if _, err = io.ReadFull(r.Body, data); err == nil {
		if n, _ := r.Body.Read(make([]byte, 1)); n > 0 {
			err = badRequest("the body has more bytes than encoded-size says")
		}
	} else {
		err = badRequest("the body ends too early: %v", err)
	}
	if err != nil {
		free()
		return nil, nil, err
	}
	return data, free, nil
}

// discard answers a test of speed.
func discard(_ context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, bodyError(err)
	}
	return nil, nil
}

func (b *backupCalls) closeIndex(fixed bool) call {
	return func(ctx context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
		p, err := paramsOf(r, true)
		if err != nil {
			return nil, err
		}
		var numbers [3]int64
		for i, name := range []string{"wid", "chunk-count", "size"} {
			if numbers[i], err = p.needNumber(name); err != nil {
				return nil, err
			}
		}
		csum, err := p.digest("csum")
		if err != nil {
			return nil, err
		}
		return nil, b.session.close(ctx, int(numbers[0]), fixed, uint64(numbers[1]), uint64(numbers[2]), csum)
	}
}
