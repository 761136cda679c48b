package server

import (
	"context"
	"errors"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/upstream"
)

// table says which gRPC code each error of the floors below becomes. The first match counts.
var table = []struct {
	err  error
	code codes.Code
}{
	{blob.ErrNotFound, codes.NotFound},
	{blob.ErrMismatch, codes.InvalidArgument},
	{blob.ErrFull, codes.ResourceExhausted},
	{execution.ErrBusy, codes.ResourceExhausted},
	// What can never fit is what max_cas_blob_size_bytes is about: "Servers SHOULD reject blob uploads
	// over the limit with response code INVALID_ARGUMENT". RESOURCE_EXHAUSTED would be tried again.
	{blob.ErrTooLarge, codes.InvalidArgument},
	{blob.ErrAborted, codes.Aborted},
	{blob.ErrCorrupt, codes.DataLoss},
	{blob.ErrInvalid, codes.InvalidArgument},
	{blob.ErrClosed, codes.Unavailable},
	{blob.ErrUnavailable, codes.Unavailable},
	{blob.ErrChanged, codes.Aborted},
	{digest.ErrSyntax, codes.InvalidArgument},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// codeOf returns the gRPC code of err: its own if it is a status, else the table's, else INTERNAL.
func codeOf(err error) codes.Code {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	if missingOf(err) != nil { // which is more than NOT_FOUND
		return codes.FailedPrecondition
	}
	for _, row := range table {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	// A field that is wrong in a way that no store reported is the caller's mistake.
	var field *action.FieldError
	var stored *blob.Error
	if errors.As(err, &field) && !errors.As(err, &stored) {
		return codes.InvalidArgument
	}
	return codes.Internal
}

// statusError returns err as gRPC sends it, nil for nil.
func statusError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	st := &spb.Status{Code: int32(codeOf(err)), Message: err.Error()}
	missing := missingOf(err)
	if missing == nil {
		return status.ErrorProto(st)
	}
	withDetails, detailErr := status.FromProto(st).WithDetails(upstream.Violations(missing, maxViolations))
	if detailErr != nil {
		return status.ErrorProto(st)
	}
	return withDetails.Err()
}

// missingOf returns the blobs of which err says that something needs them, nil if it says something else.
func missingOf(err error) []digest.Digest {
	if missing := (*blob.MissingError)(nil); errors.As(err, &missing) {
		return missing.Blobs
	}
	return nil
}

// maxViolations bounds the detail that travels in a header, which proxies and clients bound too:
// gRPC's Java and C++ clients take 8 KiB of them by default.
const maxViolations = 40

// itemStatus returns err as the status of one item of a batch. OK is a Status without fields, which
// all items share.
func itemStatus(err error) *spb.Status {
	if err == nil {
		return itemOK
	}
	return &spb.Status{Code: int32(codeOf(err)), Message: message(err)}
}

var itemOK = new(spb.Status)

// invalid returns an INVALID_ARGUMENT.
func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// inField says which field of the request err is about, and keeps err's code.
func inField(field string, err error) error {
	return status.Error(codeOf(err), field+": "+message(err))
}

// message returns err's text without the "rpc error: code = ..." of a status.
func message(err error) string {
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return s.GRPCStatus().Message()
	}
	return err.Error()
}
