package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"

	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// chunkSize is how much of a blob one WriteRequest carries, in bytes.
const chunkSize = 256 << 10

// An upload is one ByteStream.Write.
type upload struct {
	guard   *guard
	stream  grpc.ClientStreamingClient[bspb.WriteRequest, bspb.WriteResponse]
	request bspb.WriteRequest
	early   bool // the server answered before the end
}

func (s *Store) upload(ctx context.Context, d digest.Digest) (*upload, error) {
	u := &upload{guard: s.guard(ctx)}
	u.request.ResourceName = s.writeName(d)
	var err error
	if u.stream, err = s.stream.Write(u.guard.ctx); err != nil {
		u.guard.cancel()
		return nil, err
	}
	return u, nil
}

// write sends the next bytes. After an early answer they are for nobody.
func (u *upload) write(data []byte, last bool) error {
	if u.early {
		return nil
	}
	u.request.Data, u.request.FinishWrite = data, last
	err := u.guard.wait(func() error { return u.stream.Send(&u.request) })
	if errors.Is(err, io.EOF) {
		u.early = true // it has the blob, or refuses it: the answer says which
		return nil
	}
	u.request.ResourceName = ""
	u.request.WriteOffset += int64(len(data))
	return err
}

// finish returns what the server made of an upload of size bytes.
func (u *upload) finish(size int64) error {
	defer u.guard.cancel()
	var answer *bspb.WriteResponse
	err := u.guard.wait(func() (err error) {
		answer, err = u.stream.CloseAndRecv()
		return err
	})
	if err == nil && answer.CommittedSize != size {
		return status.Errorf(codes.Aborted, "the server committed %d of %d bytes", answer.CommittedSize, size)
	}
	return err
}

// send stores data as d by one stream.
func (s *Store) send(ctx context.Context, d digest.Digest, data []byte) error {
	u, err := s.upload(ctx, d)
	if err != nil {
		return err
	}
	defer u.guard.cancel()
	for last := false; !last; {
		chunk := data[:min(len(data), chunkSize)]
		data = data[len(chunk):]
		last = len(data) == 0
		if err := u.write(chunk, last); err != nil {
			return err
		}
	}
	return u.finish(d.Size)
}

// Create implements blob.Store. A blob of up to 1 MiB is collected in memory and stored by Commit, which
// tries again while the server can't be reached. A larger one is streamed, and when the stream breaks
// the Writer fails with blob.ErrAborted: its first bytes are gone, so the caller has to begin anew.
// That the server holds the hash with another size shows at Commit.
func (s *Store) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	l, err := s.limits(ctx)
	if err == nil {
		err = l.takes("create", d)
	}
	if err != nil {
		return nil, fail("create", d, err, writing)
	}
	w := &writer{store: s, d: d, ctx: context.WithoutCancel(ctx)}
	w.pending = make([]byte, 0, min(d.Size, chunkSize))
	if d.Size <= small {
		w.pending = make([]byte, 0, d.Size)
	}
	return w, nil
}

// A writer collects a small blob whole, and of a large one the next chunk. The last chunk stays until
// Commit, so that a Writer that is closed without it stores nothing.
type writer struct {
	store   *Store
	d       digest.Digest
	ctx     context.Context
	pending []byte
	taken   int64 // bytes
	upload  *upload
	failed  error
	done    bool
}

func (w *writer) Write(p []byte) (n int, err error) {
	switch {
	case w.done:
		return 0, fail("write", w.d, blob.ErrClosed, writing)
	case w.failed != nil:
		return 0, w.failed
	case int64(len(p)) > w.d.Size-w.taken:
		w.failed = fail("write", w.d, fmt.Errorf("%w: more than the declared %d bytes", blob.ErrMismatch, w.d.Size), writing)
		return 0, w.failed
	}
	for n < len(p) {
		if len(w.pending) == cap(w.pending) {
			if w.failed = fail("write", w.d, w.flush(false), writing); w.failed != nil {
				return n, w.failed
			}
		}
		c := min(len(p)-n, cap(w.pending)-len(w.pending))
		w.pending = append(w.pending, p[n:n+c]...)
		n += c
		w.taken += int64(c)
	}
	return n, nil
}

// flush sends what was collected.
func (w *writer) flush(last bool) error {
	if w.upload == nil {
		var err error
		if w.upload, err = w.store.upload(w.ctx, w.d); err != nil {
			return err
		}
	}
	err := w.upload.write(w.pending, last)
	w.pending = w.pending[:0]
	return err
}

func (w *writer) Commit() error {
	if w.done {
		return fail("commit", w.d, blob.ErrClosed, writing)
	}
	defer w.Close()
	switch {
	case w.failed != nil:
		return w.failed
	case w.taken != w.d.Size:
		return fail("commit", w.d, blob.Mismatch(w.d, digest.Digest{Function: w.d.Function, Size: w.taken}), writing)
	case w.d.Size <= small:
		return w.store.PutAll(w.ctx, []digest.Digest{w.d}, [][]byte{w.pending})[0]
	}
	err := w.flush(true)
	if err == nil {
		err = w.upload.finish(w.d.Size)
	}
	return fail("commit", w.d, err, writing)
}

func (w *writer) Close() error {
	w.done = true
	if w.upload != nil {
		w.upload.guard.cancel()
	}
	return nil
}
