package bench

import (
	"context"
	"fmt"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const methodExecute = "/build.bazel.remote.execution.v2.Execution/Execute"

var executeStream = &grpc.StreamDesc{StreamName: "Execute", ServerStreams: true}

// echo runs /bin/echo with an empty input root. Each action is another one, so that none is merged with one
// that is under way, and none is cached.
func echo(ctx context.Context, s *session, n int) (call, error) {
	root := payloadOf(nil)
	command := payloadOf(encode(&repb.Command{
		Arguments:            []string{"/bin/echo", "hello"},
		EnvironmentVariables: []*repb.Command_EnvironmentVariable{{Name: "PATH", Value: "/usr/bin:/bin"}},
	}))
	blobs := []payload{root, command}
	requests := make([]*message, n)
	for i := range requests {
		action := payloadOf(encode(&repb.Action{
			CommandDigest: wire(command.digest), InputRootDigest: wire(root.digest), DoNotCache: true,
			Salt: fmt.Appendf(nil, "%d %d", s.seed, i),
		}))
		blobs = append(blobs, action)
		requests[i] = encoded(encode(&repb.ExecuteRequest{
			InstanceName: s.instance, ActionDigest: wire(action.digest), SkipCacheLookup: true, DigestFunction: repb.DigestFunction_SHA256,
		}))
	}
	if err := s.upload(ctx, blobs); err != nil {
		return nil, err
	}
	return func(ctx context.Context, w *worker, i int) (load, error) {
		return load{items: 1}, w.execute(ctx, requests[i])
	}, nil
}

func payloadOf(data []byte) payload { return newPayload(data, nil) }

// execute waits for an action that ends with status 0.
func (w *worker) execute(ctx context.Context, request *message) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.ask(ctx, executeStream, methodExecute, request)
	if err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&w.answer); err != nil {
			return err
		}
		op := new(longrunning.Operation)
		if err := proto.Unmarshal(w.answer.buffer, op); err != nil {
			return errMalformed
		}
		if !op.Done {
			continue
		}
		response := new(repb.ExecuteResponse)
		if err := op.GetResponse().UnmarshalTo(response); err != nil {
			return errMalformed
		}
		if err := status.ErrorProto(response.Status); err != nil {
			return err
		}
		if code := response.GetResult().GetExitCode(); code != 0 {
			return fmt.Errorf("the action ended with status %d", code)
		}
		return nil
	}
}
