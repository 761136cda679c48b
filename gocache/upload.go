package gocache

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

const (
	// maxQueue is how many entries may wait to be uploaded. They wait as names of files.
	maxQueue = 16384
	// maxGroup is how many entries are uploaded together, and maxGroupBytes how large their small outputs are
	// in sum, which are in memory meanwhile.
	maxGroup      = 256
	maxGroupBytes = 8 << 20
	// small is the size up to which an output travels with others, in bytes.
	small = 1 << 20
	// results is how many results are put at once.
	results = 16
	// fullPause is for how long a server that had no room is sent nothing.
	fullPause = 30 * time.Second
	// awayPause is how often a server that is away is thought of.
	awayPause = 500 * time.Millisecond
)

// An upload is an entry that the server should have.
type upload struct {
	entry
	file string
}

func (u upload) digest() digest.Digest {
	return digest.Digest{Function: digest.SHA256, Hash: u.content, Size: u.size}
}

// enqueue lets u be uploaded, unless too many wait.
func (r *remote) enqueue(u upload) {
	if r.readOnly {
		return
	}
	select {
	case r.queue <- u:
	default:
		r.dropped.Add(1)
	}
}

// close waits for the uploads that wait, for so long at most, and ends all calls. Nothing may be enqueued any more.
func (r *remote) close(wait time.Duration) {
	close(r.closing)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-r.idle:
	case <-timer.C:
	}
	r.cancel()
}

// upload uploads what comes until the end.
func (r *remote) upload(ctx context.Context) {
	defer close(r.idle)
	for {
		group, more := r.next()
		if len(group) > 0 {
			n := int64(0)
			if r.await(ctx) {
				n = r.send(ctx, group)
			}
			r.uploaded.Add(n)
			r.dropped.Add(int64(len(group)) - n)
		}
		if !more {
			return
		}
	}
}

// next waits for entries and returns those that go together. more is false when they are the last.
func (r *remote) next() (group []upload, more bool) {
	var bytes int64
	add := func(u upload) bool {
		group = append(group, u)
		if u.size <= small {
			bytes += u.size
		}
		return len(group) < maxGroup && bytes < maxGroupBytes
	}
	select {
	case u := <-r.queue:
		add(u)
	case <-r.closing:
	}
	for {
		select {
		case u := <-r.queue:
			if !add(u) {
				return group, true
			}
			continue
		default:
		}
		select {
		case <-r.closing:
			return group, len(r.queue) > 0
		default:
			return group, true
		}
	}
}

// await waits until the server may be there, which at the end nobody waits for.
func (r *remote) await(ctx context.Context) bool {
	for {
		if ctx.Err() != nil || r.refused || time.Now().Before(r.fullTill) {
			return false
		}
		if r.breaker.Allow() {
			return true
		}
		select {
		case <-r.closing:
			return false
		case <-ctx.Done():
		case <-time.After(awayPause):
		}
	}
}

// send uploads a group and returns how many entries the server has.
func (r *remote) send(ctx context.Context, group []upload) (stored int64) {
	failed, err := r.sendOutputs(ctx, group)
	if err != nil {
		r.note(err)
	}
	if away(err) {
		return 0
	}
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		slots = make(chan struct{}, results)
	)
	for _, u := range group {
		if failed[u.digest()] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := r.sendResult(ctx, u)
			mu.Lock()
			defer mu.Unlock()
			r.note(err)
			if err == nil {
				stored++
			}
		})
	}
	wg.Wait()
	return stored
}

// note remembers what the server makes of uploads.
func (r *remote) note(err error) {
	r.answered("store an entry", err)
	switch {
	case errors.Is(err, blob.ErrFull), status.Code(err) == codes.ResourceExhausted:
		r.fullTill = time.Now().Add(fullPause)
		r.log.Warn("the server is full", "error", err)
	case denies(err):
		r.refused = true
		r.log.Warn("the server takes nothing from this client", "error", err)
	}
}

// denies reports whether the server would answer the same to all that this client asks.
func denies(err error) bool {
	code := status.Code(err)
	return code == codes.PermissionDenied || code == codes.Unauthenticated || code == codes.Unimplemented
}

func away(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

// sendOutputs uploads the outputs that the server lacks. It returns which could not be, and one of the reasons.
func (r *remote) sendOutputs(ctx context.Context, group []upload) (failed map[digest.Digest]bool, err error) {
	failed = map[digest.Digest]bool{}
	files := map[digest.Digest]string{}
	var ds digest.Set
	for _, u := range group {
		if u.size > 0 {
			ds.Add(u.digest())
			files[u.digest()] = u.file
		}
	}
	if ds.Len() == 0 {
		return failed, nil
	}
	missing, err := r.blobs.Missing(ctx, ds)
	if err != nil {
		for _, d := range ds.List() {
			failed[d] = true
		}
		return failed, err
	}
	var together []digest.Digest
	var data [][]byte
	for _, d := range missing.List() {
		if d.Size > small {
			if one := r.sendFile(ctx, d, files[d]); one != nil {
				failed[d], err = true, one
			}
			continue
		}
		b, one := os.ReadFile(files[d])
		if one != nil {
			failed[d], err = true, one
			continue
		}
		together, data = append(together, d), append(data, b)
	}
	for i, one := range r.blobs.PutAll(ctx, together, data) {
		if one != nil {
			failed[together[i]], err = true, one
		}
	}
	return failed, err
}

// sendFile uploads one large output.
func (r *remote) sendFile(ctx context.Context, d digest.Digest, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := r.blobs.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	if _, err := io.Copy(w, f); err != nil {
		return err
	}
	return w.Commit()
}

// sendResult makes an entry that others find.
func (r *remote) sendResult(ctx context.Context, u upload) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	_, err := r.results.UpdateActionResult(ctx, &repb.UpdateActionResultRequest{
		InstanceName: r.instance, ActionDigest: upstream.ToProto(keyOf(u.action)),
		DigestFunction: repb.DigestFunction_SHA256, ActionResult: newResult(u.entry),
	})
	return err
}
