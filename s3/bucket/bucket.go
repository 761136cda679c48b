// Package bucket is what a store needs of an object store: objects under names, read whole or in part, written on
// conditions, listed and deleted.
//
// S3 is the client of a real one. Memory is a bucket in memory, with the faults that a network has.
//
// # Invariants
//
// What a Bucket promises, and Check finds out about a real one:
//
//   - A Get, Head or List that begins after a Put or Delete has returned sees it.
//   - A Put is seen whole or not at all, and its bytes are compared with a checksum on the way.
//   - Of Puts that race on one condition, one succeeds.
//   - A request that carries the time at which it was issued (WithIssued) has no effect once it is older than MaxAge.
//
// # Concurrency
//
// All methods may be called from many goroutines at once. None of them holds a lock over I/O.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxAge is for how long after it was issued a request may take effect: signatures of version 4 are refused after
// 15 minutes (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html); the rest is for clocks.
const MaxAge = 20 * time.Minute

// What can go wrong beyond the network. Test with errors.Is. What wraps them says what to do about it.
var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("no such object")
	// ErrCondition says that a Put's condition was not met, so that it did nothing (412).
	ErrCondition = errors.New("the object is not as it should have been")
	// ErrUnknown says that a request may have been carried out, or may still be.
	ErrUnknown = errors.New("what became of the request is not known")
	// ErrBusy says that the bucket asks for patience (503, 429, 409).
	ErrBusy = errors.New("the bucket is busy")
	// ErrNoCredentials says that there are none to sign with.
	ErrNoCredentials = errors.New("no credentials were found")
	// ErrCredentials says that the credentials are wrong or expired, or do not allow it.
	ErrCredentials = errors.New("the bucket refuses the credentials")
	// ErrNoBucket says that there is no such bucket.
	ErrNoBucket = errors.New("there is no such bucket")
	// ErrRegion says that the bucket is in another region.
	ErrRegion = errors.New("the bucket is in another region")
	// ErrClock says that this machine's clock, or the request, is too far off the server's.
	ErrClock = errors.New("the request's time is too far from the server's clock")
	// ErrDamaged says that bytes did not match their checksum on the way.
	ErrDamaged = errors.New("bytes were damaged on the way")
)

// An Object is what a bucket says of an object without its bytes.
type Object struct {
	Key      string
	Size     int64     // bytes
	ETag     string    // tells this version of the object from others; "" if it is not known
	Modified time.Time // by the server's clock, or zero if it did not say
}

// A Condition is what must hold for a Put to do something. The zero Condition always holds.
type Condition struct {
	Absent bool   // there is no such object
	ETag   string // the object has this one
}

// A Page is a part of a listing, in the order of the keys' bytes.
type Page struct {
	Objects []Object
	More    bool      // there are more, behind the last one
	Date    time.Time // the server's clock, or zero if it did not say
}

// A Bucket is an object store.
type Bucket interface {
	// Get returns n bytes of an object from off on, or fewer where the object ends, and what the object is. A negative n
	// is all.
	Get(ctx context.Context, key string, off, n int64) ([]byte, Object, error)
	// Head returns what Get returns without the bytes.
	Head(ctx context.Context, key string) (Object, error)
	// Put writes an object of size bytes, which are read from body, perhaps several times. It returns the object as it
	// is now. After an error other than ErrCondition the object may be there, or may appear later.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64, when Condition) (Object, error)
	// Delete removes up to MaxDelete objects. What is not there is no error. It returns those that may still be there.
	Delete(ctx context.Context, keys ...string) (left []string, err error)
	// List returns a page of the objects whose keys begin with prefix and are greater than after.
	List(ctx context.Context, prefix, after string) (Page, error)
	// Sweep ends uploads in parts under prefix that began before a time of the server's clock, whose parts
	// take room though no object shows them. It returns how many.
	Sweep(ctx context.Context, prefix string, before time.Time) (int, error)
}

// MaxDelete is how many objects a Delete takes.
const MaxDelete = 1000

// An Error is what a request failed with.
type Error struct {
	Op   string // "get", "head", "put", "delete", "list", "list uploads", "end upload of", "open", "probe"
	Key  string
	Hint string // what to do about it, or ""
	Err  error
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return fmt.Sprintf("%s %s: %v: %s", e.Op, e.Key, e.Err, e.Hint)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Key, e.Err)
}

// Unwrap returns what went wrong without the operation.
func (e *Error) Unwrap() error { return e.Err }

type issuedKey struct{}

// WithIssued says that requests under the context were issued at that moment: they have no effect when more than MaxAge
// has passed since, however long this process is stopped in between.
func WithIssued(ctx context.Context, at time.Time) context.Context {
	return context.WithValue(ctx, issuedKey{}, at)
}

// issued returns when requests under the context were issued.
func issued(ctx context.Context) (at time.Time, ok bool) {
	at, ok = ctx.Value(issuedKey{}).(time.Time)
	return at, ok
}

// All calls do for every object whose key begins with prefix, in the order of keys, a page at a time. It returns the
// server's clock at the first page.
func All(ctx context.Context, b Bucket, prefix string, do func(page []Object) error) (date time.Time, err error) {
	for after := ""; ; {
		p, err := b.List(ctx, prefix, after)
		if err != nil {
			return date, err
		}
		if date.IsZero() {
			date = p.Date
		}
		if err := do(p.Objects); err != nil {
			return date, err
		}
		if !p.More || len(p.Objects) == 0 {
			return date, nil
		}
		after = p.Objects[len(p.Objects)-1].Key
	}
}
