package server

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

// ConnectWorker is the Workers service's Connect for a worker in this process. Messages are handed over as they
// are: for short actions, to encode them and to send them through the kernel would take as long as the rest.
func (s *Server) ConnectWorker(ctx context.Context) (pb.Workers_ConnectClient, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pipe{ctx: ctx, up: make(chan *pb.FromWorker, 16), down: make(chan *pb.ToWorker, 16), said: make(chan struct{})}
	s.handlers.Go(func() {
		err := (&workers{Server: s}).Connect(pipeServer{pipe: p})
		if err == nil {
			err = io.EOF
		}
		cancel(err)
	})
	return pipeClient{pipe: p}, nil
}

// A pipe is a stream that leaves no process. It ends when the handler returns, for the reason that its context has
// then, or when the client's context ends.
type pipe struct {
	ctx  context.Context
	up   chan *pb.FromWorker
	down chan *pb.ToWorker
	said chan struct{} // closed when the client will say nothing more
}

type pipeClient struct {
	*pipe
	grpc.ClientStream // nil: what gRPC's own streams offer beside messages is not used
}

func (p pipeClient) Context() context.Context { return p.ctx }

// Send hands over m, which may not change any more, but for a completion: the scheduler adds to that.
func (p pipeClient) Send(m *pb.FromWorker) error {
	if c := m.GetCompletion(); c != nil {
		m = proto.CloneOf(m)
	}
	select {
	case p.up <- m:
		return nil
	case <-p.ctx.Done():
		return io.EOF // Recv says why
	}
}

func (p pipeClient) Recv() (*pb.ToWorker, error) {
	select {
	case m := <-p.down:
		return m, nil
	default:
	}
	select {
	case m := <-p.down:
		return m, nil
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
}

func (p pipeClient) CloseSend() error {
	close(p.said)
	return nil
}

type pipeServer struct {
	*pipe
	grpc.ServerStream // nil, as above
}

func (p pipeServer) Context() context.Context { return p.ctx }

func (p pipeServer) Send(m *pb.ToWorker) error {
	select {
	case p.down <- m:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

func (p pipeServer) Recv() (*pb.FromWorker, error) {
	select {
	case m := <-p.up:
		return m, nil
	default:
	}
	select {
	case m := <-p.up:
		return m, nil
	case <-p.said:
		select {
		case m := <-p.up: // said before the end
			return m, nil
		default:
			return nil, io.EOF
		}
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
}
