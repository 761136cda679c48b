package upstream

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// An Error is what the server answered, or that it did not. errors.Is finds the error of package blob
// that its code stands for, status.Code the code.
type Error struct {
	status error // a gRPC status
	means  error // of package blob or context, or nil
}

func (e *Error) Error() string {
	s := status.Convert(e.status)
	switch {
	case e.means == nil && s.Message() == "":
		return fmt.Sprintf("the server answers %s", s.Code())
	case e.means == nil:
		return fmt.Sprintf("the server answers %s: %s", s.Code(), s.Message())
	case s.Message() == "":
		return e.means.Error()
	}
	return fmt.Sprintf("%v: the server says: %s", e.means, s.Message())
}

// Unwrap returns what the code stands for, and the status.
func (e *Error) Unwrap() []error {
	if e.means == nil {
		return []error{e.status}
	}
	return []error{e.means, e.status}
}

// A direction is which way bytes go; some codes mean different things.
type direction int

const (
	reading direction = iota
	writing
)

// answered returns err, which a call returned, as an Error, unless it is something else than a status.
func answered(err error, way direction) error {
	var own *Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	return &Error{err, meaning(s.Code(), way)}
}

// meaning is the table of package server, read backwards.
func meaning(code codes.Code, way direction) error {
	switch code {
	case codes.NotFound:
		return blob.ErrNotFound
	case codes.InvalidArgument:
		// The name, the size and the limit were right before the bytes went off, so it is about them.
		if way == writing {
			return blob.ErrMismatch
		}
		return blob.ErrInvalid
	case codes.OutOfRange:
		return blob.ErrInvalid
	case codes.ResourceExhausted:
		if way == writing {
			return blob.ErrFull
		}
	case codes.Aborted:
		return blob.ErrAborted
	case codes.Unavailable:
		// Nothing of the upload need be left there, but another try may find the server again.
		if way == writing {
			return blob.ErrAborted
		}
	case codes.DataLoss:
		return blob.ErrCorrupt
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return nil
}

// fail returns err as the failure of op on d, or nil.
func fail(op string, d digest.Digest, err error, way direction) error {
	var own *blob.Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	return &blob.Error{Op: op, Digest: d, Err: answered(err, way)}
}

// corrupt returns the error for bytes of digest got that came as want. It is not blob.ErrMismatch,
// which is what the sender of an upload did wrong.
func corrupt(want, got digest.Digest) error {
	if want.Size != got.Size {
		return fmt.Errorf("%w: the server sent %d bytes", blob.ErrCorrupt, got.Size)
	}
	return fmt.Errorf("%w: the server sent bytes of hash %s", blob.ErrCorrupt, got.Hex())
}

// lacks reports whether the server said that it has no such call.
func lacks(err error) bool { return status.Code(err) == codes.Unimplemented }
