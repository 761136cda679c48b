package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/worker/collect"
	"github.com/sarsen-build/sarsen/worker/sandbox"
	"github.com/sarsen-build/sarsen/worker/stage"
)

// maxLog is how much of stdout and of stderr is kept, in bytes each.
const maxLog = 64 << 20

// run runs t from its inputs to its answer, and removes what it left.
func (w *Worker) run(ctx context.Context, t *task) {
	dir := filepath.Join(w.Dir, t.Id)
	r := &run{worker: w, task: t, dir: dir, meta: &repb.ExecutedActionMetadata{
		Worker: w.Name, QueuedTimestamp: t.Queued, WorkerStartTimestamp: timestamppb.New(t.started),
	}}
	result, err := r.do(ctx)
	r.meta.WorkerCompletedTimestamp = timestamppb.Now()
	response := &repb.ExecuteResponse{Result: result}
	if result != nil {
		result.ExecutionMetadata = r.meta
	}
	if err != nil {
		response.Status = statusOf(err).Proto()
		w.Log.Warn("an action failed", slog.String("id", t.Id), slog.String("action", t.ActionDigest.GetHash()), slog.Any("error", err))
	}
	w.finish(t, response)
	w.Log.Debug("an action ended", slog.String("id", t.Id), slog.Int("exit", int(result.GetExitCode())),
		phase("stage", r.meta.InputFetchStartTimestamp, r.meta.InputFetchCompletedTimestamp),
		phase("run", r.meta.ExecutionStartTimestamp, r.meta.ExecutionCompletedTimestamp),
		phase("collect", r.meta.OutputUploadStartTimestamp, r.meta.OutputUploadCompletedTimestamp),
		phase("all", r.meta.WorkerStartTimestamp, r.meta.WorkerCompletedTimestamp))
	if err := removeAll(dir); err != nil { // the answer is on its way: nobody waits for this
		w.Log.Warn("a work directory could not be removed; it will be at the next start", slog.Any("error", err))
	}
}

// phase is how long a phase took, 0 if the action did not get there.
func phase(name string, from, to *timestamppb.Timestamp) slog.Attr {
	if to == nil {
		return slog.Duration(name, 0)
	}
	return slog.Duration(name, to.AsTime().Sub(from.AsTime()))
}

// A run is one task on its way through the stages.
type run struct {
	worker *Worker
	task   *task
	dir    string
	meta   *repb.ExecutedActionMetadata
}

// do returns the result with an error if there is something to report beside it, as after a timeout or if an output
// can't be taken.
func (r *run) do(ctx context.Context) (*repb.ActionResult, error) {
	f := digest.Function(r.task.DigestFunction)
	root := filepath.Join(r.dir, "root")
	if err := r.stage(ctx, f, root); err != nil {
		return nil, err
	}
	outcome, err := r.execute(ctx, root)
	if outcome.Root != nil {
		defer outcome.Root.Close()
	}
	if err != nil {
		return nil, err
	}
	result, err := r.collect(ctx, f, outcome)
	if result == nil {
		return nil, err
	}
	result.ExitCode = int32(outcome.ExitCode)
	if outcome.TimedOut { // whatever it left of its outputs
		return result, status.Errorf(codes.DeadlineExceeded, "the action ran longer than its timeout of %s", r.timeout())
	}
	return result, err
}

// stage brings the inputs and what the command expects to be there.
func (r *run) stage(ctx context.Context, f digest.Function, root string) error {
	r.meta.InputFetchStartTimestamp = timestamppb.Now()
	defer func() { r.meta.InputFetchCompletedTimestamp = timestamppb.Now() }()
	r.progress()
	p := r.task.Action.GetInputRootDigest()
	inputs, err := digest.New(f, p.GetHash(), p.GetSizeBytes())
	if err != nil {
		return fmt.Errorf("%w: input_root_digest: %w", blob.ErrInvalid, err)
	}
	if err := os.Mkdir(r.dir, 0o711); err != nil {
		return err
	}
	if _, err := r.worker.Stager.Stage(ctx, inputs, root); err != nil {
		return err
	}
	in, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer in.Close()
	return collect.Prepare(in, r.task.Command)
}

func (r *run) timeout() time.Duration { return r.task.Timeout.AsDuration() }

// execute runs the command.
func (r *run) execute(ctx context.Context, root string) (sandbox.Outcome, error) {
	r.meta.ExecutionStartTimestamp = timestamppb.Now()
	r.progress()
	c := r.task.Command
	env := make([]string, 0, len(c.EnvironmentVariables))
	for _, v := range c.EnvironmentVariables {
		env = append(env, v.Name+"="+v.Value)
	}
	following, stop := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		r.follow(following)
	}()
	defer func() { stop(); <-followed }()
	outcome, err := r.worker.Runner.Run(ctx, sandbox.Spec{
		ID: r.task.Id, Root: root, Dir: c.WorkingDirectory, Args: c.Arguments, Env: env,
		Timeout: r.timeout(), Stdout: r.log("stdout"), Stderr: r.log("stderr"), MaxLog: maxLog,
	})
	r.meta.ExecutionCompletedTimestamp = timestamppb.Now()
	return outcome, err
}

func (r *run) log(name string) string { return filepath.Join(r.dir, name) }

// progress tells the scheduler which stage begins.
func (r *run) progress() {
	r.worker.say(&pb.FromWorker{Message: &pb.FromWorker_Progress{Progress: &pb.Progress{
		Id: r.task.Id, Metadata: proto.CloneOf(r.meta), Uploading: r.meta.OutputUploadStartTimestamp != nil,
	}}})
}

// statusOf returns what the scheduler is told. What is the machine's fault may be tried elsewhere.
func statusOf(err error) *status.Status {
	var missing *stage.MissingError
	switch {
	case errors.As(err, &missing):
		return missingStatus(missing.Blobs)
	case errors.Is(err, blob.ErrInvalid):
		return status.New(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the action was cancelled")
	case errors.Is(err, blob.ErrFull):
		return status.New(codes.ResourceExhausted, err.Error())
	case errors.Is(err, collect.ErrRefused), errors.Is(err, collect.ErrLimit):
		return status.New(codes.FailedPrecondition, err.Error())
	case errors.Is(err, sandbox.ErrSpec):
		return status.New(codes.InvalidArgument, err.Error())
	}
	if s, ok := status.FromError(err); ok {
		return s
	}
	return status.New(codes.Unavailable, err.Error())
}

// missingStatus says which blobs are not there, as remote_execution.proto wants it of Execute.
func missingStatus(blobs []digest.Digest) *status.Status {
	failure := new(errdetails.PreconditionFailure)
	for _, d := range blobs {
		failure.Violations = append(failure.Violations, &errdetails.PreconditionFailure_Violation{
			Type: "MISSING", Subject: "blobs/" + d.String(),
		})
	}
	s := status.New(codes.FailedPrecondition, fmt.Sprintf("%d input blobs are missing", len(blobs)))
	if with, err := s.WithDetails(failure); err == nil {
		return with
	}
	return s
}
