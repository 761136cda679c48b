// Package blob is the contract between everything that keeps blobs and everything that asks for
// them. It holds the promise in words, the three verbs of a Store, roots that hold blobs for longer than a
// lease, and the errors that they share.
//
// # Invariants
//
// Every Store keeps these, and internal/storetest checks each by name:
//
//   - Immutable: bytes read at a digest hash to it, always.
//   - FirstWins: of any number of concurrent Commits of one digest, each succeeds or fails on its own
//     bytes, and one copy remains.
//   - OpenHolds: an open Reader never fails because of eviction or replacement.
//   - YesStands: after a yes (not listed by Missing, Commit returned nil), Open succeeds until the
//     lease ends.
//   - NoFalseYes: no yes is given for a blob that can't be read at that moment.
//   - RootsHold: what a root names can be read for as long as the root stands, over restarts.
//
// # Concurrency
//
// All methods of Store, Batcher, Records and Keeper may be called from many goroutines at once. A Reader's
// ReadAt may too; a Writer belongs to one goroutine.
package blob

import (
	"context"
	"io"

	"github.com/sarsen-build/sarsen/digest"
)

// A Store holds blobs by the digest of their bytes.
//
// It makes one promise: from the moment a method reports a blob present until that blob's lease
// ends, Open succeeds and yields exactly those bytes, whatever writes, reads, evictions,
// collections, failures or crashes come between.
//
// The blob of no bytes is always present and never stored. A digest of size AnySize stands for the
// hash with whatever size it has. Asked with another size than the blob's, a store says absent.
type Store interface {
	// Missing returns the digests that are absent, in their order, and leases all others.
	Missing(ctx context.Context, ds digest.Set) (digest.Set, error)

	// Open returns the blob, which stays readable until the Reader is closed. It leases nothing.
	// It returns ErrNotFound if the blob is absent.
	Open(ctx context.Context, d digest.Digest) (Reader, error)

	// Create begins a blob of exactly d.Size bytes. Nobody sees it before Commit returns nil.
	// It returns ErrFull if there is no room, ErrTooLarge if there never can be, and ErrMismatch if
	// the store holds the hash with another size. ctx governs this call only, not the Writer.
	Create(ctx context.Context, d digest.Digest) (Writer, error)
}

// A Reader reads one blob. The caller must Close it; until then the blob's bytes stay in place.
type Reader interface {
	io.ReaderAt
	io.Closer
	// Size returns the blob's size in bytes.
	Size() int64
}

// A Writer takes the bytes of one blob, in order.
type Writer interface {
	io.Writer

	// Commit ends the blob. When it returns nil, the blob is verified, present and leased, though the
	// bytes may be those of another Writer that was first. When it returns an error, this Writer
	// leaves no trace: ErrMismatch if size or hash are not the digest's, ErrFull, or ErrAborted if
	// the room was taken away and the upload may be tried again.
	Commit() error

	// Close abandons the blob unless Commit was called. It must be called, after Commit too.
	io.Closer
}

// A Batcher is a Store that also moves many small blobs in one round trip, each failing alone.
// Batches gives one to every Store.
type Batcher interface {
	Store

	// GetAll returns each blob whole. Exactly one of data[i] and errs[i] is nil; an empty blob is a
	// slice of no bytes. The caller must not change the bytes.
	GetAll(ctx context.Context, ds []digest.Digest) (data [][]byte, errs []error)

	// PutAll stores data[i] as ds[i], which is then verified, present and leased where errs[i] is
	// nil. A digest may be given several times; it is answered each time and written once.
	PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) (errs []error)
}

// A Record is a small value that may be superseded, and which copy of it this is.
type Record struct {
	Value []byte
	// Incarnation names this copy. No other copy of any record ever has the same.
	Incarnation uint64
}

// Records holds small values that may be superseded (action results, manifests), in the same medium
// as blobs. The last Put wins whole.
type Records interface {
	// Get returns the value last put, or ErrNotFound.
	Get(ctx context.Context, key [32]byte) (Record, error)

	// Put supersedes the value of key. When it returns nil, the value is as durable as the store is,
	// and so is every blob that was committed before the call.
	Put(ctx context.Context, key [32]byte, value []byte) error

	// Drop removes the value of key if it is still the incarnation that the caller looked at.
	Drop(ctx context.Context, key [32]byte, incarnation uint64) error
}
