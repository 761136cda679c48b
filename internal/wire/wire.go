// Package wire reads protocol buffers field by field, where generated messages cost too much: a list
// of thousands of digests, or a tree that a client made.
//
// A generated message takes up to forty times the memory of its bytes, so a small blob could ask for
// gigabytes. Scanning takes none.
//
// Concurrency: the functions are pure.
package wire

import (
	"errors"

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
