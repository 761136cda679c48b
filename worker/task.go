package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/execution"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/upstream"
	"github.com/sarsen-build/sarsen/worker/collect"
	"github.com/sarsen-build/sarsen/worker/persist"
	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// maxLog is how much of stdout and of stderr is kept, in bytes each.
const maxLog = 64 << 20

// run runs t from its inputs to its answer, and removes what it left.
func (w *Worker) run(ctx context.Context, t *task) {
	r := &run{worker: w, task: t, root: filepath.Join(w.Dir, t.Id), meta: &repb.ExecutedActionMetadata{
		Worker: w.Name, QueuedTimestamp: t.Queued, WorkerStartTimestamp: timestamppb.New(t.started),
	}}
	r.news.begin(w)
	result, err := r.do(ctx)
	r.news.end()
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
	if err := r.remove(); err != nil { // the answer is on its way: nobody waits for this
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
	root   string // the action's; what it prints and an overlay lie beside it, under longer names
	meta   *repb.ExecutedActionMetadata
	news   news
}

// do returns the result with an error if there is something to report beside it, as after a timeout or if an output
// can't be taken.
func (r *run) do(ctx context.Context) (*repb.ActionResult, error) {
	f := digest.Function(r.task.DigestFunction)
	if err := r.stage(ctx, f); err != nil {
		return nil, err
	}
	outcome, err := r.execute(ctx)
	if outcome.Root != nil {
		defer outcome.Root.Close()
	}
	if err != nil {
		return nil, err
	}
	result, err := r.collect(ctx, f, outcome)
	if result != nil {
		result.ExitCode = int32(outcome.ExitCode)
		if outcome.TimedOut {
			err = &timeoutError{r.timeout()}
		}
	}
	return result, err
}

// A timeoutError says that the command ran too long. No other error is DEADLINE_EXCEEDED for a client.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("the action ran longer than its timeout of %s", e.limit)
}

// stage brings the inputs and what the command expects to be there.
func (r *run) stage(ctx context.Context, f digest.Function) error {
	r.meta.InputFetchStartTimestamp = timestamppb.Now()
	defer func() { r.meta.InputFetchCompletedTimestamp = timestamppb.Now() }()
	r.progress()
	p := r.task.Action.GetInputRootDigest()
	inputs, err := digest.New(f, p.GetHash(), p.GetSizeBytes())
	if err != nil {
		return fmt.Errorf("%w: input_root_digest: %w", blob.ErrInvalid, err)
	}
	if _, err := r.worker.Stager.Stage(ctx, inputs, r.root); err != nil {
		return err
	}
	in, err := os.OpenRoot(r.root)
	if err != nil {
		return err
	}
	defer in.Close()
	return collect.Prepare(in, r.task.Command)
}

func (r *run) timeout() time.Duration { return r.task.Timeout.AsDuration() }

// execute runs the command.
func (r *run) execute(ctx context.Context) (sandbox.Outcome, error) {
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
	outcome, err := r.command(ctx, sandbox.Spec{
		ID: r.task.Id, Root: r.root, Dir: c.WorkingDirectory, Args: c.Arguments, Env: env,
		Timeout: r.timeout(), Stdout: r.log("stdout"), Stderr: r.log("stderr"), MaxLog: maxLog,
	})
	r.meta.ExecutionCompletedTimestamp = timestamppb.Now()
	return outcome, err
}

// command runs the command, by a persistent worker if the client asks for one.
func (r *run) command(ctx context.Context, s sandbox.Spec) (sandbox.Outcome, error) {
	platform := r.task.Action.GetPlatform()
	if platform == nil {
		//lint:ignore SA1019 Clients of before version 2.2 say it there.
		platform = r.task.Command.GetPlatform()
	}
	s.CPU, s.Memory = execution.Limits(platform)
	if !persist.Asked(platform) {
		return r.worker.Runner.Run(ctx, s)
	}
	p := r.task.Action.GetInputRootDigest()
	root, err := digest.New(digest.Function(r.task.DigestFunction), p.GetHash(), p.GetSizeBytes())
	if err != nil {
		return sandbox.Outcome{}, err
	}
	list, err := r.worker.Stager.List(ctx, root)
	if err != nil {
		return sandbox.Outcome{}, err
	}
	inputs := make([]persist.Input, len(list))
	for i, in := range list {
		inputs[i] = persist.Input{Path: in.Path, Digest: in.Digest, Tool: in.Tool}
	}
	return r.worker.tools.Run(ctx, persist.Action{Spec: s, Platform: platform, Instance: r.task.InstanceName, Inputs: inputs})
}

func (r *run) log(name string) string { return r.root + "." + name }

// progress tells the scheduler which stage begins.
func (r *run) progress() {
	m := r.meta
	r.news.set(&pb.FromWorker{Message: &pb.FromWorker_Progress{Progress: &pb.Progress{
		Id: r.task.Id, Uploading: m.OutputUploadStartTimestamp != nil,
		Metadata: &repb.ExecutedActionMetadata{ // as it is now; it goes on changing
			Worker: m.Worker, QueuedTimestamp: m.QueuedTimestamp, WorkerStartTimestamp: m.WorkerStartTimestamp,
			InputFetchStartTimestamp: m.InputFetchStartTimestamp, InputFetchCompletedTimestamp: m.InputFetchCompletedTimestamp,
			ExecutionStartTimestamp: m.ExecutionStartTimestamp, ExecutionCompletedTimestamp: m.ExecutionCompletedTimestamp,
			OutputUploadStartTimestamp: m.OutputUploadStartTimestamp,
		},
	}}})
}

// remove removes all that the action left.
func (r *run) remove() error {
	err := errors.Join(removeAll(r.root), removeAll(r.root+sandbox.OverlaySuffix))
	for _, name := range []string{"stdout", "stderr"} {
		if gone := os.Remove(r.log(name)); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// statusOf returns what the scheduler is told. What is the machine's fault may be tried elsewhere.
func statusOf(err error) *status.Status {
	var missing *blob.MissingError
	var timeout *timeoutError
	switch {
	case errors.As(err, &timeout):
		return status.New(codes.DeadlineExceeded, err.Error())
	case errors.As(err, &missing):
		return missingStatus(err, missing.Blobs)
	case errors.Is(err, blob.ErrInvalid):
		return status.New(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the action was cancelled")
	case errors.Is(err, blob.ErrFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return status.New(codes.ResourceExhausted, err.Error())
	case errors.Is(err, collect.ErrRefused), errors.Is(err, collect.ErrLimit):
		return status.New(codes.FailedPrecondition, err.Error())
	case errors.Is(err, persist.ErrProtocol):
		return status.New(codes.FailedPrecondition, err.Error())
	case errors.Is(err, sandbox.ErrSpec):
		return status.New(codes.InvalidArgument, err.Error())
	}
	switch s := status.Convert(err); s.Code() {
	case codes.InvalidArgument, codes.ResourceExhausted, codes.Internal, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return status.New(s.Code(), err.Error())
	}
	return status.New(codes.Unavailable, err.Error())
}

// maxViolations is how many missing blobs an answer names: it must fit into a message.
const maxViolations = 10_000

// missingStatus says which blobs are not there, as remote_execution.proto wants it of Execute.
func missingStatus(err error, blobs []digest.Digest) *status.Status {
	s := status.New(codes.FailedPrecondition, err.Error())
	if with, err := s.WithDetails(upstream.Violations(blobs, maxViolations)); err == nil {
		return with
	}
	return s
}
