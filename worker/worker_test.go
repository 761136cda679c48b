package worker_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/files"
	"github.com/sarsen-build/sarsen/internal/model"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/upstream"
	"github.com/sarsen-build/sarsen/worker"
	"github.com/sarsen-build/sarsen/worker/sandbox"
	"github.com/sarsen-build/sarsen/worker/stage"
)

func TestMain(m *testing.M) {
	if sandbox.Main() {
		return
	}
	os.Exit(m.Run())
}

// A rig is a server with a scheduler, to which workers can be connected.
type rig struct {
	*testing.T
	store     *model.Store
	conn      *grpc.ClientConn
	scheduler *execution.Scheduler
	connect   func(context.Context) (pb.Workers_ConnectClient, error)
}

// everywhere runs test with workers in other processes' place, which reach the scheduler by gRPC, and with such as
// are in the server's own process.
func everywhere(t *testing.T, test func(*testing.T, *rig)) {
	t.Run("far", func(t *testing.T) { test(t, newRig(t, false)) })
	t.Run("near", func(t *testing.T) { test(t, newRig(t, true)) })
}

func newRig(t *testing.T, near bool) *rig {
	t.Helper()
	store := model.New(time.Hour)
	actions := action.New(store, store)
	scheduler := execution.New(execution.Options{Store: store, Actions: actions})
	s := server.New(server.Options{Store: store, Actions: actions, Scheduler: scheduler})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stopping, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Stop(stopping)
		scheduler.Close()
	})
	connect := func(ctx context.Context) (pb.Workers_ConnectClient, error) {
		return pb.NewWorkersClient(conn).Connect(ctx)
	}
	if near {
		connect = s.ConnectWorker
	}
	return &rig{t, store, conn, scheduler, connect}
}

// work starts a worker without a sandbox, and returns what stops it.
func (r *rig) work(name string) (stop func()) {
	r.Helper()
	dir := r.TempDir()
	kept, err := files.Open(filepath.Join(dir, "files"), files.Options{MaxSize: 100 << 20})
	if err != nil {
		r.Fatal(err)
	}
	store := upstream.New(r.conn, "", upstream.Options{})
	stager, err := stage.Open(stage.Options{Dir: filepath.Join(dir, "trees"), Files: kept, Source: store})
	if err != nil {
		r.Fatal(err)
	}
	runner, err := sandbox.Start(sandbox.Options{Mode: sandbox.None})
	if err != nil {
		r.Fatal(err)
	}
	connected := make(chan struct{})
	w, err := worker.New(worker.Options{
		Connect: r.connect, Name: name, Dir: dir, Slots: 2, Stager: stager, Store: store, Runner: runner,
		Properties: []*repb.Platform_Property{{Name: "pool", Value: name}},
		Connected:  func() { close(connected) },
	})
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.Run(ctx); err != nil {
			r.Errorf("the worker ended with %v", err)
		}
		_, _, _ = runner.Close(), stager.Close(), kept.Close()
	}()
	<-connected
	stopped := false
	stop = func() {
		if !stopped {
			cancel()
			<-ended
			stopped = true
		}
	}
	r.Cleanup(stop)
	return stop
}

func (r *rig) put(data []byte) *repb.Digest {
	r.Helper()
	d := digest.SHA256.Of(data)
	if err := blob.Put(r.Context(), r.store, d, data); err != nil {
		r.Fatal(err)
	}
	return upstream.ToProto(d)
}

func (r *rig) message(m proto.Message) *repb.Digest {
	r.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		r.Fatal(err)
	}
	return r.put(b)
}

// shell stores an action that runs a script with the file "in", which says "input", beside it.
func (r *rig) shell(script string, timeout time.Duration, outputs ...string) *repb.Digest {
	r.Helper()
	return r.message(&repb.Action{
		CommandDigest: r.message(&repb.Command{
			Arguments:            []string{"/bin/sh", "-c", script},
			EnvironmentVariables: []*repb.Command_EnvironmentVariable{{Name: "PATH", Value: "/usr/bin:/bin"}},
			OutputPaths:          outputs,
		}),
		InputRootDigest: r.message(&repb.Directory{Files: []*repb.FileNode{{Name: "in", Digest: r.put([]byte("input"))}}}),
		Timeout:         durationpb.New(timeout),
	})
}

// begin executes an action and returns the stream.
func (r *rig) begin(d *repb.Digest) repb.Execution_ExecuteClient {
	r.Helper()
	stream, err := repb.NewExecutionClient(r.conn).Execute(r.Context(), &repb.ExecuteRequest{ActionDigest: d})
	if err != nil {
		r.Fatal(err)
	}
	return stream
}

// end waits for the answer.
func (r *rig) end(stream repb.Execution_ExecuteClient) *repb.ExecuteResponse {
	r.Helper()
	op := r.until(stream, func(op *longrunning.Operation) bool { return op.Done })
	response := new(repb.ExecuteResponse)
	if err := op.GetResponse().UnmarshalTo(response); err != nil {
		r.Fatalf("operation %v: %v", op, err)
	}
	return response
}

func (r *rig) until(stream repb.Execution_ExecuteClient, ok func(*longrunning.Operation) bool) *longrunning.Operation {
	r.Helper()
	for {
		op, err := stream.Recv()
		if err != nil {
			r.Fatal(err)
		}
		if ok(op) {
			return op
		}
	}
}

func (r *rig) read(p *repb.Digest) string {
	r.Helper()
	d, err := upstream.FromProto(digest.SHA256, p)
	if err != nil {
		r.Fatal(err)
	}
	b, err := blob.Get(r.Context(), r.store, d)
	if err != nil {
		r.Fatal(err)
	}
	return string(b)
}

func TestRun(t *testing.T) { everywhere(t, testRun) }

func testRun(t *testing.T, r *rig) {
	r.work("one")
	d := r.shell("cat in in > out; mkdir dir; echo x > dir/x; echo said; echo complained >&2", 0, "out", "dir", "absent")
	got := r.end(r.begin(d))
	if got.GetStatus().GetCode() != 0 || got.GetResult().GetExitCode() != 0 || got.CachedResult {
		t.Fatalf("got %v, want a result that is not from the cache", got)
	}
	result := got.Result
	if string(result.StdoutRaw) != "said\n" || string(result.StderrRaw) != "complained\n" {
		t.Errorf("got %q and %q on stdout and stderr", result.StdoutRaw, result.StderrRaw)
	}
	if len(result.OutputFiles) != 1 || result.OutputFiles[0].Path != "out" || r.read(result.OutputFiles[0].Digest) != "inputinput" {
		t.Errorf("output files: got %v, want out with the input twice", result.OutputFiles)
	}
	if len(result.OutputDirectories) != 1 || result.OutputDirectories[0].Path != "dir" {
		t.Errorf("output directories: got %v, want dir", result.OutputDirectories)
	}
	m := result.ExecutionMetadata
	order := []time.Time{
		m.QueuedTimestamp.AsTime(), m.WorkerStartTimestamp.AsTime(), m.InputFetchStartTimestamp.AsTime(), m.InputFetchCompletedTimestamp.AsTime(),
		m.ExecutionStartTimestamp.AsTime(), m.ExecutionCompletedTimestamp.AsTime(), m.OutputUploadStartTimestamp.AsTime(),
		m.OutputUploadCompletedTimestamp.AsTime(), m.WorkerCompletedTimestamp.AsTime(),
	}
	for i := 1; i < len(order); i++ {
		if order[i].Before(order[i-1]) || order[i].Unix() <= 0 {
			t.Errorf("timestamp %d of the metadata: got %v after %v", i, order[i], order[i-1])
		}
	}
	if again := r.end(r.begin(d)); !again.CachedResult || m.Worker != "one" {
		t.Errorf("the second time: cached %t, worker %q; want it cached, of one", again.CachedResult, m.Worker)
	}
}

// TestFailures: what an action does wrong comes back with what it printed, and is not cached.
func TestFailures(t *testing.T) { everywhere(t, testFailures) }

func testFailures(t *testing.T, r *rig) {
	r.work("one")
	for _, test := range []struct {
		script  string
		timeout time.Duration
		code    codes.Code
		exit    int32
	}{
		{"echo before; exit 7", 0, codes.OK, 7},
		{"echo before; kill -SEGV $$", 0, codes.OK, 128 + 11},
		{"echo before; exec sleep 600", 2 * time.Second, codes.DeadlineExceeded, -1},
		{"echo before; mkfifo out", 0, codes.FailedPrecondition, 0},
		{"echo before; mkfifo out; exec sleep 600", 2 * time.Second, codes.DeadlineExceeded, -1},
	} {
		d := r.shell(test.script, test.timeout, "out")
		for range 2 {
			got := r.end(r.begin(d))
			if codes.Code(got.GetStatus().GetCode()) != test.code || got.CachedResult {
				t.Errorf("%s: got status %v, cached %t; want %v, not cached", test.script, got.Status, got.CachedResult, test.code)
			}
			if test.exit >= 0 && got.GetResult().GetExitCode() != test.exit {
				t.Errorf("%s: got exit code %d, want %d", test.script, got.GetResult().GetExitCode(), test.exit)
			}
			if string(got.GetResult().GetStdoutRaw()) != "before\n" {
				t.Errorf("%s: got %q on stdout, want what came before", test.script, got.GetResult().GetStdoutRaw())
			}
		}
	}
}

// TestLeave: a worker that is stopped says so, and what it ran goes to another one at once, not after the grace
// time of one that may come back.
func TestLeave(t *testing.T) { everywhere(t, testLeave) }

func testLeave(t *testing.T, r *rig) {
	stop := r.work("one")
	release := filepath.Join(t.TempDir(), "release")
	stream := r.begin(r.shell("while ! [ -e "+release+" ]; do sleep 0.05; done; echo done", 0))
	r.until(stream, func(op *longrunning.Operation) bool {
		meta := new(repb.ExecuteOperationMetadata)
		return op.Metadata.UnmarshalTo(meta) == nil && meta.PartialExecutionMetadata.GetExecutionStartTimestamp() != nil
	})
	r.work("two")
	stop()
	for _, w := range r.scheduler.Workers() {
		if w.Name == "one" {
			t.Errorf("after one left the scheduler still has it: %+v", w)
		}
	}
	if err := os.WriteFile(release, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	got := r.end(stream)
	if got.GetResult().GetExecutionMetadata().GetWorker() != "two" || string(got.Result.StdoutRaw) != "done\n" {
		t.Errorf("got %v, want a result of worker two", got)
	}
}

// TestDrain: a worker that is drained ends what it runs, and then its Run.
func TestDrain(t *testing.T) { everywhere(t, testDrain) }

func testDrain(t *testing.T, r *rig) {
	r.work("one")
	stream := r.begin(r.shell("sleep 0.3; echo done", 0))
	r.until(stream, func(op *longrunning.Operation) bool {
		meta := new(repb.ExecuteOperationMetadata)
		return op.Metadata.UnmarshalTo(meta) == nil && meta.Stage == repb.ExecutionStage_EXECUTING
	})
	if err := r.scheduler.Drain("one"); err != nil {
		t.Fatal(err)
	}
	if got := r.end(stream); string(got.GetResult().GetStdoutRaw()) != "done\n" {
		t.Errorf("got %v, want what ran to its end", got)
	}
	for deadline := time.Now().Add(time.Minute); len(r.scheduler.Workers()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the drained worker did not leave within a minute")
		}
	}
}

// TestLog: what an action prints can be read while it runs.
func TestLog(t *testing.T) { everywhere(t, testLog) }

func testLog(t *testing.T, r *rig) {
	r.work("one")
	release := filepath.Join(t.TempDir(), "release")
	stream := r.begin(r.shell("echo early; while ! [ -e "+release+" ]; do sleep 0.05; done", 0))
	name := ""
	r.until(stream, func(op *longrunning.Operation) bool {
		meta := new(repb.ExecuteOperationMetadata)
		if op.Metadata.UnmarshalTo(meta) == nil {
			name = meta.StdoutStreamName
		}
		return meta.Stage == repb.ExecutionStage_EXECUTING
	})
	if !strings.HasPrefix(name, "logstreams/") {
		t.Fatalf("stdout_stream_name: got %q, want logstreams/...", name)
	}
	log, err := r.scheduler.OpenLog(name)
	if err != nil {
		t.Fatal(err)
	}
	data, _, err := log.Next(t.Context(), 100)
	if err != nil || string(data) != "early\n" {
		t.Errorf("got %q, %v while it runs, want what it printed", data, err)
	}
	if err := os.WriteFile(release, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	r.end(stream)
}

// TestWholeLog: who reads what an action prints gets all of it, also what it prints just before it ends.
func TestWholeLog(t *testing.T) {
	r := newRig(t, false)
	r.work("one")
	release := filepath.Join(t.TempDir(), "release")
	for n := range 10 {
		stream := r.begin(r.shell("echo early "+fmt.Sprint(n)+"; while ! [ -e "+release+" ]; do sleep 0.05; done; seq 60000", 0))
		meta := new(repb.ExecuteOperationMetadata)
		r.until(stream, func(op *longrunning.Operation) bool { return op.Metadata.UnmarshalTo(meta) == nil })
		log, err := r.scheduler.OpenLog(meta.StdoutStreamName)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for err == nil {
			var data []byte
			if data, _, err = log.Next(t.Context(), 1<<20); len(got) == 0 && len(data) > 0 {
				if err := os.WriteFile(release, nil, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got = append(got, data...)
		}
		want := r.read(r.end(stream).Result.StdoutDigest)
		if string(got) != want {
			t.Fatalf("read %d bytes while it ran, it printed %d", len(got), len(want))
		}
		_ = os.Remove(release)
	}
}
