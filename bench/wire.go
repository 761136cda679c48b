package bench

import (
	"bytes"
	"errors"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that ours hands other messages to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sarsen-build/sarsen/client"
	"github.com/sarsen-build/sarsen/digest"
)

// A message is an encoded protobuf message. Sent, it is the bytes of its parts, which gRPC reads
// without copying them; they must not change any more. Received, it is one part, in a buffer that
// the next message received into it overwrites.
type message struct {
	parts  [][]byte
	buffer []byte
}

// encoded returns the message whose encoding is data.
func encoded(data ...[]byte) *message { return &message{parts: data} }

// codec passes messages through as they are, and leaves all others to gRPC's own codec.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	data := make(mem.BufferSlice, len(m.parts))
	for i, part := range m.parts {
		data[i] = mem.SliceBuffer(part)
	}
	return data, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	n := data.Len()
	if cap(m.buffer) < n {
		m.buffer = make([]byte, n)
	}
	m.buffer = m.buffer[:n]
	data.CopyTo(m.buffer)
	return nil
}

// connect makes a connection whose calls may carry messages.
func connect(t client.Target) (*grpc.ClientConn, error) {
	return t.Connect(
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{encoding.GetCodecV2("proto")}), grpc.MaxCallRecvMsgSize(256*mib)),
		// Fewer system calls leave more of a shared machine to the server.
		grpc.WithReadBufferSize(256*kib),
		grpc.WithWriteBufferSize(256*kib),
	)
}

var errMalformed = errors.New("the answer is not a protobuf message")

// eachField calls f with every field of the encoded message data that is bytes, a string or a
// message, and with the value of every varint field.
func eachField(data []byte, f func(number protowire.Number, value []byte, varint uint64) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		var value []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		if err := f(number, value, varint); err != nil {
			return err
		}
	}
	return nil
}

// statusOf returns the code and the message of an encoded google.rpc.Status as an error, or nil.
func statusOf(data []byte) error {
	var code uint64
	var text []byte
	err := eachField(data, func(number protowire.Number, value []byte, varint uint64) error {
		switch number {
		case 1:
			code = varint
		case 2:
			text = value
		}
		return nil
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("code %d: %s", code, text)
	}
	return err
}

// hashOf returns the hash in an encoded Digest, in hexadecimal.
func hashOf(data []byte) (hash []byte, err error) {
	err = eachField(data, func(number protowire.Number, value []byte, _ uint64) error {
		if number == 1 {
			hash = value
		}
		return nil
	})
	return hash, err
}

// equal reports whether data is the bytes of p from offset.
func (p *payload) equal(offset int64, data []byte) bool {
	if offset+int64(len(data)) > p.digest.Size {
		return false
	}
	a, b := p.slice(offset, int64(len(data)))
	return bytes.Equal(data[:len(a)], a) && bytes.Equal(data[len(a):], b)
}

func wire(d digest.Digest) *repb.Digest {
	return &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
}
