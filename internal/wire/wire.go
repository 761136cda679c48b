// Package wire reads protocol buffers field by field, where generated messages cost too much: a list
// of thousands of digests, or a tree that a client made.
//
// A generated message takes up to forty times the memory of its bytes, so a small blob could ask for
// gigabytes. Scanning takes none.
//
// Concurrency: the functions are pure.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed says that bytes are not a protocol buffer message.
var ErrMalformed = errors.New("not a protocol buffer message")

// A Field is one field of a message.
type Field struct {
	Num    protowire.Number
	Type   protowire.Type
	Bytes  []byte // of a BytesType; part of the message
	Number uint64 // of a VarintType
}

// Is reports whether f is the field num and has that type on the wire.
func (f *Field) Is(num protowire.Number, typ protowire.Type) bool {
	return f.Num == num && f.Type == typ
}

// Scan calls each for every field of message, in order, until it returns an error.
func Scan(message []byte, each func(Field) error) error {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return ErrMalformed
		}
		message = message[n:]
		f := Field{Num: num, Type: typ}
		switch typ {
		case protowire.BytesType:
			f.Bytes, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			f.Number, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(num, typ, message)
		}
		if n < 0 {
			return ErrMalformed
		}
		message = message[n:]
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

// Stream is Scan over the fields that r has, of which only one is in memory at a time: those of
// BytesType, each of at most max bytes. Fields of other types are passed over. An error of r comes
// back as it is.
func Stream(r *bufio.Reader, max uint64, each func(Field) error) error {
	for {
		if _, err := r.Peek(1); err == io.EOF {
			return nil
		}
		tag, err := varint(r)
		if err != nil {
			return whole(err)
		}
		num, typ := protowire.DecodeTag(tag)
		if !num.IsValid() {
			return ErrMalformed
		}
		switch typ {
		case protowire.VarintType:
			_, err = varint(r)
		case protowire.Fixed32Type:
			_, err = r.Discard(4)
		case protowire.Fixed64Type:
			_, err = r.Discard(8)
		case protowire.BytesType:
			err = streamBytes(r, num, max, each)
		default:
			err = ErrMalformed
		}
		if err != nil {
			return whole(err)
		}
	}
}

func streamBytes(r *bufio.Reader, num protowire.Number, max uint64, each func(Field) error) error {
	n, err := varint(r)
	if err != nil {
		return whole(err)
	}
	if n > max {
		return fmt.Errorf("%w: a field of %d bytes, at most %d are read", ErrMalformed, n, max)
	}
	// Memory follows the bytes that come, not the length that they claim.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if uint64(len(b)) < n {
		return ErrMalformed
	}
	return each(Field{Num: num, Type: protowire.BytesType, Bytes: b})
}

// varint reads a variable-length integer.
func varint(r *bufio.Reader) (uint64, error) {
	var b []byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		if b = append(b, c); c < 0x80 || len(b) == binary.MaxVarintLen64 {
			break
		}
	}
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, ErrMalformed
	}
	return v, nil
}

// whole turns an end in the midst of a field into ErrMalformed.
func whole(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrMalformed
	}
	return err
}

// The field numbers of REAPI's Digest, Directory, FileNode and DirectoryNode, and Tree.
const (
	digestHash = 1
	digestSize = 2

	DirectoryFiles       = 1
	DirectoryDirectories = 2
	DirectorySymlinks    = 3

	NodeName   = 1
	NodeDigest = 2

	TreeRoot     = 1
	TreeChildren = 2
)

// Digest reads a Digest message.
func Digest(message []byte) (hash []byte, size int64, err error) {
	err = Scan(message, func(f Field) error {
		switch {
		case f.Is(digestHash, protowire.BytesType):
			hash = f.Bytes
		case f.Is(digestSize, protowire.VarintType):
			size = int64(f.Number)
		}
		return nil
	})
	return hash, size, err
}

// A Node is a FileNode or a DirectoryNode, as far as names go.
type Node struct {
	Name []byte
	Hash []byte // of the digest, in hexadecimal
	Size int64
}

// Nodes calls each for every file and directory in the Directory message, with the number of its
// field, DirectoryFiles or DirectoryDirectories. Other fields are checked for form only.
func Nodes(directory []byte, each func(kind protowire.Number, n Node) error) error {
	return Scan(directory, func(f Field) error {
		if f.Type != protowire.BytesType || f.Num > DirectorySymlinks {
			return nil
		}
		var n Node
		err := Scan(f.Bytes, func(g Field) (err error) {
			switch {
			case f.Num == DirectorySymlinks:
			case g.Is(NodeName, protowire.BytesType):
				n.Name = g.Bytes
			case g.Is(NodeDigest, protowire.BytesType):
				n.Hash, n.Size, err = Digest(g.Bytes)
			}
			return err
		})
		if err != nil || f.Num == DirectorySymlinks {
			return err
		}
		return each(f.Num, n)
	})
}
