package action

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A Holder holds results and what they name, and can list the results. A segment.Ring and a segment.View
// are Holders.
type Holder interface {
	Opener
	EachRecord(ctx context.Context, do func(key [32]byte, value []byte) error) error
}

// NoResult is how a record begins that is no action result and has its key in the same way from what it begins
// with. No result's does: it begins with a length, of which binary.AppendUvarint writes no zero in two bytes.
const NoResult = "\x80\x00"

// Affected calls found for every result of which a part is damaged, with those parts. It reads every
// result, and the trees and directories that it names. It leases nothing. A result whose trees can't be
// read for another reason is found too, with no parts: it can't be served. Records that are no results are
// left out.
func Affected(ctx context.Context, h Holder, damaged func(digest.Digest) bool, found func(Key, []digest.Digest)) error {
	return h.EachRecord(ctx, func(_ [32]byte, value []byte) error {
		if bytes.HasPrefix(value, []byte(NoResult)) {
			return nil
		}
		key, message, err := splitRecord(value)
		if err != nil {
			return err
		}
		result := new(repb.ActionResult)
		if err := proto.Unmarshal(message, result); err != nil {
			return fmt.Errorf("%w: the record of action %s is not an ActionResult: %v", blob.ErrCorrupt, key.Action, err)
		}
		closure, err := closureOf(ctx, h, key.Action.Function, result)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			found(key, nil)
			return nil
		}
		var parts []digest.Digest
		for _, d := range closure.blobs.List() {
			if damaged(d) {
				parts = append(parts, d)
			}
		}
		if len(parts) > 0 {
			found(key, parts)
		}
		return nil
	})
}

// Owner returns whose result a damaged record is, if what is left of its bytes still says so: the record's
// key tells.
func Owner(record [32]byte, value []byte) (k Key, ok bool) {
	k, _, err := splitRecord(value)
	return k, err == nil && k.record() == record
}

// splitRecord returns whose result a record is, and the message. The action's size is not in it.
func splitRecord(value []byte) (Key, []byte, error) {
	n, used := binary.Uvarint(value)
	if used <= 0 || n > uint64(len(value)-used) {
		return Key{}, nil, fmt.Errorf("%w: a record of %d bytes has no instance name", blob.ErrCorrupt, len(value))
	}
	k := Key{Instance: string(value[used : used+int(n)])}
	rest := value[used+int(n):]
	if len(rest) < 1+len(k.Action.Hash) || !digest.Function(rest[0]).Valid() {
		return Key{}, nil, fmt.Errorf("%w: a record of %d bytes names no action", blob.ErrCorrupt, len(value))
	}
	k.Action = digest.Digest{Function: digest.Function(rest[0]), Hash: [32]byte(rest[1:33]), Size: digest.AnySize}
	return k, rest[1+len(k.Action.Hash):], nil
}
