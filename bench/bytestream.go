package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	methodWrite = "/google.bytestream.ByteStream/Write"
	methodRead  = "/google.bytestream.ByteStream/Read"

	// Bytes of a blob in one WriteRequest.
	chunk = 64 * kib
)

// Field numbers of google.bytestream's messages.
const (
	resourceNameField  = 1
	writeOffsetField   = 2
	finishWriteField   = 3
	committedSizeField = 1
	dataField          = 10 // of WriteRequest and ReadResponse
)

var (
	writeStream = &grpc.StreamDesc{StreamName: "Write", ClientStreams: true}
	readStream  = &grpc.StreamDesc{StreamName: "Read", ServerStreams: true}
)

// blobName returns the end of a resource name: blobs/HASH/SIZE.
func (p *payload) blobName() string {
	return "blobs/" + p.hex + "/" + strconv.FormatInt(p.digest.Size, 10)
}

func prefix(instance string) string {
	if instance == "" {
		return ""
	}
	return instance + "/"
}

// write sends p by ByteStream.Write. It stops sending when the server has the blob already.
func (w *worker) write(ctx context.Context, instance string, p *payload) (load, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.conn.NewStream(ctx, writeStream, methodWrite)
	if err != nil {
		return load{}, err
	}
	for offset := int64(0); offset < p.digest.Size; {
		a, b := p.slice(offset, chunk)
		n := int64(len(a) + len(b))
		// gRPC may read the header after SendMsg has returned, so each message has its own.
		header := make([]byte, 0, 32)
		if offset == 0 {
			name := prefix(instance) + "uploads/" + uuid.NewString() + "/" + p.blobName()
			header = make([]byte, 0, 32+len(name))
			header = protowire.AppendTag(header, resourceNameField, protowire.BytesType)
			header = protowire.AppendString(header, name)
		}
		header = protowire.AppendTag(header, writeOffsetField, protowire.VarintType)
		header = protowire.AppendVarint(header, uint64(offset))
		if offset+n == p.digest.Size {
			header = protowire.AppendTag(header, finishWriteField, protowire.VarintType)
			header = protowire.AppendVarint(header, 1)
		}
		header = protowire.AppendTag(header, dataField, protowire.BytesType)
		header = protowire.AppendVarint(header, uint64(n))
		if err := stream.SendMsg(encoded(header, a, b)); err != nil {
			if !errors.Is(err, io.EOF) {
				return load{}, err
			}
			break // the server has answered
		}
		offset += n
	}
	if err := stream.CloseSend(); err != nil {
		return load{}, err
	}
	if err := stream.RecvMsg(&w.answer); err != nil {
		return load{}, err
	}
	return load{1, p.digest.Size}, checkCommitted(w.answer.buffer, p.digest.Size)
}

// checkCommitted checks that an encoded WriteResponse says that all of size was committed.
func checkCommitted(answer []byte, size int64) error {
	var committed int64
	err := eachField(answer, func(number protowire.Number, _ []byte, varint uint64) error {
		if number == committedSizeField {
			committed = int64(varint)
		}
		return nil
	})
	if err == nil && committed != size {
		err = fmt.Errorf("%d of %d bytes were committed", committed, size)
	}
	return err
}

// read gets p by ByteStream.Read, with the encoded ReadRequest for it, and compares the bytes.
func (w *worker) read(ctx context.Context, request *message, p *payload) (load, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.conn.NewStream(ctx, readStream, methodRead)
	if err != nil {
		return load{}, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return load{}, err
	}
	if err := stream.CloseSend(); err != nil {
		return load{}, err
	}
	offset := int64(0)
	for {
		err := stream.RecvMsg(&w.answer)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return load{}, err
		}
		err = eachField(w.answer.buffer, func(number protowire.Number, value []byte, _ uint64) error {
			if number != dataField {
				return nil
			}
			if !p.equal(offset, value) {
				return fmt.Errorf("wrong bytes for %s from offset %d", p.hex, offset)
			}
			offset += int64(len(value))
			return nil
		})
		if err != nil {
			return load{}, err
		}
	}
	if offset != p.digest.Size {
		return load{}, fmt.Errorf("%d of %d bytes of %s came", offset, p.digest.Size, p.hex)
	}
	return load{1, offset}, nil
}

// bytestreamWrite writes distinct blobs of size bytes, or as many as there are requests; when there
// are more requests than blobs, the blobs are sent again.
func bytestreamWrite(size, distinct int) func(context.Context, *session, int) (call, error) {
	return func(_ context.Context, s *session, n int) (call, error) {
		blobs := s.fresh(min(n, distinct), size)
		return func(ctx context.Context, w *worker, i int) (load, error) {
			return w.write(ctx, s.instance, &blobs[i%len(blobs)])
		}, nil
	}
}

// bytestreamRead reads distinct blobs of size bytes, in turn.
func bytestreamRead(size, distinct int) func(context.Context, *session, int) (call, error) {
	return func(ctx context.Context, s *session, n int) (call, error) {
		blobs, err := s.present(ctx, min(n, distinct), size)
		if err != nil {
			return nil, err
		}
		requests := make([]*message, len(blobs))
		for i := range blobs {
			name := prefix(s.instance) + blobs[i].blobName()
			requests[i] = encoded(protowire.AppendString(protowire.AppendTag(nil, resourceNameField, protowire.BytesType), name))
		}
		return func(ctx context.Context, w *worker, i int) (load, error) {
			i %= len(blobs)
			return w.read(ctx, requests[i], &blobs[i])
		}, nil
	}
}
