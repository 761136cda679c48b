package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

func TestCodes(t *testing.T) {
	d := digest.SHA256.Of([]byte("x"))
	wrapped := func(err error) error { return fmt.Errorf("more: %w", &blob.Error{Op: "open", Digest: d, Err: err}) }
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{blob.ErrNotFound, codes.NotFound},
		{wrapped(blob.ErrNotFound), codes.NotFound},
		{wrapped(blob.ErrMismatch), codes.InvalidArgument},
		{wrapped(blob.ErrFull), codes.ResourceExhausted},
		{wrapped(blob.ErrTooLarge), codes.InvalidArgument},
		{wrapped(blob.ErrAborted), codes.Aborted},
		{wrapped(blob.ErrCorrupt), codes.DataLoss},
		{wrapped(blob.ErrInvalid), codes.InvalidArgument},
		{wrapped(blob.ErrClosed), codes.Unavailable},
		{fmt.Errorf("%w: x", digest.ErrSyntax), codes.InvalidArgument},
		{context.Canceled, codes.Canceled},
		{wrapped(context.DeadlineExceeded), codes.DeadlineExceeded},
		{wrapped(errors.New("input/output error")), codes.Internal},
		{errors.New("anything"), codes.Internal},
		{&blob.MissingError{Blobs: []digest.Digest{d}}, codes.FailedPrecondition},
		{&action.FieldError{Field: "stdout_raw", Err: errors.New("no Tree")}, codes.InvalidArgument},
		{&action.FieldError{Field: "stdout_raw", Err: wrapped(blob.ErrMismatch)}, codes.InvalidArgument},
		{&action.FieldError{Field: "tree_digest", Err: wrapped(errors.New("input/output error"))}, codes.Internal},
		{status.Error(codes.OutOfRange, "x"), codes.OutOfRange},
		{fmt.Errorf("upstream: %w", status.Error(codes.PermissionDenied, "x")), codes.PermissionDenied},
	} {
		if got := status.Code(statusError(tt.err)); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}

// TestViolationsBounded checks that the details of an error fit into the header in which they go.
func TestViolationsBounded(t *testing.T) {
	var missing []digest.Digest
	for i := range 5000 {
		missing = append(missing, digest.BLAKE3.Of(pattern(i+1, 1)))
	}
	st := status.Convert(statusError(&blob.MissingError{Blobs: missing}))
	f := st.Details()[0].(*errdetails.PreconditionFailure)
	if got := len(f.GetViolations()); got != maxViolations {
		t.Errorf("violations: got %d, want %d", got, maxViolations)
	}
	if got, want := f.GetViolations()[0].GetSubject(), "blobs/blake3/"+missing[0].Hex()+"/1"; got != want {
		t.Errorf("subject: got %s, want %s", got, want)
	}
}
