package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/worker/collect"
)

// TestStatus: what a client is told to be the action's own fault is that, and all else is tried elsewhere.
func TestStatus(t *testing.T) {
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{&timeoutError{time.Second}, codes.DeadlineExceeded},
		{context.DeadlineExceeded, codes.Unavailable},
		{status.Error(codes.DeadlineExceeded, "the server took too long"), codes.Unavailable},
		{status.Error(codes.Unknown, "who knows"), codes.Unavailable},
		{status.Error(codes.DataLoss, "a blob is damaged"), codes.Unavailable},
		{status.Error(codes.Internal, "a mistake"), codes.Internal},
		{fmt.Errorf("staging: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), codes.ResourceExhausted},
		{fmt.Errorf("staging: %w", blob.ErrFull), codes.ResourceExhausted},
		{fmt.Errorf("staging: %w", blob.ErrInvalid), codes.InvalidArgument},
		{fmt.Errorf("collecting: %w", collect.ErrRefused), codes.FailedPrecondition},
		{context.Canceled, codes.Canceled},
		{errors.New("anything"), codes.Unavailable},
	} {
		if got := statusOf(test.err); got.Code() != test.want {
			t.Errorf("%v: got %v, want %v", test.err, got.Code(), test.want)
		}
	}
	many := make([]digest.Digest, 100_000)
	for i := range many {
		many[i] = digest.SHA256.Of(fmt.Append(nil, i))
	}
	got := statusOf(fmt.Errorf("staging: %w", &blob.MissingError{Blobs: many}))
	if got.Code() != codes.FailedPrecondition || len(got.Details()) != 1 {
		t.Errorf("missing blobs: got %v with %d details, want FAILED_PRECONDITION with one", got.Code(), len(got.Details()))
	}
}

// TestLargeAnswer: an answer that no scheduler would receive is another one, so that it does not break stream
// after stream; and an assignment that would be run outside of the work directory is answered and not run.
func TestLargeAnswer(t *testing.T) {
	w := &Worker{ended: make(chan struct{}, 1), tasks: map[string]*task{}}
	one := &task{Assignment: &pb.Assignment{Id: "one"}}
	w.finish(one, &repb.ExecuteResponse{Result: &repb.ActionResult{StdoutRaw: make([]byte, 20<<20)}})
	if st := one.done.Response.GetStatus(); st.GetCode() != int32(codes.FailedPrecondition) || proto.Size(one.done) > 1000 {
		t.Errorf("got %v and %d bytes, want a short FAILED_PRECONDITION", st, proto.Size(one.done))
	}
	for _, id := range []string{"../up", "..", ".", "", "/etc", "a/b"} {
		w.begin(t.Context(), &pb.Assignment{Id: id})
		if got := w.tasks[id]; got == nil || got.done.GetResponse().GetStatus().GetCode() != int32(codes.Internal) {
			t.Errorf("assignment %q: got %v, want INTERNAL", id, got)
		}
	}
}
