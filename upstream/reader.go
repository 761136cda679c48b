package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	bspb "google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// A download is one blob, or a range of it, read in order. When its stream breaks it goes on with
// another from where it was.
type download struct {
	store *Store
	d     digest.Digest
	ctx   context.Context
	next  int64     // the offset of the first byte that has not come
	end   int64     // where it ends
	hash  hash.Hash // of a whole blob, else nil

	guard  *guard
	stream grpc.ServerStreamingClient[bspb.ReadResponse]
	more   []byte // what came and was not taken
	failed error  // the bytes were not what they should be
}

// download begins to read [from, to) of the blob; the whole is verified.
func (s *Store) download(ctx context.Context, d digest.Digest, from, to int64) *download {
	r := &download{store: s, d: d, ctx: ctx, next: from, end: to}
	if from == 0 && to == d.Size {
		r.hash = d.Function.NewHash()
	}
	return r
}

// fill makes sure that some bytes have come, and returns io.EOF at the end. At the end of a whole blob
// its bytes are compared with the digest, and the last of them are not given out before.
func (r *download) fill() error {
	if r.failed != nil || len(r.more) > 0 {
		return r.failed
	}
	if r.next == r.end {
		return io.EOF
	}
	p := r.store.patience()
	for {
		data, err := r.receive()
		if err == nil {
			r.failed = r.take(data)
			return r.failed
		}
		r.close()
		if !p.again(r.ctx, err) {
			return err
		}
	}
}

// receive returns the next bytes of the stream, which it opens if there is none.
func (r *download) receive() (data []byte, err error) {
	if r.stream == nil {
		request := &bspb.ReadRequest{ResourceName: r.store.readName(r.d), ReadOffset: r.next}
		if r.end < r.d.Size {
			request.ReadLimit = r.end - r.next
		}
		r.guard = r.store.guard(r.ctx)
		if r.stream, err = r.store.stream.Read(r.guard.ctx, request, grpc.MaxCallRecvMsgSize(maxReceive)); err != nil {
			return nil, err
		}
	}
	for len(data) == 0 {
		err := r.guard.wait(func() error {
			message, err := r.stream.Recv()
			data = message.GetData()
			return err
		})
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: the server sent %d bytes", blob.ErrCorrupt, r.next)
		}
		if err != nil {
			return nil, err
		}
	}
	return data, nil
}

// take accounts for what came.
func (r *download) take(data []byte) error {
	if int64(len(data)) > r.end-r.next {
		return fmt.Errorf("%w: the server sent more than the %d bytes asked for", blob.ErrCorrupt, r.end)
	}
	r.next += int64(len(data))
	if r.hash != nil {
		r.hash.Write(data)
		if r.next == r.end {
			if got := sum(r.d.Function, r.hash, r.next); got != r.d && !mutant.StreamBelieved {
				return corrupt(r.d, got)
			}
		}
	}
	if r.more = data; r.next == r.end {
		r.close()
	}
	return nil
}

func sum(f digest.Function, h hash.Hash, size int64) digest.Digest {
	d := digest.Digest{Function: f, Size: size}
	h.Sum(d.Hash[:0])
	return d
}

// close ends the stream.
func (r *download) close() {
	if r.guard != nil {
		r.guard.cancel()
	}
	r.stream, r.guard = nil, nil
}

// offset returns where the next byte that read returns lies.
func (r *download) offset() int64 { return r.next - int64(len(r.more)) }

// read fills p as far as the blob goes.
func (r *download) read(p []byte) (n int, err error) {
	for n < len(p) {
		if err := r.fill(); err != nil {
			return n, err
		}
		c := copy(p[n:], r.more)
		n, r.more = n+c, r.more[c:]
	}
	return n, nil
}

// Open implements blob.Store. A blob of up to 1 MiB is fetched at once and whole. A larger one is
// streamed from its start, as far as the reader keeps up: reading on where the last ReadAt ended is one
// stream, and other places are read as ranges of their own. ctx governs this call only;
// to end a ReadAt that waits, Close the Reader.
func (s *Store) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if err := sized("open", d); err != nil {
		return nil, err
	}
	if d.Size <= small {
		data, errs := s.GetAll(ctx, []digest.Digest{d})
		if errs[0] != nil {
			return nil, errs[0]
		}
		return &whole{data[0]}, nil
	}
	// The stream outlives the call, but a call that is given up ends it.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	r := &reader{store: s, d: d, ctx: life, cancel: cancel, turn: make(chan struct{}, 1)}
	r.inOrder = s.download(life, d, 0, d.Size)
	err := r.inOrder.fill() // says whether the blob is there
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, fail("open", d, err, reading)
	}
	return r, nil
}

// A whole is a small blob in memory.
type whole struct{ data []byte }

func (w *whole) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(w.data)) {
		return 0, outside(off)
	}
	n := copy(p, w.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (w *whole) Size() int64  { return int64(len(w.data)) }
func (w *whole) Close() error { return nil }

// outside returns what a ReadAt at off outside of a blob returns.
func outside(off int64) error {
	if off < 0 {
		return fmt.Errorf("%w: offset %d is negative", blob.ErrInvalid, off)
	}
	return io.EOF
}

// A reader reads a blob that stays on the server.
type reader struct {
	store  *Store
	d      digest.Digest
	ctx    context.Context
	cancel context.CancelFunc

	turn    chan struct{} // held by who reads in order, or sees whether it does
	inOrder *download
	ended   int64 // where the last range ended
}

func (r *reader) Size() int64 { return r.d.Size }

func (r *reader) Close() error {
	r.cancel()
	return nil
}

// ReadAt implements io.ReaderAt. Reading from 0 on begins anew, so that this too is verified.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.d.Size {
		return 0, outside(off)
	}
	want := p[:min(int64(len(p)), r.d.Size-off)]
	n, err := r.readAt(want, off)
	if err != nil {
		if r.ctx.Err() != nil {
			err = blob.ErrClosed
		}
		return n, fail("read", r.d, err, reading)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *reader) readAt(p []byte, off int64) (int, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
		// Who goes on from a range reads in order from there.
		if at := r.inOrder.offset(); at != off && (off == 0 || off == r.ended) {
			r.inOrder.close()
			r.inOrder = r.store.download(r.ctx, r.d, off, r.d.Size)
		}
		if r.inOrder.offset() == off {
			return r.inOrder.read(p)
		}
		r.ended = off + int64(len(p))
	default: // somebody else reads in order
	}
	part := r.store.download(r.ctx, r.d, off, off+int64(len(p)))
	defer part.close()
	return part.read(p)
}
