package compiler

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// The bounds of what a server may cost.
const (
	// lookupTime is how long a compile waits for the server's answer.
	lookupTime = 2 * time.Second
	// pause is for how long a server that failed is not asked.
	pause = 10 * time.Second
	// maxQueue is how many uploads may wait; further ones are dropped.
	maxQueue = 10_000
	// uploaders is how many uploads are made at once.
	uploaders = 4
	// uploadTime bounds one upload.
	uploadTime = 2 * time.Minute
)

// A remote is a server that entries are shared through. Nothing waits for its uploads, and while it fails
// nobody asks it.
type remote struct {
	instance string
	readOnly bool
	results  repb.ActionCacheClient
	blobs    blob.Batcher
	source   blob.Batcher // where what is uploaded lies
	count    func(string)

	down  atomic.Int64 // nanoseconds since 1970 until which it is not asked
	queue chan upload
	stop  context.CancelFunc
	work  sync.WaitGroup
	open  atomic.Int64 // uploads that wait or are made
}

type upload struct {
	key    digest.Digest
	result *repb.ActionResult
	blobs  []digest.Digest
}

func newRemote(conn grpc.ClientConnInterface, instance string, readOnly bool, source blob.Batcher, count func(string)) *remote {
	ctx, stop := context.WithCancel(context.Background())
	r := &remote{
		instance: instance, readOnly: readOnly, source: source, count: count, stop: stop,
		results: repb.NewActionCacheClient(conn),
		blobs:   upstream.New(conn, instance, upstream.Options{Retry: -1, Stall: lookupTime}),
		queue:   make(chan upload, maxQueue),
	}
	for range uploaders {
		r.work.Go(func() { r.serve(ctx) })
	}
	return r
}

// wanted are the outputs that a server is asked to send along with a result, which saves a round trip. It may leave
// them out.
var wanted = func() []string {
	names := []string{manifestFile}
	for _, k := range args.Kinds {
		names = append(names, string(k))
	}
	return names
}()

// get returns what the server has for a key.
func (r *remote) get(ctx context.Context, k digest.Digest) (*repb.ActionResult, error) {
	if time.Now().UnixNano() < r.down.Load() {
		return nil, blob.ErrNotFound
	}
	result, err := r.results.GetActionResult(ctx, &repb.GetActionResultRequest{
		InstanceName: r.instance, ActionDigest: upstream.ToProto(k), DigestFunction: repb.DigestFunction_SHA256,
		InlineStdout: true, InlineStderr: true, InlineOutputFiles: wanted,
	})
	if status.Code(err) == codes.NotFound {
		return nil, blob.ErrNotFound
	}
	if err != nil {
		r.failed(lookupFailed)
	}
	return result, err
}

// failed notes that the server is not to be asked for a while.
func (r *remote) failed(counter string) {
	r.down.Store(time.Now().Add(pause).UnixNano())
	r.count(counter)
}

// upload queues an action result and its blobs. It never waits.
func (r *remote) upload(k digest.Digest, result *repb.ActionResult, blobs []digest.Digest) {
	if r.readOnly {
		return
	}
	r.open.Add(1)
	select {
	case r.queue <- upload{k, result, blobs}:
	default:
		r.open.Add(-1)
		r.count(uploadFailed)
	}
}

func (r *remote) serve(ctx context.Context) {
	for {
		select {
		case u := <-r.queue:
			if err := r.send(ctx, u); err == nil {
				r.count(uploadDone)
			} else if ctx.Err() == nil {
				r.failed(uploadFailed)
			}
			r.open.Add(-1)
		case <-ctx.Done():
			return
		}
	}
}

// send uploads blobs that the server lacks, and then the result that names them.
func (r *remote) send(ctx context.Context, u upload) error {
	ctx, cancel := context.WithTimeout(ctx, uploadTime)
	defer cancel()
	missing, err := r.blobs.Missing(ctx, digest.SetOf(u.blobs...))
	if err != nil {
		return err
	}
	if missing.Len() > 0 {
		data, errs := r.source.GetAll(ctx, missing.List())
		for i := range data {
			if errs[i] != nil {
				return errs[i]
			}
		}
		for _, err := range r.blobs.PutAll(ctx, missing.List(), data) {
			if err != nil {
				return err
			}
		}
	}
	_, err = r.results.UpdateActionResult(ctx, &repb.UpdateActionResultRequest{
		InstanceName: r.instance, ActionDigest: upstream.ToProto(u.key), ActionResult: u.result, DigestFunction: repb.DigestFunction_SHA256,
	})
	return err
}

// drain waits until nothing is to be uploaded any more, or until ctx ends.
func (r *remote) drain(ctx context.Context) {
	for r.open.Load() > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

func (r *remote) close() {
	r.stop()
	r.work.Wait()
}
