package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/httpcache"
	"github.com/sarsen-build/sarsen/internal/model"
)

// aResult stores the outputs of an action and returns its result.
func (r *rig) aResult(f digest.Function) *repb.ActionResult {
	return &repb.ActionResult{
		OutputFiles: []*repb.OutputFile{
			{Path: "out/a.o", Digest: r.put(f, []byte("object")), IsExecutable: true},
			{Path: "out/a.d", Digest: r.put(f, []byte("a.o: a.c a.h"))},
			{Path: "out/empty", Digest: onWire(f.Empty())},
		},
		OutputDirectories: []*repb.OutputDirectory{{Path: "dir", TreeDigest: r.put(f, marshal(r.t, &repb.Tree{
			Root: &repb.Directory{Files: []*repb.FileNode{{Name: "x", Digest: r.put(f, []byte("in the tree"))}}},
		}))}},
		OutputSymlinks: []*repb.OutputSymlink{{Path: "link", Target: "/absolute"}},
		StdoutDigest:   r.put(f, []byte("standard output")),
		StderrDigest:   r.put(f, []byte("standard error")),
		ExitCode:       3,
	}
}

func wantMessage(t *testing.T, what string, got, want proto.Message) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestActionResult(t *testing.T) {
	for _, f := range digest.Functions {
		r := newRig(t)
		function := repb.DigestFunction_Value(f)
		key := onWire(f.Of([]byte("an action that is not in the CAS")))
		get := &repb.GetActionResultRequest{InstanceName: "i/j", ActionDigest: key, DigestFunction: function}
		_, err := r.ac.GetActionResult(r.ctx, get)
		wantStatus(t, err, codes.NotFound, key.Hash)

		want := r.aResult(f)
		got, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{InstanceName: "i/j", ActionDigest: key, ActionResult: want, DigestFunction: function})
		if err != nil {
			t.Fatal(err)
		}
		wantMessage(t, "update", got, want)
		if got, err = r.ac.GetActionResult(r.ctx, get); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, "get", got, want)

		// Another instance and another function have other results.
		for _, other := range []*repb.GetActionResultRequest{
			{InstanceName: "i", ActionDigest: key, DigestFunction: function},
			{InstanceName: "i/j", ActionDigest: key, DigestFunction: map[digest.Function]repb.DigestFunction_Value{digest.SHA256: repb.DigestFunction_BLAKE3, digest.BLAKE3: repb.DigestFunction_SHA256}[f]},
		} {
			_, err = r.ac.GetActionResult(r.ctx, other)
			wantStatus(t, err, codes.NotFound)
		}

		// A newer result takes the place of the older.
		want.ExitCode = 4
		if _, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{InstanceName: "i/j", ActionDigest: key, ActionResult: want, DigestFunction: function}); err != nil {
			t.Fatal(err)
		}
		if got, err = r.ac.GetActionResult(r.ctx, get); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, "get after a second update", got, want)
	}
}

func TestInline(t *testing.T) {
	r := newRig(t)
	stored := r.aResult(digest.SHA256)
	key := wireOf([]byte("action"))
	if _, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: stored}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		req    *repb.GetActionResultRequest
		change func(*repb.ActionResult)
	}{
		{"nothing asked", &repb.GetActionResultRequest{}, func(*repb.ActionResult) {}},
		{"stdout", &repb.GetActionResultRequest{InlineStdout: true}, func(want *repb.ActionResult) { want.StdoutRaw = []byte("standard output") }},
		{"stderr", &repb.GetActionResultRequest{InlineStderr: true}, func(want *repb.ActionResult) { want.StderrRaw = []byte("standard error") }},
		{"files by path", &repb.GetActionResultRequest{InlineOutputFiles: []string{"out/a.d", "a.o", "out/nothing", "out/empty"}}, func(want *repb.ActionResult) {
			want.OutputFiles[1].Contents = []byte("a.o: a.c a.h")
		}},
		{"all", &repb.GetActionResultRequest{InlineStdout: true, InlineStderr: true, InlineOutputFiles: []string{"out/a.o", "out/a.d"}}, func(want *repb.ActionResult) {
			want.StdoutRaw, want.StderrRaw = []byte("standard output"), []byte("standard error")
			want.OutputFiles[0].Contents, want.OutputFiles[1].Contents = []byte("object"), []byte("a.o: a.c a.h")
		}},
	} {
		tt.req.ActionDigest = key
		got, err := r.ac.GetActionResult(r.ctx, tt.req)
		if err != nil {
			t.Fatal(err)
		}
		want := proto.CloneOf(stored)
		tt.change(want)
		wantMessage(t, tt.name, got, want)
	}
}

// TestInlineFits checks that what would make the answer too long for its client is left out.
func TestInlineFits(t *testing.T) {
	r := newRig(t)
	var req repb.GetActionResultRequest
	result := &repb.ActionResult{StdoutDigest: r.put(digest.SHA256, pattern(3<<20, 1)), StderrDigest: r.put(digest.SHA256, pattern(1<<20, 2))}
	for i := range 2000 {
		path := string(rune('a'+i%26)) + pad(i)
		result.OutputFiles = append(result.OutputFiles, &repb.OutputFile{Path: path, Digest: r.put(digest.SHA256, pattern(i+1, 3))})
		req.InlineOutputFiles = append(req.InlineOutputFiles, path)
	}
	req.ActionDigest, req.InlineStdout, req.InlineStderr = wireOf([]byte("action")), true, true
	if _, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{ActionDigest: req.ActionDigest, ActionResult: result}); err != nil {
		t.Fatal(err)
	}
	got, err := r.ac.GetActionResult(r.ctx, &req)
	if err != nil {
		t.Fatal(err)
	}
	if n := proto.Size(got); n > maxMessage {
		t.Errorf("answer: got %d bytes, want at most %d", n, maxMessage)
	}
	inlined := 0
	for _, file := range got.GetOutputFiles() {
		if len(file.GetContents()) > 0 {
			inlined++
		}
	}
	if got.StdoutRaw != nil || len(got.StderrRaw) != 1<<20 || inlined == 0 || inlined == 2000 {
		t.Errorf("got %d bytes of stdout, %d of stderr, %d of 2000 files", len(got.StdoutRaw), len(got.StderrRaw), inlined)
	}
}

// TestResultLimit checks that a result of the largest size, put over either port, can be got over
// gRPC by a client with gRPC's default limit, and that a longer one is refused by both.
func TestResultLimit(t *testing.T) {
	r := newRig(t)
	over := httptest.NewServer(httpcache.New(httpcache.Options{Store: r.store, Actions: r.server.actions}))
	defer over.Close()
	key := digest.SHA256.Of([]byte("action"))
	putHTTP := func(result *repb.ActionResult) (code int, text string) {
		req, err := http.NewRequest("PUT", over.URL+"/ac/"+key.Hex(), bytes.NewReader(marshal(t, result)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := over.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	putGRPC := func(result *repb.ActionResult) error {
		_, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{ActionDigest: onWire(key), ActionResult: result})
		return err
	}
	result := &repb.ActionResult{OutputSymlinks: []*repb.OutputSymlink{{Path: "link", Target: strings.Repeat("x", action.MaxResult-50)}}}
	result.OutputSymlinks[0].Path += strings.Repeat("y", action.MaxResult-proto.Size(result))
	if got, want := proto.Size(result), action.MaxResult; got != want {
		t.Fatalf("the result has %d bytes, want %d", got, want)
	}
	check := func(port string) {
		got, err := r.ac.GetActionResult(r.ctx, &repb.GetActionResultRequest{ActionDigest: onWire(key), InlineStdout: true})
		if err != nil || len(got.OutputSymlinks[0].Target) != len(result.OutputSymlinks[0].Target) {
			t.Errorf("put over %s: %v", port, err)
		}
	}
	if code, text := putHTTP(result); code != 200 {
		t.Fatalf("HTTP: got %d, %s, want 200", code, text)
	}
	check("HTTP")
	if err := putGRPC(result); err != nil {
		t.Fatal(err)
	}
	check("gRPC")
	result.OutputSymlinks[0].Path += "z"
	limit := fmt.Sprint(action.MaxResult)
	if code, text := putHTTP(result); code != 413 || !strings.Contains(text, limit) {
		t.Errorf("HTTP: got %d, %s, want 413 and the limit", code, text)
	}
	wantStatus(t, putGRPC(result), codes.InvalidArgument, "action_result: ", limit)
}

// TestIncomplete checks both sides of the promise: a result that names a missing blob isn't taken, and
// one of which a blob went isn't served.
func TestIncomplete(t *testing.T) {
	missing := digest.SHA256.Of([]byte("missing"))
	missing2 := digest.SHA256.Of([]byte("missing too"))
	r := newRig(t)
	withTree := func(file digest.Digest) *repb.OutputDirectory {
		tree := &repb.Tree{Root: &repb.Directory{Files: []*repb.FileNode{{Name: "x", Digest: onWire(file)}}}}
		return &repb.OutputDirectory{Path: "d", TreeDigest: r.put(digest.SHA256, marshal(t, tree))}
	}
	withRoot := func(file digest.Digest) *repb.OutputDirectory {
		child := r.put(digest.SHA256, marshal(t, &repb.Directory{Files: []*repb.FileNode{{Name: "x", Digest: onWire(file)}}}))
		root := r.put(digest.SHA256, marshal(t, &repb.Directory{Directories: []*repb.DirectoryNode{{Name: "c", Digest: child}}}))
		return &repb.OutputDirectory{Path: "d", RootDirectoryDigest: root}
	}
	for _, tt := range []struct {
		name   string
		result *repb.ActionResult
		want   []digest.Digest
	}{
		{"file", &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "f", Digest: onWire(missing)}}}, []digest.Digest{missing}},
		{"stdout and stderr", &repb.ActionResult{StdoutDigest: onWire(missing), StderrDigest: onWire(missing2)}, []digest.Digest{missing, missing2}},
		{"tree", &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{Path: "d", TreeDigest: onWire(missing)}}}, []digest.Digest{missing}},
		{"file in a tree", &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{withTree(missing)}}, []digest.Digest{missing}},
		{"file below a root directory", &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{withRoot(missing)}}, []digest.Digest{missing}},
		{"root directory", &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{Path: "d", RootDirectoryDigest: onWire(missing)}}}, []digest.Digest{missing}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := wireOf([]byte(tt.name))
			_, err := r.ac.UpdateActionResult(r.ctx, &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: tt.result})
			wantStatus(t, err, codes.FailedPrecondition, missing.Hex())
			if text := status.Convert(err).Message(); !strings.HasPrefix(text, "action_result: ") {
				t.Errorf("got message %q, want it to begin with the field", text)
			}
			details := status.Convert(err).Details()
			if len(details) != 1 {
				t.Fatalf("details: got %v, want one", details)
			}
			want := new(errdetails.PreconditionFailure)
			for _, d := range tt.want {
				want.Violations = append(want.Violations, &errdetails.PreconditionFailure_Violation{Type: "MISSING", Subject: "blobs/" + d.String()})
			}
			wantMessage(t, "details", details[0].(proto.Message), want)
			_, err = r.ac.GetActionResult(r.ctx, &repb.GetActionResultRequest{ActionDigest: key})
			wantStatus(t, err, codes.NotFound)
		})
	}
}

// TestEvictedResult checks that a result goes when something of it went, and for good.
func TestEvictedResult(t *testing.T) {
	withoutLease := model.New(0)
	r := newRig(t, func(o *Options) { o.Store, o.Actions = withoutLease, action.New(withoutLease, withoutLease) })
	r.store = withoutLease
	key := wireOf([]byte("action"))
	update := &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: r.aResult(digest.SHA256)}
	if _, err := r.ac.UpdateActionResult(r.ctx, update); err != nil {
		t.Fatal(err)
	}
	get := &repb.GetActionResultRequest{ActionDigest: key}
	if _, err := r.ac.GetActionResult(r.ctx, get); err != nil {
		t.Fatal(err)
	}
	r.store.Evict()
	_, err := r.ac.GetActionResult(r.ctx, get)
	wantStatus(t, err, codes.NotFound)
	r.aResult(digest.SHA256)
	_, err = r.ac.GetActionResult(r.ctx, get)
	wantStatus(t, err, codes.NotFound)
}

func TestActionResultErrors(t *testing.T) {
	r := newRig(t)
	key := wireOf([]byte("action"))
	good := r.put(digest.SHA256, []byte("good"))
	bad := &repb.Digest{Hash: "abc", SizeBytes: 1}
	negative := &repb.Digest{Hash: good.Hash, SizeBytes: -1}
	for _, tt := range []struct {
		name string
		req  *repb.UpdateActionResultRequest
		want string
	}{
		{"no action", &repb.UpdateActionResultRequest{ActionResult: &repb.ActionResult{}}, "action_digest: missing"},
		{"malformed action", &repb.UpdateActionResultRequest{ActionDigest: bad}, "action_digest.hash: "},
		{"function", &repb.UpdateActionResultRequest{ActionDigest: key, DigestFunction: repb.DigestFunction_SHA512}, "digest_function: SHA512"},
		{"no result", &repb.UpdateActionResultRequest{ActionDigest: key}, "action_result: missing"},
		{"file", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Digest: good}, {Digest: bad}}}}, "action_result.output_files[1].digest.hash: "},
		{"file without digest", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Path: "x"}}}}, "action_result.output_files[0].digest: missing"},
		{"file of negative size", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Digest: negative}}}}, "action_result.output_files[0].digest.size_bytes: "},
		{"directory", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{TreeDigest: bad}}}}, "action_result.output_directories[0].tree_digest.hash: "},
		{"directory without digest", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{}}}}, "action_result.output_directories[0].tree_digest: missing"},
		{"root directory", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{RootDirectoryDigest: bad}}}}, "action_result.output_directories[0].root_directory_digest.hash: "},
		{"stdout", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{StdoutDigest: bad}}, "action_result.stdout_digest.hash: "},
		{"stderr", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{StderrDigest: negative}}, "action_result.stderr_digest.size_bytes: "},
		{"tree that is none", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{OutputDirectories: []*repb.OutputDirectory{{TreeDigest: good}}}}, "action_result.output_directories[0].tree_digest: "},
		{"inlined bytes that do not match", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{StdoutDigest: wireOf([]byte("one")), StdoutRaw: []byte("two")}}, "action_result.stdout_raw: "},
		{"longer than a message", &repb.UpdateActionResultRequest{ActionDigest: key, ActionResult: &repb.ActionResult{StdoutRaw: make([]byte, 5<<20)}}, "action_result: its 5242"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.ac.UpdateActionResult(r.ctx, tt.req)
			wantStatus(t, err, codes.InvalidArgument, tt.want)
		})
	}
	for _, tt := range []struct {
		req  *repb.GetActionResultRequest
		want string
	}{
		{&repb.GetActionResultRequest{}, "action_digest: missing"},
		{&repb.GetActionResultRequest{ActionDigest: bad}, "action_digest.hash: "},
		{&repb.GetActionResultRequest{ActionDigest: key, DigestFunction: repb.DigestFunction_MURMUR3}, "digest_function: MURMUR3"},
	} {
		_, err := r.ac.GetActionResult(r.ctx, tt.req)
		wantStatus(t, err, codes.InvalidArgument, tt.want)
	}
}
