package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/compiler/args"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// A refusal says that the answer of a server that works is none to deliver; the counter says why.
type refusal struct{ counter, text string }

func (r *refusal) Error() string { return r.text }

// failed notes why an attempt came to nothing, and whether others may have better luck.
func (x *executor) failed(a *attempt, err error) {
	var r *refusal
	switch {
	case errors.As(err, &r):
		a.why, a.text = r.counter, r.text
	case errors.Is(err, errInput):
		a.why = notMeanwhile
	default:
		a.why = notServer
		x.pauseFor(pause)
		x.log("a compile was not executed", err)
	}
}

// wait executes a plan and returns what the server says in the end.
func (x *executor) wait(ctx context.Context, a *attempt, again bool) (*repb.ExecuteResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := x.client.Execute(ctx, &repb.ExecuteRequest{
		InstanceName: x.instance, ActionDigest: protoOf(a.plan.action), DigestFunction: repb.DigestFunction_SHA256, SkipCacheLookup: again,
	})
	if err != nil {
		return nil, err
	}
	type answer struct {
		op  *longrunning.Operation
		err error
	}
	answers := make(chan answer)
	go func() {
		for {
			op, err := stream.Recv()
			select {
			case answers <- answer{op, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	quiet := time.NewTicker(silence)
	defer quiet.Stop()
	begun := false
	defer func() {
		if begun {
			x.note(false)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-quiet.C:
			if err := x.alive(ctx); err != nil {
				return nil, err
			}
		case next := <-answers:
			switch {
			case next.err == io.EOF:
				return nil, errors.New("the server ended the stream without an answer")
			case next.err != nil:
				return nil, next.err
			case next.op.GetDone():
				x.began.Store(time.Now().UnixNano())
				return response(next.op)
			case executing(next.op) != begun:
				begun = !begun
				x.note(begun)
				select {
				case a.stage <- begun:
				case <-ctx.Done():
				}
			}
		}
	}
}

// note notes that a worker has one more action, or one less.
func (x *executor) note(begun bool) {
	if begun {
		x.running.Add(1)
		x.began.Store(time.Now().UnixNano())
	} else {
		x.running.Add(-1)
	}
}

// alive asks a server that says nothing of an action for anything at all.
func (x *executor) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, err := x.offers.GetCapabilities(ctx, &repb.GetCapabilitiesRequest{InstanceName: x.instance})
	return err
}

func executing(op *longrunning.Operation) bool {
	meta := &repb.ExecuteOperationMetadata{}
	return op.GetMetadata().UnmarshalTo(meta) == nil && meta.Stage == repb.ExecutionStage_EXECUTING
}

// response returns what an operation that is done says.
func response(op *longrunning.Operation) (*repb.ExecuteResponse, error) {
	if s := op.GetError(); s != nil {
		return nil, status.FromProto(s).Err()
	}
	r := &repb.ExecuteResponse{}
	if err := op.GetResponse().UnmarshalTo(r); err != nil {
		return nil, err
	}
	switch code := codes.Code(r.GetStatus().GetCode()); code {
	case codes.OK:
	case codes.DeadlineExceeded, codes.InvalidArgument: // this action's own fault
		return nil, &refusal{notRun, fmt.Sprintf("%v: %s", code, r.Status.Message)}
	default:
		return nil, status.FromProto(r.Status).Err()
	}
	if r.Result == nil {
		return nil, errors.New("the server answered without a result")
	}
	return r, nil
}

// outputs fetches what an action wrote, and looks whether it is what was to be written.
func (x *executor) outputs(ctx context.Context, a *attempt, r *repb.ExecuteResponse) error {
	p, j := a.plan, a.plan.job
	if r.Result.ExitCode != 0 {
		said := r.Result.StderrRaw
		return &refusal{notSucceeded, fmt.Sprintf("exit code %d: %s", r.Result.ExitCode, said[:min(len(said), 1000)])}
	}
	files := map[string]*repb.Digest{}
	for _, f := range r.Result.OutputFiles {
		files[f.Path] = f.Digest
	}
	wanted := slices.Clone(j.command.Outputs)
	if len(p.paths) > len(wanted) {
		wanted = append(wanted, args.Output{Kind: scannedAgain})
	}
	var kinds []args.Kind
	var fetched []*repb.Digest
	for i, o := range wanted {
		d := files[p.paths[i]]
		switch {
		case d == nil && o.Maybe:
			continue
		case d == nil:
			return &refusal{notWritten, "without " + p.paths[i]}
		}
		kinds, fetched = append(kinds, o.Kind), append(fetched, d)
	}
	data, err := x.fetch(ctx, append(fetched, r.Result.StdoutDigest, r.Result.StderrDigest))
	if err != nil {
		return err
	}
	e := &entry{stdout: r.Result.StdoutRaw, stderr: r.Result.StderrRaw}
	for i, kind := range kinds {
		e.outputs = append(e.outputs, output{kind, data[i]})
	}
	if said := data[len(kinds)]; len(said) > 0 {
		e.stdout = said
	}
	if said := data[len(kinds)+1]; len(said) > 0 {
		e.stderr = said
	}
	if len(e.stderr)+len(e.stdout) > 0 && !j.plain() {
		return &refusal{notWords, "messages in a language that may not be there"}
	}
	if err := p.confirm(e); err != nil {
		return err
	}
	a.entry, a.found = e, r.CachedResult
	return nil
}

// scannedAgain is the kind of the dependency file that nobody but the daemon asked for.
const scannedAgain args.Kind = "scanned again"

// confirm compares what the compiler read with what it was to read.
func (p *plan) confirm(e *entry) error {
	if p.deps == "" {
		return nil
	}
	kind := args.Dependencies
	if p.deps == depsName {
		kind = scannedAgain
	}
	text, _ := e.output(kind)
	e.outputs = slices.DeleteFunc(e.outputs, func(o output) bool { return o.kind == scannedAgain })
	names, err := parseRule(text)
	if err != nil {
		return &refusal{notSame, err.Error()}
	}
	var read []string
	for _, name := range names {
		real, _, err := p.tree.walk(p.job.path(name))
		if err != nil {
			return &refusal{notSame, err.Error()}
		}
		read = append(read, real)
	}
	slices.Sort(read)
	if read = slices.Compact(read); !slices.Equal(read, p.read) {
		return &refusal{notSame, "it read " + strings.Join(read, " ")}
	}
	return nil
}

// fetch returns blobs; nil is an empty one.
func (x *executor) fetch(ctx context.Context, ps []*repb.Digest) ([][]byte, error) {
	ds := make([]digest.Digest, len(ps))
	for i, p := range ps {
		ds[i] = digest.SHA256.Empty()
		if p.GetSizeBytes() > maxOutput {
			return nil, &refusal{notWritten, "an output is too large"}
		}
		if p.GetSizeBytes() > 0 {
			var err error
			if ds[i], err = upstream.FromProto(digest.SHA256, p); err != nil {
				return nil, err
			}
		}
	}
	data, errs := x.blobs.GetAll(ctx, ds)
	return data, errors.Join(errs...)
}

func protoOf(d digest.Digest) *repb.Digest { return upstream.ToProto(d) }

func compare(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		if c := strings.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}
