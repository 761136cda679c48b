package server

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/execution"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/upstream"
)

// newExecutionRig starts a server with a scheduler.
func newExecutionRig(t *testing.T) *rig {
	t.Helper()
	var scheduler *execution.Scheduler
	r := newRig(t, func(o *Options) {
		scheduler = execution.New(execution.Options{Store: o.Store, Actions: o.Actions, Settle: time.Millisecond})
		o.Scheduler = scheduler
	})
	t.Cleanup(scheduler.Close) // before the server, whose streams end with it
	return r
}

func (r *rig) message(m proto.Message) *repb.Digest {
	r.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	d := digest.SHA256.Of(b)
	if err := blob.Put(r.ctx, r.store, d, b); err != nil {
		r.t.Fatal(err)
	}
	return upstream.ToProto(d)
}

func (r *rig) action(c *repb.Command) *repb.Digest {
	r.t.Helper()
	return r.message(&repb.Action{CommandDigest: r.message(c), InputRootDigest: r.message(new(repb.Directory))})
}

func (r *rig) execute(d *repb.Digest) repb.Execution_ExecuteClient {
	r.t.Helper()
	stream, err := repb.NewExecutionClient(r.conn).Execute(r.ctx, &repb.ExecuteRequest{ActionDigest: d})
	if err != nil {
		r.t.Fatal(err)
	}
	return stream
}

// answer follows an operation to its end.
func (r *rig) answer(stream repb.Execution_ExecuteClient) (string, *repb.ExecuteResponse) {
	r.t.Helper()
	for {
		op, err := stream.Recv()
		if err != nil {
			r.t.Fatal(err)
		}
		if op.Done {
			response := new(repb.ExecuteResponse)
			if err := op.GetResponse().UnmarshalTo(response); err != nil {
				r.t.Fatal(err)
			}
			return op.Name, response
		}
	}
}

// A hand is a worker that does what the test says.
type hand struct {
	pb.Workers_ConnectClient
	r *rig
}

func (r *rig) worker(name string, slots int32) *hand {
	r.t.Helper()
	stream, err := pb.NewWorkersClient(r.conn).Connect(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	h := &hand{stream, r}
	h.say(&pb.FromWorker{Message: &pb.FromWorker_Registration{Registration: &pb.Registration{Name: name, Session: name, Slots: slots}}})
	if h.hear().GetWelcome() == nil {
		r.t.Fatal("the worker is not welcome")
	}
	return h
}

func (h *hand) say(m *pb.FromWorker) {
	h.r.t.Helper()
	if err := h.Send(m); err != nil {
		h.r.t.Fatal(err)
	}
}

func (h *hand) hear() *pb.ToWorker {
	h.r.t.Helper()
	m, err := h.Recv()
	if err != nil {
		h.r.t.Fatal(err)
	}
	return m
}

// assigned waits for an assignment.
func (h *hand) assigned() *pb.Assignment {
	h.r.t.Helper()
	for {
		if a := h.hear().GetAssignment(); a != nil {
			return a
		}
	}
}

func (h *hand) complete(id string, response *repb.ExecuteResponse) {
	h.r.t.Helper()
	h.say(&pb.FromWorker{Message: &pb.FromWorker_Completion{Completion: &pb.Completion{Id: id, Response: response}}})
}

// TestLargeCommand: every command that is not refused reaches a worker, and those that are refused break no worker's
// stream.
func TestLargeCommand(t *testing.T) {
	r := newExecutionRig(t)
	h := r.worker("one", 1)
	for _, size := range []int{1 << 20, 3<<20 - 100<<10, 3<<20 + 512<<10, 5 << 20} {
		c := &repb.Command{Arguments: []string{"true", strings.Repeat("x", size)}}
		stream := r.execute(r.action(c))
		if size > 3<<20 {
			if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "command_digest") {
				t.Errorf("a command of %d bytes: got %v, want INVALID_ARGUMENT that names command_digest", size, err)
			}
			continue
		}
		h.complete(h.assigned().Id, &repb.ExecuteResponse{Result: new(repb.ActionResult)})
		if _, got := r.answer(stream); got.GetStatus().GetCode() != 0 {
			t.Errorf("a command of %d bytes: got %v, want its result", size, got.Status)
		}
	}
}

// TestLargeResult: a result that no client could receive is answered with what is wrong with it.
func TestLargeResult(t *testing.T) {
	r := newExecutionRig(t)
	h := r.worker("one", 1)
	for exit := range int32(2) {
		stream := r.execute(r.action(&repb.Command{Arguments: []string{"true"}}))
		h.complete(h.assigned().Id, &repb.ExecuteResponse{Result: &repb.ActionResult{ExitCode: exit, StdoutRaw: make([]byte, 5<<20)}})
		_, got := r.answer(stream)
		if codes.Code(got.GetStatus().GetCode()) != codes.FailedPrecondition || !strings.Contains(got.Status.Message, "larger") {
			t.Errorf("exit code %d: got %v, want FAILED_PRECONDITION as the result is larger than what can be answered", exit, got.Status)
		}
	}
	stream := r.execute(r.action(&repb.Command{Arguments: []string{"false"}}))
	for range 3 {
		failed := status.New(codes.Internal, strings.Repeat("x", 3<<20)).Proto()
		h.complete(h.assigned().Id, &repb.ExecuteResponse{Status: failed})
	}
	if _, got := r.answer(stream); codes.Code(got.GetStatus().GetCode()) != codes.Internal {
		t.Errorf("after three answers with long messages: got %v, want INTERNAL", got.Status)
	}
}

// TestListLarge: operations and workers can be listed however much their results and commands say.
func TestListLarge(t *testing.T) {
	r := newExecutionRig(t)
	h := r.worker("one", 8)
	names := map[string]bool{}
	for n := range 8 {
		stream := r.execute(r.action(&repb.Command{Arguments: []string{"true", string(rune('a' + n))}}))
		h.complete(h.assigned().Id, &repb.ExecuteResponse{Result: &repb.ActionResult{StdoutRaw: make([]byte, 1<<20)}})
		name, _ := r.answer(stream)
		names[name] = true
	}
	for n := range 8 {
		r.execute(r.action(&repb.Command{Arguments: []string{"true", string(rune('a' + n)), strings.Repeat("x", 1<<20)}}))
		h.assigned()
	}
	token := ""
	for pages := 1; ; pages++ {
		list, err := longrunning.NewOperationsClient(r.conn).ListOperations(r.ctx, &longrunning.ListOperationsRequest{PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range list.Operations {
			delete(names, op.Name)
		}
		if token = list.NextPageToken; token == "" {
			break
		}
	}
	if len(names) > 0 {
		t.Errorf("not listed: %v", names)
	}
	list, err := pb.NewWorkersClient(r.conn).List(r.ctx, new(pb.ListRequest))
	if err != nil || len(list.Workers) != 1 || len(list.Workers[0].Tasks) != 8 {
		t.Errorf("workers: got %v, %v, want one with 8 tasks", list, err)
	}
}

// TestStopEndsWaits: neither who reads a log nor who waits for an operation holds up a stop.
func TestStopEndsWaits(t *testing.T) {
	r := newExecutionRig(t)
	h := r.worker("one", 1)
	stream := r.execute(r.action(&repb.Command{Arguments: []string{"true"}}))
	id := h.assigned().Id
	op, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	h.say(&pb.FromWorker{Message: &pb.FromWorker_Log{Log: &pb.LogChunk{Id: id, Data: []byte("said")}}})
	meta := new(repb.ExecuteOperationMetadata)
	if err := op.Metadata.UnmarshalTo(meta); err != nil {
		t.Fatal(err)
	}
	log, err := r.bs.Read(r.ctx, &bytestream.ReadRequest{ResourceName: meta.StdoutStreamName})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := log.Recv(); err != nil || !bytes.Equal(m.Data, []byte("said")) {
		t.Fatalf("log: got %v, %v, want what was said", m, err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := longrunning.NewOperationsClient(r.conn).WaitOperation(r.ctx, &longrunning.WaitOperationRequest{Name: op.Name})
		waited <- err
	}()
	stopping, cancel := context.WithTimeout(r.ctx, 30*time.Second)
	defer cancel()
	r.server.Stop(stopping)
	if stopping.Err() != nil {
		t.Error("the stop had to cut calls")
	}
	if err := <-waited; status.Code(err) != codes.Unavailable {
		t.Errorf("WaitOperation: got %v, want UNAVAILABLE", err)
	}
	if _, err := log.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the log: got %v, want UNAVAILABLE", err)
	}
}
