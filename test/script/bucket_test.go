package script

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// heartbeat is how long a server may be cut off. A machine that tests run on may be slow.
const heartbeat = 5 * time.Second

// A fleet is servers that share a bucket, on a real S3 server.
type fleet struct {
	t      *testing.T
	gate   *versitygw.Server
	dir    string
	config string // the file that says where the bucket is
}

func newFleet(t *testing.T, settings string) *fleet {
	t.Helper()
	return newFleetOf(t, versitygw.Start(t), settings)
}

func newFleetOf(t *testing.T, gate *versitygw.Server, settings string) *fleet {
	t.Helper()
	f := &fleet{t: t, gate: gate, dir: t.TempDir()}
	keys := filepath.Join(f.dir, "keys.yaml")
	f.config = filepath.Join(f.dir, "sarsen.yaml")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(keys, fmt.Sprintf("access-key: %s\nsecret-key: %s\n", f.gate.AccessKey, f.gate.SecretKey))
	write(f.config, fmt.Sprintf(`max-size: 64MiB
lease: 1s
grpc: {address: '127.0.0.1:0'}
http: {address: '127.0.0.1:0'}
bucket:
  name: %s
  endpoint: %s
  credentials: %s
  prefix: builds
  heartbeat: %s
%s`, f.gate.Bucket, f.gate.Endpoint, keys, heartbeat, settings))
	return f
}

// A member is a server of a fleet.
type member struct {
	cmd  *exec.Cmd
	base string // of the HTTP port's URLs
	grpc string // the address of that port
	log  string // the file that gets what it says
}

// start starts the server whose disk is in a directory of that name.
func (f *fleet) start(name string, flags ...string) *member {
	f.t.Helper()
	m, err := f.tryStart(name, flags...)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

func (f *fleet) tryStart(name string, flags ...string) (*member, error) {
	m := &member{log: filepath.Join(f.dir, name+".log")}
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{"serve", "--config", f.config, "--dir", filepath.Join(f.dir, name)}, flags...)
	m.cmd = exec.Command(filepath.Join(bin, "sarsen"), args...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	f.t.Cleanup(func() {
		m.kill()
		if f.t.Failed() {
			said, _ := os.ReadFile(m.log)
			f.t.Logf("%s said:\n%s", name, said)
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- m.cmd.Wait() }()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		said, _ := os.ReadFile(m.log)
		if at := addresses.FindAllStringSubmatch(string(said), -1); strings.Contains(string(said), "Ctrl-C stops it") {
			m.base, m.grpc = "http://"+at[1][2], at[0][2]
			return m, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s ended: %v: %s", name, err, said)
		default:
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s is not ready: %s", name, said)
		}
	}
}

// kill ends the server as a power cut of its process would.
func (m *member) kill() {
	_ = m.cmd.Process.Kill()
	m.gone()
}

// stop ends it as an operator would.
func (m *member) stop() {
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	m.gone()
}

// gone waits until the process is none. Another goroutine waits for its status.
func (m *member) gone() {
	for m.cmd.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

func (m *member) do(method, path string, body []byte) (int, []byte, error) {
	request, err := http.NewRequest(method, m.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	answer, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

func (m *member) put(data []byte) error {
	code, text, err := m.do(http.MethodPut, "/cas/"+digest.SHA256.Of(data).Hex(), data)
	if err == nil && code/100 != 2 {
		err = fmt.Errorf("put: %d %s", code, text)
	}
	return err
}

func (m *member) get(data []byte) error {
	code, got, err := m.do(http.MethodGet, "/cas/"+digest.SHA256.Of(data).Hex(), nil)
	if err == nil && (code != http.StatusOK || !bytes.Equal(got, data)) {
		err = fmt.Errorf("get of %d bytes: %d, %d bytes", len(data), code, len(got))
	}
	return err
}

// run runs the program and returns what it printed.
func (f *fleet) run(args ...string) (string, error) {
	var out, log bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "sarsen"), args...)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("sarsen %s: %w: %s%s", strings.Join(args, " "), err, &out, &log)
	}
	return out.String(), nil
}

func (f *fleet) mustRun(args ...string) string {
	f.t.Helper()
	out, err := f.run(args...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// fsck returns what a check of the whole bucket finds, which must be nothing bad.
func (f *fleet) fsck() (c struct{ Objects, Bytes, Verified, Second_Copies int64 }) {
	f.t.Helper()
	out := f.mustRun("fsck", "--config", f.config, "--bucket", f.gate.Bucket, "--json")
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// session returns the session that the server has now.
func (m *member) session() (string, error) {
	_, text, err := m.do(http.MethodGet, "/status", nil)
	if err != nil {
		return "", err
	}
	var answer struct {
		Status struct {
			Bucket struct{ Session struct{ ID string } }
		}
	}
	if err = json.Unmarshal(text, &answer); err == nil && answer.Status.Bucket.Session.ID == "" {
		err = fmt.Errorf("no session in %s", text)
	}
	return answer.Status.Bucket.Session.ID, err
}

// bury says in the bucket that all sessions but those of the servers that live have been silent for a day, and that
// verdicts are that old, so that nobody has to wait for what they promised.
func (f *fleet) bury(alive ...*member) error {
	b, err := bucket.Open(context.Background(), bucket.Options{
		Bucket: f.gate.Bucket, Prefix: "builds/", Endpoint: f.gate.Endpoint, PathStyle: true, AccessKey: f.gate.AccessKey, SecretKey: f.gate.SecretKey,
	})
	if err != nil {
		return err
	}
	lives := map[string]bool{}
	for _, m := range alive {
		id, err := m.session()
		if err != nil {
			return err
		}
		lives["s/"+id] = true
	}
	then := time.Now().Add(-24 * time.Hour)
	p, err := b.List(context.Background(), "s/", "")
	if err != nil {
		return err
	}
	for _, o := range p.Objects {
		if lives[o.Key] {
			continue
		}
		text := fmt.Sprintf(`{"id": %q, "lease": 1, "heartbeat": 1, "state": "dead", "silent": %q}`, o.Key[2:], then.Format(time.RFC3339))
		if _, err := b.Put(context.Background(), o.Key, strings.NewReader(text), int64(len(text)), bucket.Condition{}); err != nil {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(f.gate.Dir, "builds", "d"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			_ = os.Chtimes(path, then, then)
		}
		return nil
	})
}

func random(r *rand.ChaCha8, n int) []byte {
	data := make([]byte, n)
	_, _ = r.Read(data)
	return data
}

// TestBucket: two servers share a bucket.
func TestBucket(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  refresh: 1s\n  collect: never\n")
	f.mustRun("check", "s3", "--config", f.config)
	r := rand.NewChaCha8([32]byte{1})
	a, b := f.start("a"), f.start("b")
	var blobs [][]byte
	for _, n := range []int{1, 1000, 300_000, 3_000_000} {
		data := random(r, n)
		blobs = append(blobs, data)
		if err := a.put(data); err != nil {
			t.Fatal(err)
		}
		if err := b.get(data); err != nil { // it looks in the bucket
			t.Error(err)
		}
	}
	a.kill()
	for _, data := range blobs {
		if err := b.get(data); err != nil {
			t.Error(err)
		}
	}
	// The disk is empty, so that all comes from the bucket.
	if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
		t.Fatal(err)
	}
	a = f.start("a")
	for _, data := range blobs {
		if err := a.get(data); err != nil {
			t.Error(err)
		}
	}
	_, status, err := a.do(http.MethodGet, "/status", nil)
	if err != nil || !strings.Contains(string(status), `"fetched": 4`) {
		t.Errorf("got the status %s, %v, want 4 blobs fetched", status, err)
	}
	_, metrics, err := a.do(http.MethodGet, "/metrics", nil)
	if err != nil || !strings.Contains(string(metrics), "\nsarsen_climb_fetched_total 4\n") || !strings.Contains(string(metrics), "\nsarsen_bucket_sessions_total 1\n") {
		t.Errorf("got the metrics %s, %v", metrics, err)
	}
	if c := f.fsck(); c.Objects < 4 || c.Verified != c.Objects {
		t.Errorf("got %+v", c)
	}
	// What the killed server promised stands.
	if out, err := f.run("gc", "--server", a.base, "--all", "--patience", "1s"); err == nil || !strings.Contains(err.Error(), "promised stands until") && !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("a collection beside a server that was just killed: %s, %v", out, err)
	}
	a.stop()
	b.stop()
}

// TestBucketBack: what a killed server acknowledged from its disk goes to the bucket when it starts again.
func TestBucketBack(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  write: back\n  collect: never\n")
	a := f.start("a")
	r := rand.NewChaCha8([32]byte{2})
	var blobs [][]byte
	for range 200 {
		data := random(r, 20_000)
		blobs = append(blobs, data)
		if err := a.put(data); err != nil {
			t.Fatal(err)
		}
	}
	a.kill()
	a = f.start("a")
	for deadline := time.Now().Add(patience); f.fsck().Objects < int64(len(blobs)); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d blobs climbed", f.fsck().Objects, len(blobs))
		}
	}
	a.stop()
	if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
		t.Fatal(err)
	}
	a = f.start("a")
	for _, data := range blobs {
		if err := a.get(data); err != nil {
			t.Error(err)
		}
	}
}

// TestBucketAway: what is on the disk is served while the bucket is away.
func TestBucketAway(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  collect: never\n")
	a := f.start("a")
	data := random(rand.NewChaCha8([32]byte{3}), 5000)
	if err := a.put(data); err != nil {
		t.Fatal(err)
	}
	f.gate.Stop()
	if err := a.get(data); err != nil {
		t.Error(err)
	}
	if code, text, err := a.do(http.MethodGet, "/ac/"+digest.SHA256.Of(data).Hex(), nil); err != nil || code != http.StatusNotFound {
		t.Errorf("a result that nobody put: got %d %s, %v, want 404", code, text, err)
	}
}

// TestBucketBackAgain: what was written back while the bucket is away goes there when it is back, in a new session.
func TestBucketBackAgain(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  write: back\n  collect: never\n")
	a := f.start("a")
	before, err := a.session()
	if err != nil {
		t.Fatal(err)
	}
	f.gate.Stop()
	r := rand.NewChaCha8([32]byte{4})
	var blobs [][]byte
	for range 20 {
		data := random(r, 20_000)
		blobs = append(blobs, data)
		if err := a.put(data); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(heartbeat * 3 / 2)
	for _, data := range blobs {
		if err := a.get(data); err != nil {
			t.Error(err)
		}
	}
	if err := f.gate.Restart(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		_, metrics, err := a.do(http.MethodGet, "/metrics", nil)
		if err == nil && strings.Contains(string(metrics), "\nsarsen_climb_waiting 0\n") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all climbed: %s, %v", metrics, err)
		}
	}
	if after, err := a.session(); err != nil || after == before {
		t.Errorf("the session is %s, %v, want a new one", after, err)
	}
	a.kill()
	if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
		t.Fatal(err)
	}
	a = f.start("a")
	for _, data := range blobs {
		if err := a.get(data); err != nil {
			t.Error(err)
		}
	}
}

// TestBucketWrong: what is wrong with the bucket's settings is said when the server starts.
func TestBucketWrong(t *testing.T) {
	f := newFleet(t, "")
	wrong := filepath.Join(f.dir, "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("access-key: testkey\nsecret-key: guessed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ flag, value, want string }{
		{"--bucket", "nosuch", "there is no such bucket"},
		{"--bucket-credentials", wrong, "the bucket refuses the credentials"},
		{"--bucket-endpoint", "http://127.0.0.1:1", "can't be reached"},
		{"--bucket-endpoint", "127.0.0.1:1", "is not a server's URL"},
	} {
		_, err := f.tryStart("wrong", test.flag, test.value)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("%s %s: got %v, want %q", test.flag, test.value, err, test.want)
		}
	}
}

// TestBucketKills: servers are killed while they write and are collected with no grace. What a server acknowledged
// within the last lease can be read from it; when all is quiet two collections leave nothing in the bucket.
func TestBucketKills(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  refresh: 1s\n  collect: never\n")
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		f.killRound(round)
	}
	a := f.start("a")
	for range 2 {
		time.Sleep(2 * time.Second) // past the leases of the server's own check
		if err := f.bury(a); err != nil {
			t.Fatal(err)
		}
		if _, err := f.run("gc", "--server", a.base, "--all"); err != nil {
			t.Fatal(err)
		}
	}
	if c := f.fsck(); c.Bytes != 0 {
		t.Errorf("two collections left %+v", c)
	}
}

// killRound kills one of two servers while both write and one is collected.
func (f *fleet) killRound(round int) {
	f.t.Helper()
	t := f.t
	a, b := f.start("a"), f.start("b")
	stop := make(chan struct{})
	var group sync.WaitGroup
	collected := 0
	for i, m := range []*member{a, b} {
		group.Go(func() {
			r := rand.NewChaCha8([32]byte{byte(round), byte(i)})
			for {
				select {
				case <-stop:
					return
				default:
				}
				data := random(r, 1+int(r.Uint64()%50_000))
				began := time.Now()
				err := m.put(data)
				if err == nil {
					err = m.get(data)
				}
				// A server that was killed says nothing; a yes stands for its lease.
				if err != nil && i == 0 && !strings.Contains(err.Error(), "get of") {
					return
				}
				if err != nil && time.Since(began) < time.Second {
					t.Errorf("round %d: server %d: what was put is not there: %v", round, i, err)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := f.run("gc", "--server", b.base, "--all", "--patience", "15s"); err == nil {
				collected++
			} else if !strings.Contains(err.Error(), "promised stands until") {
				t.Errorf("round %d: %v", round, err)
			}
		}
	})
	time.Sleep(2 * time.Second)
	a.kill()
	if err := f.bury(b); err != nil {
		t.Error(err)
	}
	time.Sleep(heartbeat)
	close(stop)
	group.Wait()
	if c := f.fsck(); c.Verified != c.Objects {
		t.Errorf("round %d: got %+v", round, c)
	}
	if collected == 0 {
		t.Errorf("round %d: nothing was collected", round)
	}
	b.kill()
	if err := f.bury(); err != nil {
		t.Error(err)
	}
}
