package server

import (
	"context"
	"errors"
	"fmt"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

type actionCache struct {
	*Server
	repb.UnimplementedActionCacheServer
}

// GetActionResult returns a result whose whole closure is leased. What the client wants inlined is
// inlined as far as the message can hold it: the rest it reads from the CAS.
func (a *actionCache) GetActionResult(ctx context.Context, req *repb.GetActionResultRequest) (*repb.ActionResult, error) {
	key, err := actionKey(req.GetInstanceName(), req.GetDigestFunction(), req.GetActionDigest())
	if err != nil {
		return nil, err
	}
	result, err := a.actions.Get(ctx, key)
	if err == blob.ErrNotFound { // that and no more was said
		return nil, status.Errorf(codes.NotFound, "no result of action %s", key.Action)
	}
	if err != nil {
		return nil, err
	}
	if damaged, ok := a.inline(ctx, key.Action.Function, req, result); ok {
		return nil, status.Errorf(codes.NotFound, "the result of action %s names damaged blob %s", key.Action, damaged)
	}
	return result, nil
}

func actionKey(instance string, f repb.DigestFunction_Value, p *repb.Digest) (action.Key, error) {
	function, err := functionOf(f)
	if err != nil {
		return action.Key{}, err
	}
	d, err := digestOf(function, "action_digest", p)
	return action.Key{Instance: instance, Action: d}, err
}

// inline puts the bytes that req asks for into result. They were leased with the result; should one
// not be readable all the same, the client finds out when it reads it. One that is damaged the store has
// dropped, so it is returned: the result may not be served.
func (a *actionCache) inline(ctx context.Context, f digest.Function, req *repb.GetActionResultRequest, result *repb.ActionResult) (damaged digest.Digest, ok bool) {
	var digests []digest.Digest
	var places []*[]byte
	left := maxMessage - proto.Size(result)
	want := func(p *repb.Digest, place *[]byte) {
		// The bytes come with a tag and a length, and may lengthen the length of the file around them.
		const overhead = 12
		if p.GetSizeBytes() <= 0 || p.GetSizeBytes() > int64(left-overhead) || len(*place) > 0 {
			return
		}
		if d, wrong := parseDigest(f, p.GetHash(), p.GetSizeBytes()); wrong == nil {
			left -= int(d.Size) + overhead
			digests, places = append(digests, d), append(places, place)
		}
	}
	if req.GetInlineStdout() {
		want(result.GetStdoutDigest(), &result.StdoutRaw)
	}
	if req.GetInlineStderr() {
		want(result.GetStderrDigest(), &result.StderrRaw)
	}
	if paths := req.GetInlineOutputFiles(); len(paths) > 0 {
		wanted := make(map[string]bool, len(paths))
		for _, path := range paths {
			wanted[path] = true
		}
		for _, file := range result.GetOutputFiles() {
			if wanted[file.GetPath()] {
				want(file.GetDigest(), &file.Contents)
			}
		}
	}
	if len(digests) == 0 {
		return damaged, false
	}
	data, errs := a.store.GetAll(ctx, digests)
	for i, place := range places {
		if errs[i] == nil {
			*place = data[i]
			a.metrics.sent.add(len(data[i]), false)
		}
		if errors.Is(errs[i], blob.ErrCorrupt) {
			damaged, ok = digests[i], true
		}
	}
	return damaged, ok
}

// UpdateActionResult stores a result whose whole closure is present.
func (a *actionCache) UpdateActionResult(ctx context.Context, req *repb.UpdateActionResultRequest) (*repb.ActionResult, error) {
	key, err := actionKey(req.GetInstanceName(), req.GetDigestFunction(), req.GetActionDigest())
	if err != nil {
		return nil, err
	}
	result := req.GetActionResult()
	if result == nil {
		return nil, invalid("action_result: missing")
	}
	if size := proto.Size(result); size > maxMessage {
		return nil, invalid("action_result: its %d bytes are more than a message may hold, %d; upload outputs instead of inlining them", size, maxMessage)
	}
	if err := checkResult(key.Action.Function, result); err != nil {
		return nil, err
	}
	err = a.actions.Put(ctx, key, result)
	if wrong := (*action.FieldError)(nil); errors.As(err, &wrong) {
		return nil, status.Error(codeOf(err), "action_result."+err.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("action_result: %w", err)
	}
	return result, nil
}

// checkResult checks the digests that result itself holds.
func checkResult(f digest.Function, result *repb.ActionResult) error {
	check := func(p *repb.Digest, field string, args ...any) error {
		if p == nil {
			return invalid("action_result."+field+": missing", args...)
		}
		if _, wrong := parseDigest(f, p.GetHash(), p.GetSizeBytes()); wrong != nil {
			return inField(fmt.Sprintf("action_result."+field+"."+wrong.field, args...), wrong.err)
		}
		return nil
	}
	for i, file := range result.GetOutputFiles() {
		if err := check(file.GetDigest(), "output_files[%d].digest", i); err != nil {
			return err
		}
	}
	for i, dir := range result.GetOutputDirectories() {
		tree, root := dir.GetTreeDigest(), dir.GetRootDirectoryDigest()
		if tree != nil || root == nil {
			if err := check(tree, "output_directories[%d].tree_digest", i); err != nil {
				return err
			}
		}
		if root != nil {
			if err := check(root, "output_directories[%d].root_directory_digest", i); err != nil {
				return err
			}
		}
	}
	if p := result.GetStdoutDigest(); p != nil {
		if err := check(p, "stdout_digest"); err != nil {
			return err
		}
	}
	if p := result.GetStderrDigest(); p != nil {
		return check(p, "stderr_digest")
	}
	return nil
}
