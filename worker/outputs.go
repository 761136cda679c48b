package worker

import (
	"context"
	"errors"
	"io"
	"os"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/worker/collect"
	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// collect stores what the command left, and what it printed. With an error that says what is wrong with the outputs it
// returns what was printed all the same.
func (r *run) collect(ctx context.Context, f digest.Function, outcome sandbox.Outcome) (*repb.ActionResult, error) {
	r.meta.OutputUploadStartTimestamp = timestamppb.Now()
	defer func() { r.meta.OutputUploadCompletedTimestamp = timestamppb.Now() }()
	r.progress()
	result, err := collect.Collect(ctx, outcome.Root, r.task.Command, f, r.worker.Store, collect.Options{
		Absolute: repb.SymlinkAbsolutePathStrategy_ALLOWED, // as the server's capabilities say
		Seen:     []string{sandbox.Home},
	})
	refused := errors.Is(err, collect.ErrRefused) || errors.Is(err, collect.ErrLimit)
	if err != nil && !refused {
		return nil, err
	}
	because := err
	if refused {
		result = new(repb.ActionResult)
	}
	if result.StdoutDigest, result.StdoutRaw, err = r.collectLog(ctx, f, "stdout"); err != nil {
		return nil, err
	}
	if result.StderrDigest, result.StderrRaw, err = r.collectLog(ctx, f, "stderr"); err != nil {
		return nil, err
	}
	return result, because
}

// maxInline is how much of what was printed comes with the result, in bytes for each of the two logs.
const maxInline = 16 << 10

// collectLog returns what was printed: the bytes if there are few, which the action cache stores with the result,
// or the digest of a blob.
func (r *run) collectLog(ctx context.Context, f digest.Function, name string) (*repb.Digest, []byte, error) {
	file, err := os.Open(r.log(name))
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxInline+1))
	if err != nil || len(raw) <= maxInline {
		return nil, raw, err
	}
	return collect.Log(ctx, file, 0, f, r.worker.Store)
}
