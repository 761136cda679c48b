package server

import (
	"context"
	"errors"
	"io"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/upstream"
)

// executions answers Execution and Operations from the scheduler.
type executions struct {
	*Server
	repb.UnimplementedExecutionServer
	longrunning.UnimplementedOperationsServer
}

// requestMetadata is the header in which a client says what it is building and in which invocation.
const requestMetadata = "build.bazel.remote.execution.v2.requestmetadata-bin"

func metadataOf(ctx context.Context) *repb.RequestMetadata {
	m := new(repb.RequestMetadata)
	if values := metadata.ValueFromIncomingContext(ctx, requestMetadata); len(values) > 0 {
		_ = proto.Unmarshal([]byte(values[0]), m) // what can't be read says nothing
	}
	return m
}

// Execute answers with the operation at once, and again whenever it changes, until it is done.
func (e *executions) Execute(req *repb.ExecuteRequest, stream repb.Execution_ExecuteServer) error {
	key, err := actionKey(req.GetInstanceName(), req.GetDigestFunction(), req.GetActionDigest())
	if err != nil {
		return err
	}
	m := metadataOf(stream.Context())
	w, err := e.scheduler.Execute(stream.Context(), execution.Request{
		Key:        key,
		SkipCache:  req.GetSkipCacheLookup(),
		Priority:   req.GetExecutionPolicy().GetPriority(),
		Invocation: m.GetToolInvocationId(), Tool: m.GetToolDetails().GetToolName(), Target: m.GetTargetId(), Mnemonic: m.GetActionMnemonic(),
		StreamLogs: true,
	})
	if op, ok := manyMissing(err); ok {
		return stream.Send(op)
	}
	if err != nil {
		return err
	}
	return e.follow(stream.Context(), w, stream)
}

// WaitExecution is Execute for an operation that is there.
func (e *executions) WaitExecution(req *repb.WaitExecutionRequest, stream repb.Execution_WaitExecutionServer) error {
	w, err := e.scheduler.Wait(req.GetName())
	if err != nil {
		return err
	}
	return e.follow(stream.Context(), w, stream)
}

// errStopping sends clients to the next server, where they execute again.
var errStopping = status.Error(codes.Unavailable, "the server is shutting down; execute again")

// untilStop returns a context that also ends when Stop begins, with errStopping as its cause: a call that waits for
// an action would hold up the stop.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stopped := context.AfterFunc(s.stopping, func() { cancel(errStopping) })
	return ctx, func() { stopped(); cancel(nil) }
}

func (e *executions) follow(ctx context.Context, w *execution.Watch, stream grpc.ServerStreamingServer[longrunning.Operation]) error {
	defer w.Close()
	ctx, cancel := e.untilStop(ctx)
	defer cancel()
	for {
		op, err := w.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && context.Cause(ctx) == errStopping:
			return errStopping
		case err != nil:
			return err
		}
		if err := stream.Send(op); err != nil {
			return err
		}
	}
}

// GetOperation returns the operation as it is.
func (e *executions) GetOperation(_ context.Context, req *longrunning.GetOperationRequest) (*longrunning.Operation, error) {
	return e.scheduler.Get(req.GetName())
}

// CancelOperation cancels an operation that is not done.
func (e *executions) CancelOperation(_ context.Context, req *longrunning.CancelOperationRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), e.scheduler.Cancel(req.GetName())
}

// ListOperations returns the operations whose names begin with the request's name, in pages.
func (e *executions) ListOperations(_ context.Context, req *longrunning.ListOperationsRequest) (*longrunning.ListOperationsResponse, error) {
	if req.GetFilter() != "" {
		return nil, invalid("filter: %q is not understood; name takes a prefix of operations' names", req.GetFilter())
	}
	ops, next, err := e.scheduler.List(req.GetName(), nil, int(req.GetPageSize()), req.GetPageToken())
	return &longrunning.ListOperationsResponse{Operations: ops, NextPageToken: next}, err
}

// maxWait is how long WaitOperation waits if the request doesn't say, or says more.
const maxWait = 5 * time.Minute

// WaitOperation returns the operation when it is done, or as it is when time is over.
func (e *executions) WaitOperation(ctx context.Context, req *longrunning.WaitOperationRequest) (*longrunning.Operation, error) {
	limit := maxWait
	if req.GetTimeout() != nil {
		limit = min(limit, req.GetTimeout().AsDuration())
	}
	w, err := e.scheduler.Wait(req.GetName())
	if err != nil {
		return nil, err
	}
	defer w.Close()
	ctx, cancel := e.untilStop(ctx)
	defer cancel()
	waiting, done := context.WithTimeout(ctx, limit)
	defer done()
	for {
		op, err := w.Next(waiting)
		switch {
		case err != nil && context.Cause(ctx) == errStopping:
			return nil, errStopping
		case err != nil && ctx.Err() == nil:
			return e.scheduler.Get(req.GetName())
		case err != nil:
			return nil, err
		case op.GetDone():
			return op, nil
		}
	}
}

// DeleteOperation refuses: the scheduler forgets what is done by itself, and what is not is cancelled.
func (e *executions) DeleteOperation(context.Context, *longrunning.DeleteOperationRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "operations that are done are forgotten after a while; CancelOperation ends one that is not")
}

// manyMissing returns the operation that says that more inputs are missing than an error's details may name:
// those travel in a header.
func manyMissing(err error) (*longrunning.Operation, bool) {
	missing := missingOf(err)
	if len(missing) <= maxViolations {
		return nil, false
	}
	st, detailErr := status.New(codes.FailedPrecondition, err.Error()).WithDetails(upstream.Violations(missing, len(missing)))
	if detailErr != nil {
		return nil, false
	}
	response, packErr := anypb.New(&repb.ExecuteResponse{Status: st.Proto()})
	if packErr != nil || proto.Size(response) > maxMessage {
		return nil, false
	}
	return &longrunning.Operation{Name: "operations/refused", Done: true, Result: &longrunning.Operation_Response{Response: response}}, true
}

// readLog sends what an action writes while it runs, from where the request says.
func (b *byteStream) readLog(req *bytestream.ReadRequest, stream bytestream.ByteStream_ReadServer) error {
	if req.GetReadOffset() < 0 || req.GetReadLimit() != 0 {
		return invalid("a log is read from an offset to its end, without read_limit")
	}
	log, err := b.scheduler.OpenLog(req.GetResourceName())
	if err != nil {
		return err
	}
	log.From(req.GetReadOffset())
	ctx, cancel := b.untilStop(stream.Context())
	defer cancel()
	for {
		data, _, err := log.Next(ctx, chunkSize)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && context.Cause(ctx) == errStopping:
			return errStopping
		case err != nil:
			return err
		}
		if err := stream.Send(&bytestream.ReadResponse{Data: data}); err != nil {
			return err
		}
	}
}
