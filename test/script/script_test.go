package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/uuid"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/sarsen-build/sarsen/digest"
)

// patience bounds every wait for the program. It is no measure of speed. A script that is about an
// answer coming at once sets $patience, which bounds its HTTP requests.
const patience = 60 * time.Second

// bin is the directory of the program under test.
var bin string

func TestMain(m *testing.M) {
	// Under nohup a hangup is ignored, here and in what is started from here. What is caught here is not ignored there.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(build(m))
}

// build builds the program once, or takes the one that SARSEN names, and runs the tests.
func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sarsen-script-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	program := filepath.Join(dir, "sarsen")
	if given := os.Getenv("SARSEN"); given != "" {
		err = os.Symlink(given, program)
	} else {
		var out []byte
		out, err = exec.Command("go", "build", "-o", program, "../../cmd/sarsen").CombinedOutput()
		os.Stderr.Write(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "building sarsen:", err)
		return 1
	}
	return m.Run()
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("patience", patience.String())
			env.Values[stateKey{}] = &state{}
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "mount" {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			return canMount()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": start, "signal": sendSignal, "ended": ended, "shutdown": shutdown, "httpget": httpGet, "httpput": httpPut, "httppost": httpPost,
			"httpbegin": httpBegin, "httpend": httpEnd, "grpcbegin": grpcBegin, "grpcend": grpcEnd, "tinydisk": tinyDisk, "fill": fill, "digest": setDigest, "encode": encode,
			"flip": flip, "jsonlines": jsonLines, "hangup": hangup, "await": await,
		},
	})
}

// TestNoScriptEndsEarly looks for testscript's own "stop", which ends a script there, as passed.
func TestNoScriptEndsEarly(t *testing.T) {
	names, err := filepath.Glob("*.txt")
	if err != nil || len(names) == 0 {
		t.Fatalf("got no scripts, %v", err)
	}
	early := regexp.MustCompile(`(?m)^(\[.*\] *)?!? *stop\b`)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if early.Match(text) {
			t.Errorf("%s: stop ends the script; shutdown stops the program", name)
		}
	}
}

// A state is what one script has running.
type state struct {
	sarsen   *exec.Cmd
	ended    chan error // gets sarsen's end
	out, err string     // the files that get what it says

	// A PUT that httpbegin began and httpend ends.
	body   *io.PipeWriter
	rest   []byte
	answer chan reply

	upload *upload // that grpcbegin began and grpcend ends
}

type stateKey struct{}

func stateOf(ts *testscript.TestScript) *state { return ts.Value(stateKey{}).(*state) }

var addresses = regexp.MustCompile(`remote_cache=(grpc|http)://(\S+)`)

func start(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if neg || len(args) == 0 || s.sarsen != nil {
		ts.Fatalf("usage: start ARGS..., once at a time")
	}
	s.out, s.err = ts.MkAbs(".sarsen.out"), ts.MkAbs(".sarsen.err")
	out, err := os.Create(s.out)
	ts.Check(err)
	defer out.Close() // the program has its own
	log, err := os.Create(s.err)
	ts.Check(err)
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "sarsen"), args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + ts.Getenv("TMPDIR")}
	cmd.Stdout, cmd.Stderr = out, log
	ts.Check(cmd.Start())
	s.sarsen, s.ended = cmd, make(chan error, 1)
	go func() { s.ended <- cmd.Wait() }()
	ts.Defer(func() { s.kill(ts) })
	s.says(ts, s.out, "Ctrl-C stops it")
	for _, m := range addresses.FindAllStringSubmatch(s.show(ts), -1) {
		ts.Setenv(m[1], m[2])
	}
}

// says waits until the program has written text to a file.
func (s *state) says(ts *testscript.TestScript, file, text string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		said, err := os.ReadFile(file)
		ts.Check(err)
		if strings.Contains(string(said), text) {
			return
		}
		select {
		case err := <-s.ended:
			s.sarsen = nil
			s.show(ts)
			ts.Fatalf("sarsen ended (%v) before it said %q", err, text)
		default:
		}
		if time.Now().After(deadline) {
			s.show(ts)
			ts.Fatalf("sarsen did not say %q within %s", text, patience)
		}
	}
}

// show makes what the program has said the script's stdout and stderr, and returns its stdout.
func (s *state) show(ts *testscript.TestScript) string {
	out, err := os.ReadFile(s.out)
	ts.Check(err)
	log, err := os.ReadFile(s.err)
	ts.Check(err)
	_, _ = ts.Stdout().Write(out)
	_, _ = ts.Stderr().Write(log)
	return string(out)
}

// kill ends what a script left running.
func (s *state) kill(ts *testscript.TestScript) {
	if s.sarsen != nil {
		_ = s.sarsen.Process.Kill()
		<-s.ended
		s.sarsen = nil
		log, _ := os.ReadFile(s.err)
		ts.Logf("sarsen, which was left running, said:\n%s", log)
	}
}

var signals = map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}

func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if neg || len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal TERM|INT|HUP|KILL")
	}
	if s.sarsen == nil {
		ts.Fatalf("signal: nothing runs; use start first")
	}
	ts.Check(s.sarsen.Process.Signal(signals[args[0]]))
	if args[0] != "KILL" {
		// Two signals that arrive at once are one.
		s.says(ts, s.err, "stopping")
	}
}

func ended(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if len(args) != 0 || s.sarsen == nil {
		ts.Fatalf("usage: ended, after start")
	}
	select {
	case err := <-s.ended:
		s.sarsen = nil
		s.show(ts)
		if (err != nil) != neg {
			ts.Fatalf("sarsen ended with: %v", err)
		}
	case <-time.After(patience):
		s.show(ts)
		ts.Fatalf("sarsen did not end within %s", patience)
	}
}

func shutdown(ts *testscript.TestScript, neg bool, args []string) {
	sendSignal(ts, false, []string{"TERM"})
	ended(ts, neg, args)
}

// A reply is what an HTTP request came to.
type reply struct {
	code int
	body []byte
	err  error
}

func (r reply) check(ts *testscript.TestScript, neg bool) {
	if r.err != nil {
		fmt.Fprintln(ts.Stderr(), r.err)
		if !neg {
			ts.Fatalf("%v", r.err)
		}
		return
	}
	_, err := ts.Stdout().Write(r.body)
	ts.Check(err)
	fmt.Fprintf(ts.Stderr(), "%d\n", r.code)
	if ok := r.code/100 == 2; ok == neg {
		ts.Fatalf("got status %d, %s", r.code, bytes.TrimSpace(r.body))
	}
}

func do(ts *testscript.TestScript, method, url string, body io.Reader, size int64) reply {
	limit, err := time.ParseDuration(ts.Getenv("patience"))
	ts.Check(err)

	request, err := http.NewRequest(method, url, body)
	if err != nil {
		return reply{err: err}
	}
	request.ContentLength = size
	// The body waits until the server asks for it: once a byte of it is gone, the request is being
	// served, and a stop has to wait for it.
	request.Header.Set("Expect", "100-continue")
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: limit}}
	answer, err := client.Do(request)
	if err != nil {
		return reply{err: err}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return reply{answer.StatusCode, text, err}
}

func httpGet(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 && len(args) != 2 {
		ts.Fatalf("usage: httpget URL [FILE]")
	}
	r := do(ts, http.MethodGet, args[0], nil, 0)
	r.check(ts, neg)
	if len(args) == 2 {
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), r.body, 0o600))
	}
}

func httpPut(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: httpput URL FILE")
	}
	data := ts.ReadFile(args[1])
	do(ts, http.MethodPut, args[0], strings.NewReader(data), int64(len(data))).check(ts, neg)
}

func httpPost(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: httppost URL FILE")
	}
	data := ts.ReadFile(args[1])
	do(ts, http.MethodPost, args[0], strings.NewReader(data), int64(len(data))).check(ts, neg)
}

func httpBegin(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if neg || len(args) != 2 || s.body != nil {
		ts.Fatalf("usage: httpbegin URL FILE, once at a time")
	}
	data := []byte(ts.ReadFile(args[1]))
	r, w := io.Pipe()
	s.body, s.rest, s.answer = w, data[len(data)/2:], make(chan reply, 1)
	ts.Defer(func() { _ = w.CloseWithError(errors.New("the script ended")) })
	go func() { s.answer <- do(ts, http.MethodPut, args[0], r, int64(len(data))) }()
	_, err := w.Write(data[:len(data)/2])
	ts.Check(err)
}

func httpEnd(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if len(args) != 0 || s.body == nil {
		ts.Fatalf("usage: httpend, after httpbegin")
	}
	// A server that has cut the request takes no more; the answer tells.
	_, _ = s.body.Write(s.rest)
	_ = s.body.Close()
	s.body = nil
	(<-s.answer).check(ts, neg)
}

// An upload is a ByteStream.Write under way.
type upload struct {
	stream bytestream.ByteStream_WriteClient
	size   int64
	rest   []byte
}

func grpcBegin(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if neg || len(args) != 2 || s.upload != nil {
		ts.Fatalf("usage: grpcbegin ADDRESS FILE, once at a time")
	}
	data := []byte(ts.ReadFile(args[1]))
	conn, err := grpc.NewClient(args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ts.Defer(cancel)
	client := bytestream.NewByteStreamClient(conn)
	stream, err := client.Write(ctx)
	ts.Check(err)
	name := "uploads/" + uuid.NewString() + "/blobs/" + digest.SHA256.Of(data).String()
	half := len(data) / 2
	ts.Check(stream.Send(&bytestream.WriteRequest{ResourceName: name, Data: data[:half]}))
	for {
		got, err := client.QueryWriteStatus(ctx, &bytestream.QueryWriteStatusRequest{ResourceName: name})
		ts.Check(err)
		if got.GetCommittedSize() == int64(half) {
			break
		}
	}
	s.upload = &upload{stream, int64(len(data)), data[half:]}
}

func grpcEnd(ts *testscript.TestScript, neg bool, args []string) {
	s := stateOf(ts)
	if neg || len(args) != 0 || s.upload == nil {
		ts.Fatalf("usage: grpcend, after grpcbegin")
	}
	u := s.upload
	s.upload = nil
	// A server that has cut the call takes no more; the answer tells.
	_ = u.stream.Send(&bytestream.WriteRequest{WriteOffset: u.size - int64(len(u.rest)), Data: u.rest, FinishWrite: true})
	answer, err := u.stream.CloseAndRecv()
	ts.Check(err)
	if got := answer.GetCommittedSize(); got != u.size {
		ts.Fatalf("%d of %d bytes were committed", got, u.size)
	}
}

// canMount reports whether tinydisk works here. Where it does not, that is said aloud, and on CI it is
// an error: a script that is skipped unseen is worth nothing.
func canMount() (bool, error) {
	dir, err := os.MkdirTemp("", "sarsen-script-")
	if err != nil {
		return false, err
	}
	defer os.Remove(dir)
	out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", dir).CombinedOutput()
	if err == nil {
		return true, exec.Command("umount", dir).Run()
	}
	if os.Getenv("CI") == "true" {
		return false, fmt.Errorf("this has to run on CI and can't mount: %w: %s", err, out)
	}
	fmt.Fprintf(os.Stderr, "\n*** what a full disk does is NOT tried, because nothing can be mounted here: %v: %s\n\n", err, bytes.TrimSpace(out))
	return false, nil
}

func tinyDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tinydisk DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o755))
	ts.Check(exec.Command("mount", "-t", "tmpfs", "-o", "size="+args[1], "tmpfs", dir).Run())
	ts.Defer(func() {
		// Deferred calls run in reverse order, so the program that start started later has ended.
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			ts.Logf("umount %s: %v: %s", dir, err, out)
		}
	})
}

func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: fill FILE SIZE SEED")
	}
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	var seed [32]byte
	copy(seed[:], args[2])
	data := make([]byte, size)
	_, err = rand.NewChaCha8(seed).Read(data)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

func setDigest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: digest NAME FILE")
	}
	d := digest.SHA256.Of([]byte(ts.ReadFile(args[1])))
	ts.Setenv(args[0], d.String())
	ts.Setenv(args[0]+"_hash", d.Hex())
	ts.Setenv(args[0]+"_size", strconv.FormatInt(d.Size, 10))
}

func encode(ts *testscript.TestScript, neg bool, args []string) {
	messages := map[string]proto.Message{
		"Action": &repb.Action{}, "ActionResult": &repb.ActionResult{}, "Command": &repb.Command{}, "Directory": &repb.Directory{},
	}
	if neg || len(args) != 3 || messages[args[0]] == nil {
		ts.Fatalf("usage: encode Action|ActionResult|Command|Directory IN OUT")
	}
	m := messages[args[0]]
	ts.Check(prototext.Unmarshal([]byte(os.Expand(ts.ReadFile(args[1]), ts.Getenv)), m))
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), data, 0o600))
}
