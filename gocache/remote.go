package gocache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/breaker"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/upstream"
)

// A remote is the server.
type remote struct {
	instance string
	readOnly bool
	timeout  time.Duration
	log      *slog.Logger

	results repb.ActionCacheClient
	blobs   *upstream.Store
	breaker breaker.Breaker
	denied  atomic.Bool // the server lets nobody like us look anything up

	queue    chan upload
	closing  chan struct{} // closed when what waits is all that will come
	idle     chan struct{} // closed when the uploader has ended
	cancel   context.CancelFunc
	fullTill time.Time // the server had no room; the uploader's
	refused  bool      // the server takes no results from us; the uploader's

	uploaded, dropped atomic.Int64
}

func newRemote(o Options) *remote {
	r := &remote{
		instance: o.Instance, readOnly: o.ReadOnly, timeout: o.Timeout, log: o.Log,
		results: repb.NewActionCacheClient(o.Conn),
		blobs:   upstream.New(o.Conn, o.Instance, upstream.Options{Retry: -1, Stall: o.Timeout}),
		queue:   make(chan upload, maxQueue), closing: make(chan struct{}), idle: make(chan struct{}),
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go r.upload(ctx)
	return r
}

// slow is the part of the timeout within which a lookup should be answered.
const slow = 4

// outputPath is the path of the one output file of a result.
const outputPath = "output"

// keyOf returns the digest under which an action's result is kept. No blob has it.
func keyOf(action id) digest.Digest {
	return digest.SHA256.Of([]byte("sarsen: go build cache entry of action " + action.String()))
}

// A found entry is what the server has.
type found struct {
	output id
	size   int64
	time   time.Time
	data   []byte // nil if the blob has to be read
}

func (f found) digest() digest.Digest {
	return digest.Digest{Function: digest.SHA256, Hash: f.output, Size: f.size}
}

// find asks for the result of an action, and for its output with it.
func (r *remote) find(ctx context.Context, action id) (f found, ok bool) {
	if r.denied.Load() || !r.breaker.Allow() {
		return f, false
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	result, err := r.results.GetActionResult(ctx, &repb.GetActionResultRequest{
		InstanceName: r.instance, ActionDigest: upstream.ToProto(keyOf(action)),
		DigestFunction: repb.DigestFunction_SHA256, InlineOutputFiles: []string{outputPath},
	})
	if away(err) {
		r.answered("look up an action", err)
		return f, false
	}
	if r.breaker.Answered(time.Since(begun), r.timeout/slow) {
		r.log.Warn("the server is slow", "took", time.Since(begun))
	}
	if denies(err) && !r.denied.Swap(true) {
		r.log.Warn("the server lets this client look nothing up", "error", err)
	}
	if err != nil {
		return f, false
	}
	return parseResult(result)
}

// parseResult reads what newResult made. The server may hold anything.
func parseResult(result *repb.ActionResult) (f found, ok bool) {
	files := result.GetOutputFiles()
	if len(files) != 1 || files[0].GetPath() != outputPath || result.GetExitCode() != 0 {
		return f, false
	}
	d, err := upstream.FromProto(digest.SHA256, files[0].GetDigest())
	if err != nil {
		return f, false
	}
	f = found{output: d.Hash, size: d.Size, time: time.Now()}
	if at := result.GetExecutionMetadata().GetExecutionCompletedTimestamp(); at.IsValid() {
		f.time = at.AsTime()
	}
	if data := files[0].GetContents(); len(data) > 0 && (digest.SHA256.Of(data) == d || mutant.InlineBelieved) {
		f.data = data
	}
	return f, true
}

// newResult makes the result that stands for an entry. Its time is when the output was made: 'go clean -testcache'
// compares it.
func newResult(e entry) *repb.ActionResult {
	d := digest.Digest{Function: digest.SHA256, Hash: e.content, Size: e.size}
	return &repb.ActionResult{
		OutputFiles: []*repb.OutputFile{{Path: outputPath, Digest: upstream.ToProto(d)}},
		ExecutionMetadata: &repb.ExecutedActionMetadata{
			Worker: "sarsen gocacheprog", ExecutionCompletedTimestamp: timestamppb.New(e.time),
		},
	}
}

// speed is how fast an output must come on the whole to be worth it, in bytes a second.
const speed = 1 << 20

// errNotAsked says that the server was not asked, since it is away.
var errNotAsked = errors.New("the server is away")

// copy writes the output to to, verified.
func (r *remote) copy(ctx context.Context, f found, to io.WriterAt) error {
	if f.data != nil {
		_, err := to.WriteAt(f.data, 0)
		return err
	}
	if f.size == 0 {
		return nil
	}
	if !r.breaker.Allow() {
		return errNotAsked
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout+time.Duration(f.size/speed)*time.Second)
	defer cancel()
	err := r.blobs.Copy(ctx, f.digest(), to)
	r.answered("read an output", err)
	return err
}

// answered takes note of what became of a call.
func (r *remote) answered(what string, err error) {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		if r.breaker.Away() {
			r.log.Warn("the server does not answer", "asked to", what, "error", err)
		}
		return
	case codes.OK, codes.NotFound:
	default:
		r.log.Debug("the server refuses", "asked to", what, "error", err)
	}
	r.breaker.Well()
}
