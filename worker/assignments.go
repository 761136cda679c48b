package worker

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/sarsen-build/sarsen/internal/workerpb"
)

func (w *Worker) registration() *pb.Registration {
	w.mu.Lock()
	defer w.mu.Unlock()
	reg := &pb.Registration{Name: w.Name, Session: w.session, Properties: w.Properties, Slots: int32(w.Slots), Version: w.Version, Draining: w.draining}
	for _, t := range w.tasks {
		if t.ActionDigest == nil {
			continue // a cancellation of what does not run here
		}
		reg.Running = append(reg.Running, &pb.Running{
			Id: t.Id, InstanceName: t.InstanceName, DigestFunction: t.DigestFunction,
			ActionDigest: t.ActionDigest, Started: timestamppb.New(t.started),
		})
	}
	return reg
}

// obey does what the scheduler says. Actions outlive the stream that brought them.
func (w *Worker) obey(ctx context.Context, m *pb.ToWorker) {
	switch m := m.Message.(type) {
	case *pb.ToWorker_Assignment:
		w.begin(context.WithoutCancel(ctx), m.Assignment)
	case *pb.ToWorker_Cancellation:
		w.cancel(m.Cancellation.Id)
	case *pb.ToWorker_Receipt:
		w.mu.Lock()
		if t := w.tasks[m.Receipt.Id]; t != nil && t.done != nil {
			delete(w.tasks, m.Receipt.Id)
		}
		w.mu.Unlock()
	case *pb.ToWorker_Draining:
		w.mu.Lock()
		w.draining = true
		w.mu.Unlock()
		w.Log.Info("draining: what runs is finished, nothing more is taken")
	}
}

func (w *Worker) begin(ctx context.Context, a *pb.Assignment) {
	ctx, cancel := context.WithCancel(ctx)
	t := &task{Assignment: a, started: time.Now(), cancel: cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tasks[a.Id] != nil {
		cancel()
		return
	}
	w.tasks[a.Id] = t
	if a.Id != filepath.Base(a.Id) || a.Id == "." || !filepath.IsLocal(a.Id) { // it names the work directory
		cancel()
		t.done = &pb.Completion{Id: a.Id, Response: &repb.ExecuteResponse{
			Status: status.Newf(codes.Internal, "assignment.id %q is not the name of a file", a.Id).Proto(),
		}}
		w.wake()
		return
	}
	w.running.Go(func() {
		defer cancel()
		w.run(ctx, t)
	})
}

func (w *Worker) cancel(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tasks[id]
	if t == nil { // every cancellation is answered
		t = &task{Assignment: &pb.Assignment{Id: id}, cancel: func() {}, started: time.Now()}
		t.done = &pb.Completion{Id: id, Response: &repb.ExecuteResponse{Status: status.New(codes.Canceled, "it does not run here").Proto()}}
		w.tasks[id] = t
		w.wake()
	}
	t.cancel()
}

// maxAnswer is how large a completion may be, in bytes: the scheduler receives messages of 16 MiB, and has something to
// say itself about results that are larger than its clients receive.
const maxAnswer = 8 << 20

// finish makes the completion of t known, now or in the next stream.
func (w *Worker) finish(t *task, response *repb.ExecuteResponse) {
	if n := proto.Size(response); n > maxAnswer { // it would break each stream in which it is said
		response = &repb.ExecuteResponse{Status: status.Newf(codes.FailedPrecondition,
			"the result of the action has %d bytes, at most %d can be answered; name directories as outputs instead of the files in them", n, maxAnswer).Proto()}
	}
	w.mu.Lock()
	t.done = &pb.Completion{Id: t.Id, Response: response}
	w.mu.Unlock()
	w.wake()
}

func (w *Worker) wake() {
	select {
	case w.ended <- struct{}{}:
	default:
	}
}

// unsay begins a stream, in which nothing was said yet.
func (w *Worker) unsay() {
	w.mu.Lock()
	for _, t := range w.tasks {
		t.said = false
	}
	w.mu.Unlock()
	w.wake()
}

// sayCompleted sends the completions that were not said in this stream. What was to be said before goes first: of an
// action that has ended the scheduler wants to hear nothing more.
func (w *Worker) sayCompleted(stream pb.Workers_ConnectClient) error {
	w.mu.Lock()
	var news []*pb.Completion
	for _, t := range w.tasks {
		if t.done != nil && !t.said {
			t.said = true
			news = append(news, t.done)
		}
	}
	w.mu.Unlock()
	for more := true; more; {
		select {
		case m := <-w.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		default:
			more = false
		}
	}
	for _, c := range news {
		if err := stream.Send(&pb.FromWorker{Message: &pb.FromWorker_Completion{Completion: c}}); err != nil {
			return err
		}
	}
	return nil
}

// say sends m soon, or returns false if there is no stream or too much to say.
func (w *Worker) say(m *pb.FromWorker) bool {
	select {
	case w.out <- m:
		return true
	default:
		return false
	}
}

func (w *Worker) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining && len(w.tasks) == 0
}

// stopAll cancels what runs and waits for its end.
func (w *Worker) stopAll() {
	w.mu.Lock()
	for _, t := range w.tasks {
		t.cancel()
	}
	w.mu.Unlock()
	w.running.Wait()
}

// heartbeat says how busy the machine is, where the system tells.
func (w *Worker) heartbeat() *pb.Heartbeat {
	h := new(pb.Heartbeat)
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if load, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64); err == nil {
			part := min(1, load/float64(runtime.NumCPU()))
			h.Load = &part
		}
	}
	return h
}
