package server

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that newCodec hands on to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/internal/wire"
)

// The codec moves the bytes of blobs without copying them through generated messages, which allocate
// each chunk anew. A few messages have hand-written twins, and all others are left to the generated
// code. What is on the wire is the same.
type codec struct{ proto encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// A marshaler encodes itself. gRPC frees the buffers.
type marshaler interface{ marshal() mem.BufferSlice }

// An unmarshaler decodes itself from data that it owns from then on and has to free.
type unmarshaler interface{ unmarshal(data mem.Buffer) error }

// Name implements encoding.CodecV2.
func (c codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(marshaler); ok {
		return m.marshal(), nil
	}
	m, ok := v.(proto.Message)
	size := 0
	if ok {
		size = proto.Size(m)
	}
	if mem.IsBelowBufferPoolingThreshold(size) {
		return c.proto.Marshal(v)
	}
	// The generated code takes its memory from gRPC's own pool.
	data := buffers.Get(size)
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*data)[:0], m)
	if err != nil {
		buffers.Put(data)
		return nil, err
	}
	*data = b
	return mem.BufferSlice{mem.NewBuffer(data, buffers)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	// In one piece, the generated code has no need for gRPC's own pool.
	whole := data.MaterializeToBuffer(buffers)
	if m, ok := v.(unmarshaler); ok {
		return m.unmarshal(whole)
	}
	defer whole.Free()
	return c.proto.Unmarshal(mem.BufferSlice{whole}, v)
}

// The field numbers of bytestream.proto.
const (
	readResponseData = 10

	writeRequestResourceName = 1
	writeRequestWriteOffset  = 2
	writeRequestFinishWrite  = 3
	writeRequestData         = 10
)

// A readResponse is a bytestream.ReadResponse whose data go to the network as they are.
type readResponse struct{ data mem.Buffer }

func (m *readResponse) marshal() mem.BufferSlice {
	head := protowire.AppendTag(make([]byte, 0, 8), readResponseData, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(m.data.Len()))
	return mem.BufferSlice{mem.SliceBuffer(head), m.data}
}

// A writeRequest is a bytestream.WriteRequest whose data lie in the buffer in which they came.
type writeRequest struct {
	resourceName string
	writeOffset  int64
	finishWrite  bool
	data         []byte // until the next unmarshal or free

	buffer mem.Buffer
}

// free gives the buffer back. It may be called twice.
func (m *writeRequest) free() {
	if m.buffer != nil {
		m.buffer.Free()
	}
	*m = writeRequest{}
}

func (m *writeRequest) unmarshal(data mem.Buffer) error {
	m.free()
	m.buffer = data
	return wire.Scan(data.ReadOnlyData(), func(f wire.Field) error {
		switch {
		case f.Is(writeRequestResourceName, protowire.BytesType):
			m.resourceName = string(f.Bytes)
		case f.Is(writeRequestWriteOffset, protowire.VarintType):
			m.writeOffset = int64(f.Number)
		case f.Is(writeRequestFinishWrite, protowire.VarintType):
			m.finishWrite = f.Number != 0
		case f.Is(writeRequestData, protowire.BytesType):
			m.data = f.Bytes
		}
		return nil
	})
}

// buffers is a pool that hands out memory as it was left. gRPC's own clears what it hands out and has
// nothing between 32 KiB and 1 MiB, which for a blob of 100 KiB costs more than reading it.
var buffers = new(bufferPool)

const (
	smallestBuffer = 12 // powers of two: 4 KiB
	largestBuffer  = 22 // a client's message of 1 MiB of data is a little longer than that
)

type bufferPool struct {
	pools [largestBuffer - smallestBuffer + 1]sync.Pool
}

// Get implements mem.BufferPool. What the slice holds is arbitrary.
func (p *bufferPool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), smallestBuffer)
	if class > largestBuffer {
		b := make([]byte, length)
		return &b
	}
	b, ok := p.pools[class-smallestBuffer].Get().(*[]byte)
	if !ok {
		fresh := make([]byte, 1<<class)
		b = &fresh
	}
	*b = (*b)[:length]
	return b
}

// Put implements mem.BufferPool.
func (p *bufferPool) Put(b *[]byte) {
	class := bits.Len(uint(cap(*b)) - 1)
	if class < smallestBuffer || class > largestBuffer || cap(*b) != 1<<class {
		return
	}
	p.pools[class-smallestBuffer].Put(b)
}
