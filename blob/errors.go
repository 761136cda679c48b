package blob

import (
	"errors"
	"fmt"

	"github.com/sarsen-build/sarsen/digest"
)

// What can go wrong, for all stores. They come wrapped, mostly in an Error; test with errors.Is.
// server/codes.go and httpcache translate them for the wire.
var (
	// ErrNotFound says that the blob or record is absent.
	ErrNotFound = errors.New("not found")
	// ErrMismatch says that bytes and digest disagree in size or hash.
	ErrMismatch = errors.New("bytes do not match the digest")
	// ErrFull says that every byte of room is leased or pinned. What wraps it says which setting to change.
	ErrFull = errors.New("the store is full")
	// ErrTooLarge says that the store can never hold a blob of that size. What wraps it says the limit.
	ErrTooLarge = errors.New("larger than the store can ever hold")
	// ErrChanged says that a root is not what it was to be for a change.
	ErrChanged = errors.New("it was changed meanwhile")
	// ErrUnavailable says that what a store is made on can't be reached. It says nothing about what is there.
	ErrUnavailable = errors.New("the store can't be reached, try again")
	// ErrAborted says that an upload was given up by the store; trying again may succeed.
	ErrAborted = errors.New("upload abandoned by the store, try again")
	// ErrCorrupt says that stored bytes do not verify.
	ErrCorrupt = errors.New("stored bytes are corrupt")
	// ErrInvalid says that the request makes no sense, whatever the store holds.
	ErrInvalid = errors.New("invalid argument")
	// ErrClosed says that the store is shutting down.
	ErrClosed = errors.New("the store is closed")
)

// An Error is what an operation on one blob returns.
type Error struct {
	Op     string // the verb: "open", "create", "write", "commit"
	Digest digest.Digest
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Digest, e.Err) }

// Unwrap returns what went wrong without the operation.
func (e *Error) Unwrap() error { return e.Err }

// A MissingError says which blobs are absent that something else names: all of them that are known, at least one.
// It is a noun for the sentence of whoever wraps it, and an ErrNotFound. On the wire it is
// FAILED_PRECONDITION with a MISSING violation for each blob.
type MissingError struct {
	Blobs []digest.Digest
}

func (e *MissingError) Error() string {
	if len(e.Blobs) == 1 {
		return fmt.Sprintf("blob %s, which is missing", e.Blobs[0])
	}
	return fmt.Sprintf("%d missing blobs, the first is %s", len(e.Blobs), e.Blobs[0])
}

// Unwrap returns what it comes to.
func (e *MissingError) Unwrap() error { return ErrNotFound }

// Mismatch returns the ErrMismatch for bytes whose digest is got where want was declared.
func Mismatch(want, got digest.Digest) error {
	if want.Size != got.Size {
		return fmt.Errorf("%w: declared %d bytes, got %d", ErrMismatch, want.Size, got.Size)
	}
	return fmt.Errorf("%w: declared hash %s, got %s", ErrMismatch, want.Hex(), got.Hex())
}
