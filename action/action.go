// Package action is the action cache: what running an action gave, complete or absent.
//
// # Invariants
//
//   - Complete: no result is served unless everything that it names could be leased in one pass:
//     output files, trees and every file inside them, root directories walked, stdout and stderr.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. For one key the last Put wins whole.
//
// # Crashes
//
// A result is acknowledged only after it and the blobs that it names are durable (blob.Records.Put).
package action

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A Key says which action's result is meant. Instances share blobs but not results.
type Key struct {
	Instance string
	Action   digest.Digest
}

// MaxResult is the longest result that is taken, in bytes of the message without what it carries
// inline. A longer one would not fit into the 4 MiB that gRPC clients receive by default.
const MaxResult = 4<<20 - 64<<10

// A Cache maps actions to results.
type Cache struct {
	store   blob.Store
	records blob.Records
}

// New returns the cache of the results in records, whose blobs are in store.
func New(store blob.Store, records blob.Records) *Cache {
	return &Cache{store: store, records: records}
}

// Get returns the result of k with everything that it names leased, or blob.ErrNotFound if there is
// no result or a part of its closure is gone. An incomplete result is dropped.
func (c *Cache) Get(ctx context.Context, k Key) (*repb.ActionResult, error) {
	key := k.record()
	rec, err := c.records.Get(ctx, key)
	if errors.Is(err, blob.ErrCorrupt) {
		return nil, fmt.Errorf("%w: the result of action %s is damaged (%v)", blob.ErrNotFound, k.Action, err)
	}
	if err != nil {
		return nil, err
	}
	sim.Point("action: record read")
	result, err := decode(k, rec.Value)
	if err != nil {
		return nil, err
	}
	missing, err := c.Lease(ctx, k.Action.Function, result)
	if err != nil {
		return nil, err
	}
	if missing.Len() > 0 {
		if mutant.DropLatest {
			rec, _ = c.records.Get(ctx, key)
		}
		if err := c.records.Drop(ctx, key, rec.Incarnation); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: the result of action %s names missing blob %s", blob.ErrNotFound, k.Action, missing.List()[0])
	}
	return result, nil
}

// Lease leases everything that result names, and returns what of it is missing.
func (c *Cache) Lease(ctx context.Context, f digest.Function, result *repb.ActionResult) (digest.Set, error) {
	closure, err := closureOf(ctx, c.store, f, result)
	if err != nil {
		return digest.Set{}, err
	}
	return c.leaseAll(ctx, closure)
}

func (c *Cache) leaseAll(ctx context.Context, closure *closure) (digest.Set, error) {
	if closure.absent.Len() > 0 {
		return closure.absent, nil
	}
	if mutant.Complete {
		return digest.Set{}, nil
	}
	return c.store.Missing(ctx, closure.blobs)
}

// Put makes result the result of k. Bytes that the result carries inline are stored as blobs of
// their own; everything else that it names must be present, or Put returns a *blob.MissingError.
// A malformed digest is a *FieldError, a result longer than MaxResult blob.ErrTooLarge.
func (c *Cache) Put(ctx context.Context, k Key, result *repb.ActionResult) error {
	if inlines(result) {
		result = proto.CloneOf(result) // the caller's stays as it is
		if err := c.storeInlined(ctx, k.Action.Function, result); err != nil {
			return err
		}
	}
	value, err := encode(k, result)
	if err != nil {
		return err
	}
	if n := len(value) - len(k.identity()); n > MaxResult {
		return fmt.Errorf("%w: the result has %d bytes without its inlined outputs, at most %d are taken", blob.ErrTooLarge, n, MaxResult)
	}
	closure, err := closureOf(ctx, c.store, k.Action.Function, result)
	if err != nil {
		return err
	}
	err = c.hold(ctx, closure, func() error { return c.records.Put(ctx, k.record(), value) })
	if errors.As(err, new(*blob.MissingError)) {
		return fmt.Errorf("the result names %w; upload the outputs before the result", err)
	}
	return err
}

// hold calls write while everything in the closure is pinned, and leases it afterwards. It returns a
// *blob.MissingError if some of it is missing.
func (c *Cache) hold(ctx context.Context, closure *closure, write func() error) error {
	release, err := c.pin(ctx, closure)
	if err != nil {
		return err
	}
	defer release()
	if closure.absent.Len() > 0 { // it came since, but what it names was not looked at
		return &blob.MissingError{Blobs: closure.absent.List()}
	}
	sim.Point("action: closure pinned")
	if err := write(); err != nil {
		return err
	}
	if mutant.UpdateUnleased {
		return nil
	}
	// The pins end on return, so the yes that the caller is about to get needs the leases anew.
	missing, err := c.store.Missing(ctx, closure.blobs)
	if err == nil && missing.Len() > 0 {
		err = &blob.MissingError{Blobs: missing.List()}
	}
	return err
}

// pin holds every blob of the closure, so that none of it can go while the result is written, until release is called,
// which the caller must. It returns a *blob.MissingError if some of it is missing.
func (c *Cache) pin(ctx context.Context, cl *closure) (release func(), err error) {
	if !mutant.UpdateUnpinned {
		return blob.Pin(ctx, c.store, cl.blobs)
	}
	missing, err := c.store.Missing(ctx, cl.blobs)
	if err == nil && missing.Len() > 0 {
		err = &blob.MissingError{Blobs: missing.List()}
	}
	return func() {}, err
}

// inlines reports whether result carries bytes that belong into blobs of their own.
func inlines(result *repb.ActionResult) bool {
	contents := func(file *repb.OutputFile) bool { return len(file.GetContents()) > 0 }
	return len(result.GetStdoutRaw()) > 0 || len(result.GetStderrRaw()) > 0 || slices.ContainsFunc(result.GetOutputFiles(), contents)
}

// storeInlined stores the bytes that match the digests beside them and takes them out of result:
// readers without inlining must find them in the CAS, and a result must fit into one message.
func (c *Cache) storeInlined(ctx context.Context, f digest.Function, result *repb.ActionResult) error {
	for i, file := range result.GetOutputFiles() {
		if len(file.GetContents()) == 0 {
			continue
		}
		if err := c.storeBytes(ctx, f, file.GetDigest(), file.GetContents()); err != nil {
			return inField(fmt.Sprintf("output_files[%d].contents", i), err)
		}
		file.Contents = nil
	}
	for _, std := range []struct {
		field string
		raw   *[]byte
		d     **repb.Digest
	}{{"stdout_raw", &result.StdoutRaw, &result.StdoutDigest}, {"stderr_raw", &result.StderrRaw, &result.StderrDigest}} {
		if len(*std.raw) == 0 {
			continue
		}
		if *std.d == nil {
			d := f.Of(*std.raw)
			*std.d = &repb.Digest{Hash: d.Hex(), SizeBytes: d.Size}
		}
		if err := c.storeBytes(ctx, f, *std.d, *std.raw); err != nil {
			return inField(std.field, err)
		}
		*std.raw = nil
	}
	return nil
}

func (c *Cache) storeBytes(ctx context.Context, f digest.Function, p *repb.Digest, data []byte) error {
	d, err := parse(f, p)
	if err != nil {
		return err
	}
	return blob.Put(ctx, c.store, d, data)
}

// record returns the name of k's record. Every part is preceded by its length, so that no two keys
// run together. The size is no part of it: HTTP names carry none.
func (k Key) record() [32]byte {
	h := sha256.New()
	h.Write(k.identity())
	return [32]byte(h.Sum(nil))
}

func (k Key) identity() []byte {
	b := binary.AppendUvarint(nil, uint64(len(k.Instance)))
	b = append(b, k.Instance...)
	b = append(b, byte(k.Action.Function))
	return append(b, k.Action.Hash[:]...)
}

// encode returns the record of a result: its key in full, so that a ring can be read without knowing
// which actions there are, and the message.
func encode(k Key, result *repb.ActionResult) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(k.identity(), result)
}

func decode(k Key, value []byte) (*repb.ActionResult, error) {
	id := k.identity()
	if !bytes.HasPrefix(value, id) {
		return nil, fmt.Errorf("%w: the record of action %s belongs to another", blob.ErrCorrupt, k.Action)
	}
	result := new(repb.ActionResult)
	if err := proto.Unmarshal(value[len(id):], result); err != nil {
		return nil, fmt.Errorf("%w: the record of action %s is not an ActionResult: %v", blob.ErrCorrupt, k.Action, err)
	}
	return result, nil
}
