package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/execution"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/upstream"
)

// workers answers the protocol of Sarsen's own workers from the scheduler.
type workers struct {
	*Server
	pb.UnimplementedWorkersServer
}

// heartbeat is how often a worker has to say something: three times within what the scheduler waits.
const heartbeat = 10 * time.Second

// Connect serves one connection of a worker.
func (w *workers) Connect(stream pb.Workers_ConnectServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r, err := registration(first.GetRegistration())
	if err != nil {
		return err
	}
	session, err := w.scheduler.Connect(r)
	if err != nil {
		return err
	}
	defer session.Close()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(w.stopping, func() { cancel(errStopping) })()
	go func() { cancel(hear(stream, session)) }()
	if err := stream.Send(&pb.ToWorker{Message: &pb.ToWorker_Welcome{Welcome: &pb.Welcome{Heartbeat: durationpb.New(heartbeat)}}}); err != nil {
		return err
	}
	for {
		i, err := session.Next(ctx)
		if err != nil {
			return ended(ctx, err)
		}
		if err := stream.Send(instruction(i)); err != nil {
			return err
		}
	}
}

// ended returns what the worker is told about the end of its connection.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, execution.ErrLeft):
		return nil
	case errors.Is(err, execution.ErrReplaced), errors.Is(err, execution.ErrLost), errors.Is(err, execution.ErrUnresponsive):
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

func registration(r *pb.Registration) (execution.Registration, error) {
	if r == nil {
		return execution.Registration{}, invalid("message: the first one must be a registration")
	}
	reg := execution.Registration{Name: r.Name, Session: r.Session, Properties: r.Properties, Slots: int(r.Slots), Draining: r.Draining}
	for _, running := range r.Running {
		key, err := actionKey(running.InstanceName, running.DigestFunction, running.ActionDigest)
		if err != nil {
			return reg, inField("registration.running", err)
		}
		one := execution.Running{ID: running.Id, Key: key}
		if running.Started != nil {
			one.Started = running.Started.AsTime()
		}
		reg.Running = append(reg.Running, one)
	}
	return reg, nil
}

// hear tells the scheduler what a worker says, until the stream ends. It returns why.
func hear(stream pb.Workers_ConnectServer, session *execution.Session) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.Message.(type) {
		case *pb.FromWorker_Heartbeat:
			load := execution.Load{Known: m.Heartbeat.Load != nil, CPU: m.Heartbeat.GetLoad(), Memory: m.Heartbeat.Memory}
			session.Heartbeat(load)
		case *pb.FromWorker_Progress:
			state := execution.Executing
			if m.Progress.Uploading {
				state = execution.Uploading
			}
			session.Progress(m.Progress.Id, state, m.Progress.Metadata)
		case *pb.FromWorker_Completion:
			response := m.Completion.Response
			if response == nil {
				response = new(repb.ExecuteResponse)
			}
			session.Complete(m.Completion.Id, response)
		case *pb.FromWorker_Log:
			to := execution.Stdout
			if m.Log.Stderr {
				to = execution.Stderr
			}
			session.Log(m.Log.Id, to, m.Log.Data)
		case *pb.FromWorker_Leaving:
			session.Leave()
		default:
			return invalid("message: %T was not expected here", m)
		}
	}
}

func instruction(i execution.Instruction) *pb.ToWorker {
	switch i.Kind {
	case execution.Cancel:
		return &pb.ToWorker{Message: &pb.ToWorker_Cancellation{Cancellation: &pb.Cancellation{Id: i.ID}}}
	case execution.Acknowledge:
		return &pb.ToWorker{Message: &pb.ToWorker_Receipt{Receipt: &pb.Receipt{Id: i.ID}}}
	case execution.Drain:
		return &pb.ToWorker{Message: &pb.ToWorker_Draining{Draining: &pb.Draining{}}}
	}
	return &pb.ToWorker{Message: &pb.ToWorker_Assignment{Assignment: &pb.Assignment{
		Id: i.ID, InstanceName: i.Key.Instance, DigestFunction: repb.DigestFunction_Value(i.Key.Action.Function),
		ActionDigest: upstream.ToProto(i.Key.Action), Action: i.Action, Command: i.Command,
		Queued: timestamppb.New(i.Queued), Timeout: durationpb.New(i.Timeout), Attempt: int32(i.Attempt),
	}}}
}

// Of each action, List says so many operations, and so many bytes of the command: commands of a megabyte
// would not fit into a message together.
const (
	maxListed = 4
	maxShown  = 256
)

// begins returns the beginning of a command.
func begins(arguments []string) (short []string) {
	left := maxShown
	for _, a := range arguments {
		if left <= 0 {
			return append(short, "...")
		}
		if len(a) > left {
			a = strings.ToValidUTF8(a[:left], "") + "..."
		}
		short = append(short, a)
		left -= len(a) + 1
	}
	return short
}

// List returns the workers with what they run, and how their commands begin.
func (w *workers) List(context.Context, *pb.ListRequest) (*pb.ListResponse, error) {
	list := new(pb.ListResponse)
	for _, info := range w.scheduler.Workers() {
		one := &pb.Worker{
			Name: info.Name, Properties: info.Properties, Slots: int32(info.Slots),
			Connected: info.Connected, Draining: info.Draining, Seen: timestamppb.New(info.Seen),
		}
		if info.Load.Known {
			one.Load = &info.Load.CPU
		}
		for _, r := range info.Running {
			one.Tasks = append(one.Tasks, &pb.Task{
				Operations: r.Operations[:min(len(r.Operations), maxListed)], ActionDigest: upstream.ToProto(r.Key.Action), Stage: r.State.String(),
				Started: timestamppb.New(r.Since), Arguments: begins(r.Command), Attempt: int32(r.Attempt),
			})
		}
		list.Workers = append(list.Workers, one)
	}
	return list, nil
}

// Drain gives a worker nothing more.
func (w *workers) Drain(_ context.Context, req *pb.DrainRequest) (*pb.DrainResponse, error) {
	return new(pb.DrainResponse), w.scheduler.Drain(req.GetName())
}
