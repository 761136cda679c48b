package server

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// recheckEvery is after how many received bytes an upload asks whether another client has finished
// the same blob meanwhile.
const recheckEvery = 8 << 20

// byteStreamPrefix is how the full names of ByteStream's calls begin.
const byteStreamPrefix = "/google.bytestream.ByteStream/"

type byteStream struct {
	*Server
	bytestream.UnimplementedByteStreamServer
}

// Read sends a blob, or a part of it, in chunks.
func (b *byteStream) Read(req *bytestream.ReadRequest, stream bytestream.ByteStream_ReadServer) error {
	if b.scheduler != nil && strings.HasPrefix(req.GetResourceName(), "logstreams/") {
		return b.readLog(req, stream)
	}
	name, err := parseRead(req.GetResourceName())
	if err != nil {
		return err
	}
	offset, limit := req.GetReadOffset(), req.GetReadLimit()
	switch {
	case offset < 0:
		return status.Errorf(codes.OutOfRange, "read_offset: %d is negative", offset)
	case limit < 0:
		return invalid("read_limit: %d is negative", limit)
	case name.compressed && limit != 0:
		return invalid("read_limit: %d, but a compressed blob can't be read in part", limit)
	}
	r, err := b.store.Open(stream.Context(), name.digest)
	if errors.Is(err, blob.ErrNotFound) {
		return status.Errorf(codes.NotFound, "resource_name: blob %s is not here", name.digest)
	}
	if err != nil {
		return err
	}
	left := r.Size() - offset
	if left >= 0 && limit != 0 {
		left = min(left, limit)
	}
	send := func(stream grpc.ServerStream) error {
		defer r.Close()
		switch {
		case left < 0:
			return status.Errorf(codes.OutOfRange, "read_offset: %d is beyond the end of the blob of %d bytes", offset, r.Size())
		case name.compressed:
			return b.sendCompressed(stream, r, name.digest, offset)
		}
		return b.send(stream, r, name.digest, offset, left)
	}
	if left <= oneMessage {
		return send(stream)
	}
	return b.watch(stream, func(w *watchedStream) error { return send(w) })
}

// oneMessage is how much of a blob fits into one ReadResponse, compressed or not.
const oneMessage = chunkSize / 2

// send sends n bytes of the blob from offset on.
func (b *byteStream) send(stream grpc.ServerStream, r blob.Reader, d digest.Digest, offset, n int64) error {
	for end := offset + n; offset < end; {
		data := buffers.Get(int(min(end-offset, chunkSize)))
		if err := readAt(r, d, *data, offset); err != nil {
			buffers.Put(data)
			return err
		}
		sent := len(*data)
		if err := stream.SendMsg(&readResponse{mem.NewBuffer(data, buffers)}); err != nil {
			return err
		}
		b.metrics.sent.add(sent, false)
		offset += int64(sent)
	}
	return nil
}

// readAt fills p with the blob's bytes at offset.
func readAt(r io.ReaderAt, d digest.Digest, p []byte, offset int64) error {
	n, err := r.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = blob.ErrCorrupt // shorter than its size
	}
	return &blob.Error{Op: "read", Digest: d, Err: err}
}

// sendCompressed sends what follows offset as one zstd frame.
func (b *byteStream) sendCompressed(stream grpc.ServerStream, r blob.Reader, d digest.Digest, offset int64) error {
	out := &chunkWriter{server: b.Server, stream: stream}
	defer out.free()
	if offset == r.Size() {
		// The encoder writes nothing for no bytes, but nothing is no frame.
		if _, err := out.Write(emptyFrame); err != nil {
			return err
		}
		return out.flush()
	}
	w := zstd.NewWriter(out)
	plain := buffers.Get(int(min(r.Size()-offset, chunkSize)))
	defer buffers.Put(plain)
	for offset < r.Size() {
		data := (*plain)[:min(int64(len(*plain)), r.Size()-offset)]
		err := readAt(r, d, data, offset)
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			w.Close()
			return err
		}
		offset += int64(len(data))
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.flush()
}

// emptyFrame is the zstd frame of no bytes: magic, a header that states the size 0, one empty raw
// block that is the last (RFC 8878, section 3.1.1).
var emptyFrame = []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00}

// A chunkWriter sends what is written to it, which is compressed, in chunks.
type chunkWriter struct {
	server *Server
	stream grpc.ServerStream
	chunk  *[]byte
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if w.chunk == nil {
			w.chunk = buffers.Get(chunkSize)
			*w.chunk = (*w.chunk)[:0]
		}
		n := min(len(p), chunkSize-len(*w.chunk))
		*w.chunk = append(*w.chunk, p[:n]...)
		p, written = p[n:], written+n
		if len(*w.chunk) == chunkSize {
			if err := w.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

func (w *chunkWriter) flush() error {
	if w.chunk == nil {
		return nil
	}
	n := len(*w.chunk)
	data := mem.NewBuffer(w.chunk, buffers)
	w.chunk = nil
	if err := w.stream.SendMsg(&readResponse{data}); err != nil {
		return err
	}
	w.server.metrics.sent.add(n, true)
	return nil
}

func (w *chunkWriter) free() {
	if w.chunk != nil {
		buffers.Put(w.chunk)
		w.chunk = nil
	}
}

// Write takes a blob. It answers at once when the blob is present, whoever wrote it.
func (b *byteStream) Write(stream bytestream.ByteStream_WriteServer) error {
	in := &incoming{stream: stream, received: &b.metrics.received}
	write := func() error {
		defer in.msg.free()
		return b.write(in)
	}
	if err := in.first(); err != nil {
		in.msg.free()
		return err
	}
	if in.msg.finishWrite {
		return write() // the client has said all
	}
	return b.watch(stream, func(w *watchedStream) error {
		in.stream = w
		return write()
	})
}

// write answers a Write of which the first message is here.
func (b *byteStream) write(in *incoming) error {
	if err := b.checkSize("resource_name", in.name.digest); err != nil {
		return err
	}
	for {
		present, err := b.has(in.stream.Context(), in.name.digest)
		if err != nil {
			return err
		}
		var committed int64
		switch {
		case present:
			b.uploads.forget(in.resourceName)
			committed = in.early()
		case in.name.compressed:
			committed, err = b.writeCompressed(in)
		case in.whole():
			committed, err = b.writeWhole(in)
			b.uploads.forget(in.resourceName)
		default:
			committed, err = b.writeResumable(in)
		}
		if errors.Is(err, errFinished) {
			continue // another stream of this name ended it, so there is a new answer
		}
		if err != nil {
			return aboutName(err)
		}
		return in.stream.SendMsg(&bytestream.WriteResponse{CommittedSize: committed})
	}
}

// aboutName says of what the store refuses that it is about the name under which the bytes came.
func aboutName(err error) error {
	if refused := (*blob.Error)(nil); errors.As(err, &refused) && codeOf(err) == codes.InvalidArgument {
		return inField("resource_name", err)
	}
	return err
}

// checkSize refuses a blob that is larger than this server accepts.
func (s *Server) checkSize(field string, d digest.Digest) error {
	if s.maxBlobSize > 0 && d.Size > s.maxBlobSize {
		return invalid("%s: the blob of %d bytes is larger than max_cas_blob_size_bytes, %d; to take it, raise --max-size", field, d.Size, s.maxBlobSize)
	}
	return nil
}

// writeWhole stores a blob that came in one message, as small ones do: there is nothing to resume.
func (b *byteStream) writeWhole(in *incoming) (committed int64, err error) {
	d := in.name.digest
	w, err := b.store.Create(in.stream.Context(), d)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	if _, err := w.Write(in.msg.data); err != nil {
		return 0, err
	}
	return d.Size, w.Commit()
}

// writeResumable stores a blob that comes in several messages, and keeps what came if the stream
// breaks.
func (b *byteStream) writeResumable(in *incoming) (committed int64, err error) {
	d, ctx := in.name.digest, in.stream.Context()
	u, claim := b.uploads.claim(in.resourceName, d)
	defer b.uploads.release(u, claim)
	received, err := u.begin(ctx, b.store, claim)
	if err != nil {
		return 0, err
	}
	if in.start > received {
		// INVALID_ARGUMENT would make clients give up an upload that only has to go back: the kept
		// part may have been dropped after they asked for it.
		return 0, status.Errorf(codes.Unavailable, "write_offset: %d is beyond the committed size, which is %d; go on from there", in.start, received)
	}
	recheck := received + recheckEvery
	for {
		received, err = u.write(claim, in.msg.writeOffset, in.msg.data)
		if err != nil {
			return 0, err
		}
		if in.msg.finishWrite {
			return d.Size, u.commit(claim)
		}
		if received >= recheck {
			recheck = received + recheckEvery
			if present, err := b.has(ctx, d); err != nil {
				return 0, err
			} else if present {
				u.abandon(claim)
				return in.early(), nil
			}
		}
		err = in.next()
		if errors.Is(err, io.EOF) && received == d.Size {
			// finish_write was forgotten. Clients take a committed size that is the whole for success, so
			// let it be one.
			return d.Size, u.commit(claim)
		}
		if errors.Is(err, io.EOF) {
			return received, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// writeCompressed stores a blob that comes compressed. Its state is a decoder's, so it can't be
// resumed: the next attempt starts at 0.
func (b *byteStream) writeCompressed(in *incoming) (committed int64, err error) {
	d, ctx := in.name.digest, in.stream.Context()
	if in.start != 0 {
		return 0, status.Errorf(codes.Unavailable, "write_offset: %d is beyond the committed size, which is 0: compressed uploads start again", in.start)
	}
	w, err := b.store.Create(ctx, d)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	r := zstd.NewReader(in, d.Size)
	defer r.Close()
	plain := buffers.Get(int(min(d.Size, 256<<10)))
	defer buffers.Put(plain)
	var size, rechecked int64
	for {
		n, readErr := r.Read(*plain)
		if _, err := w.Write((*plain)[:n]); err != nil {
			return 0, err
		}
		size += int64(n)
		if in.err != nil && !errors.Is(in.err, io.EOF) {
			return 0, in.err
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil && in.unfinished() {
			return 0, nil // the client stopped in the middle of a frame
		}
		if readErr != nil {
			return 0, invalid("data: %v (of %d bytes declared, %d came out)", readErr, d.Size, size)
		}
		if size-rechecked >= recheckEvery {
			rechecked = size
			if present, err := b.has(ctx, d); err != nil {
				return 0, err
			} else if present {
				return in.early(), nil
			}
		}
	}
	if size < d.Size && in.unfinished() {
		return 0, nil
	}
	if size < d.Size {
		return 0, &blob.Error{Op: "write", Digest: d, Err: blob.Mismatch(d, digest.Digest{Function: d.Function, Size: size})}
	}
	return in.expect, w.Commit()
}

// QueryWriteStatus says how much of an upload is here. An unknown one has 0 bytes and isn't complete:
// for NOT_FOUND, which bytestream.proto asks for, Bazel fails the upload instead of starting it again.
func (b *byteStream) QueryWriteStatus(ctx context.Context, req *bytestream.QueryWriteStatusRequest) (*bytestream.QueryWriteStatusResponse, error) {
	name, err := parseWrite(req.GetResourceName())
	if err != nil {
		return nil, err
	}
	present, err := b.has(ctx, name.digest)
	if err != nil {
		return nil, err
	}
	if present {
		return &bytestream.QueryWriteStatusResponse{CommittedSize: name.digest.Size, Complete: true}, nil
	}
	return &bytestream.QueryWriteStatusResponse{CommittedSize: b.uploads.received(req.GetResourceName())}, nil
}
