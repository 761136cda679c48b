package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
)

const (
	methodGetResult    = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult"
	methodUpdateResult = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult"

	// Blobs that action results name, and results that action-hit asks for when it runs alone.
	outputBlobs = 1000
	hitResults  = 5000
)

// An actionResult is a result with two output files and a stdout, under an action that nobody else
// has. The outputs are on the server; the action need not be.
type actionResult struct {
	action digest.Digest
	result *repb.ActionResult
	// The result's output files and stdout on the wire, each with its tag: what a server that adds
	// nothing to them sends back.
	outputs [][]byte
}

// newResults makes count results whose outputs are on the server, and forgets the last ones.
func (s *session) newResults(ctx context.Context, count int) ([]actionResult, error) {
	s.results = nil
	blobs, err := s.present(ctx, s.scaled(outputBlobs, outputBlobs), 4*kib)
	if err != nil {
		return nil, err
	}
	list := make([]actionResult, count)
	for i, action := range s.absent(count) {
		pick := func(k int) *repb.Digest { return wire(blobs[(3*i+k)%len(blobs)].digest) }
		files := []*repb.OutputFile{
			{Path: "out/bin/result.o", Digest: pick(0), IsExecutable: true},
			{Path: "out/bin/result.d", Digest: pick(1)},
		}
		list[i] = actionResult{
			action: action,
			result: &repb.ActionResult{OutputFiles: files, StdoutDigest: pick(2)},
			outputs: [][]byte{
				encode(&repb.ActionResult{OutputFiles: files[:1]}),
				encode(&repb.ActionResult{OutputFiles: files[1:]}),
				encode(&repb.ActionResult{StdoutDigest: pick(2)}),
			},
		}
	}
	return list, nil
}

// check compares an encoded ActionResult with what was stored. Servers may add to a result, such as
// who ran it, or encode it in their own order.
func (r *actionResult) check(answer []byte) error {
	here := true
	for _, output := range r.outputs {
		here = here && bytes.Contains(answer, output)
	}
	if here {
		return nil
	}
	got := new(repb.ActionResult)
	if err := proto.Unmarshal(answer, got); err != nil {
		return errMalformed
	}
	here = len(got.OutputFiles) == len(r.result.OutputFiles) && proto.Equal(got.StdoutDigest, r.result.StdoutDigest)
	for i, file := range r.result.OutputFiles {
		here = here && got.OutputFiles[i].Path == file.Path && proto.Equal(got.OutputFiles[i].Digest, file.Digest)
	}
	if !here {
		return fmt.Errorf("another result came back for action %s", r.action)
	}
	return nil
}

func (s *session) updateRequests(list []actionResult) []*message {
	requests := make([]*message, len(list))
	for i, r := range list {
		requests[i] = encoded(encode(&repb.UpdateActionResultRequest{
			InstanceName: s.instance, ActionDigest: wire(r.action), ActionResult: r.result, DigestFunction: repb.DigestFunction_SHA256,
		}))
	}
	return requests
}

func (s *session) getRequests(actions []digest.Digest) []*message {
	requests := make([]*message, len(actions))
	for i, action := range actions {
		requests[i] = encoded(encode(&repb.GetActionResultRequest{
			InstanceName: s.instance, ActionDigest: wire(action), DigestFunction: repb.DigestFunction_SHA256,
		}))
	}
	return requests
}

func actionUpdate(ctx context.Context, s *session, n int) (call, error) {
	list, err := s.newResults(ctx, n)
	if err != nil {
		return nil, err
	}
	requests := s.updateRequests(list)
	s.results = list
	return func(ctx context.Context, w *worker, i int) (load, error) {
		if err := w.conn.Invoke(ctx, methodUpdateResult, requests[i], &w.answer); err != nil {
			return load{}, err
		}
		return load{items: 1}, list[i].check(w.answer.buffer)
	}, nil
}

func actionHit(ctx context.Context, s *session, n int) (call, error) {
	list := s.results
	if len(list) == 0 {
		var err error
		if list, err = s.newResults(ctx, s.scaled(n, hitResults)); err != nil {
			return nil, err
		}
	}
	// Once more for those that are there: the last workload may have run out of time.
	updates := s.updateRequests(list)
	err := s.inParallel(ctx, len(updates), func(ctx context.Context, w *worker, i int) (load, error) {
		return load{}, w.conn.Invoke(ctx, methodUpdateResult, updates[i], &w.answer)
	})
	if err != nil {
		return nil, err
	}
	s.results = list
	actions := make([]digest.Digest, len(list))
	for i := range list {
		actions[i] = list[i].action
	}
	requests := s.getRequests(actions)
	return func(ctx context.Context, w *worker, i int) (load, error) {
		i %= len(requests)
		if err := w.conn.Invoke(ctx, methodGetResult, requests[i], &w.answer); err != nil {
			return load{}, err
		}
		return load{items: 1}, list[i].check(w.answer.buffer)
	}, nil
}

func actionMiss(_ context.Context, s *session, n int) (call, error) {
	requests := s.getRequests(s.absent(n))
	return func(ctx context.Context, w *worker, i int) (load, error) {
		err := w.conn.Invoke(ctx, methodGetResult, requests[i], &w.answer)
		switch {
		case status.Code(err) == codes.NotFound:
			return load{items: 1}, nil
		case err == nil:
			return load{}, errors.New("a result came for an action that nobody stored")
		}
		return load{}, err
	}, nil
}
