//go:build crash && linux

package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// bucketLease is the lease of servers on a bucket: they must have started again before it ends.
const bucketLease = 5 * time.Second

// TestBucketKill kills servers that share a bucket, and the bucket's own server, at random, while collections with no
// grace go on. Written through, a killed server may lose its disk too. After each kill everything is asked for that the
// killed one acknowledged, and all that is kept. When all is quiet, two collections leave nothing in the bucket but what
// is kept.
func TestBucketKill(t *testing.T) {
	for _, mode := range []string{"through", "back"} {
		t.Run(mode, func(t *testing.T) {
			f := newFleet(t, mode)
			f.background.Go(f.buryAlways)
			collecting, enough := context.WithCancel(f.ctx)
			defer enough()
			f.background.Go(func() { f.collectAlways(collecting) })
			for f.runs < (*count+1)/2 && (*budget == 0 || time.Since(f.began) < *budget/2) {
				f.round()
				if t.Failed() {
					return // the processes end with the test
				}
			}
			enough()
			f.finish()
		})
	}
}

// A fleet is two servers on one bucket.
type fleet struct {
	t       *testing.T
	gate    *versitygw.Server
	bucket  *bucket.S3
	config  string
	through bool
	members [2]*member
	rand    *rand.Rand
	began   time.Time
	runs    int
	emptied int               // disks
	kept    map[string][]byte // by name; each was acknowledged
	ctx     context.Context   // of what goes on in the background
	cancel  context.CancelFunc

	background sync.WaitGroup
	collecting sync.Mutex // held while a collection may be open

	mu        sync.Mutex
	base      string               // of a server that collects
	over      map[string]time.Time // sessions that are no server's any more, and since when
	collected int
}

// A member is one of the servers, and what it acknowledged.
type member struct {
	*trial
	host   *host
	server *server
}

func newFleet(t *testing.T, mode string) *fleet {
	f := &fleet{
		t: t, through: mode == "through", gate: versitygw.Start(t), rand: rand.New(rand.NewPCG(*seedFlag, 7)), began: time.Now(), kept: map[string][]byte{},
		over: map[string]time.Time{},
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() {
		f.cancel()
		f.background.Wait()
	})
	var err error
	f.bucket, err = bucket.Open(t.Context(), bucket.Options{
		Bucket: f.gate.Bucket, Prefix: "builds/", Endpoint: f.gate.Endpoint, PathStyle: true, AccessKey: f.gate.AccessKey, SecretKey: f.gate.SecretKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := keptIfFailed(t, variant{ours: true})
	f.config = filepath.Join(dir, "sarsen.yaml")
	backups, keys := filepath.Join(dir, "backups.yaml"), filepath.Join(dir, "keys.yaml")
	for path, text := range map[string]string{
		backups: "restic:\n  crash: {}\n",
		keys:    fmt.Sprintf("access-key: %s\nsecret-key: %s\n", f.gate.AccessKey, f.gate.SecretKey),
		f.config: fmt.Sprintf("backups: %s\nlease: %s\nmax-size: 96MiB\nbucket:\n  name: %s\n  endpoint: %s\n  credentials: %s\n  prefix: builds\n  heartbeat: 12s\n  refresh: 2s\n  collect: never\n  write: %s\n",
			backups, bucketLease, f.gate.Bucket, f.gate.Endpoint, keys, mode),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := variant{lease: bucketLease, pace: 3 << 20, ours: true}
	v.command = command("exec {sarsen} serve --config " + f.config + " --dir {dir} --grpc 127.0.0.1:{grpc} --http 127.0.0.1:{http} --log-level warn")
	for i := range f.members {
		m := &member{trial: newTrial(t, "kill", v)}
		m.load.away, m.load.plain, m.load.salt = true, f.through, byte(i)
		disk := filepath.Join(dir, string(rune('a'+i)))
		if err := os.Mkdir(disk, 0o755); err != nil {
			t.Fatal(err)
		}
		m.host = newHost(t, v, disk, dir)
		f.members[i] = m
		f.startMember(m, false)
		m.load.start(m.server.conn)
	}
	if err := f.post(f.members[0], "/restic/crash/?create=true", nil); err != nil {
		t.Fatal(err)
	}
	return f
}

func (m *member) base() string { return fmt.Sprintf("http://127.0.0.1:%d", m.host.http) }

// startMember starts a server, which now and then dies as it starts, and asks for all that it had acknowledged. While a
// collection is open, what only the bucket has may be undecided.
func (f *fleet) startMember(m *member, undecided bool) {
	f.t.Helper()
	if f.rand.IntN(6) == 0 {
		s := m.host.spawn(f.t)
		time.Sleep(time.Duration(f.rand.IntN(500)) * time.Millisecond)
		s.kill()
	}
	m.server = m.host.start(f.t)
	m.ask(&check{conn: m.server.conn, oracle: m.oracle, undecided: undecided}, m.oracle.promised())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.base = m.base()
}

// session returns the session that a server has now: another one if it could not reach the bucket for too long.
func (f *fleet) session(m *member) (string, error) {
	text, err := f.get(m, "/status")
	if err != nil {
		return "", err
	}
	var answer struct {
		Status struct {
			Bucket struct{ Session struct{ ID string } }
		}
	}
	err = json.Unmarshal(text, &answer)
	return answer.Status.Bucket.Session.ID, err
}

// round kills one of the servers, and perhaps the bucket's.
func (f *fleet) round() {
	f.t.Helper()
	m := f.members[f.rand.IntN(len(f.members))]
	f.keep(f.members[f.rand.IntN(len(f.members))])
	// Collections have to wait for what the last one promised.
	time.Sleep(bucketLease + time.Duration(f.rand.Int64N(int64(bucketLease))))
	quiet := f.rand.IntN(2) == 0
	if quiet {
		f.collecting.Lock()
		defer f.collecting.Unlock()
		quiet = !f.proposed()
	}
	empty := f.through && quiet && f.rand.IntN(4) > 0
	if f.rand.IntN(3) == 0 {
		f.gate.Stop()
		time.Sleep(time.Duration(f.rand.IntN(1500)) * time.Millisecond)
		defer f.checkKept()
	}
	m.load.ending()
	if !m.server.kill() {
		f.t.Fatalf("kill %d: the server had ended by itself; it said:\n%s", f.runs, m.host.said())
	}
	if err := f.gate.Restart(); err != nil {
		f.t.Fatal(err)
	}
	m.stopLoad()
	f.runs++
	m.ran()
	if empty {
		f.emptied++
		if err := os.RemoveAll(m.host.dir); err != nil {
			f.t.Fatal(err)
		}
	}
	f.startMember(m, f.through && !quiet)
	f.checkKept()
	if broken := m.broken(); broken > 0 {
		f.t.Errorf("%d losses in %d kills, the disk of the last was emptied: %v", broken, f.runs, empty)
	}
	m.load.start(m.server.conn)
}

// proposed reports whether a collection is open, or may be.
func (f *fleet) proposed() bool {
	var register struct{ Proposal string }
	text, _, err := f.bucket.Get(f.ctx, "owner", 0, -1)
	if errors.Is(err, bucket.ErrNotFound) {
		return false
	}
	return err != nil || json.Unmarshal(text, &register) != nil || register.Proposal != ""
}

// keep puts a file that is kept for ever.
func (f *fleet) keep(m *member) {
	f.t.Helper()
	data := blobBytes(f.rand.Uint64(), 1+f.rand.Int64N(200_000))
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	if err := f.post(m, "/restic/crash/data/"+name, data); err != nil {
		f.t.Errorf("keep: %v", err)
		return
	}
	f.kept[name] = data
}

// decidedWithin is how long a server may refuse to say whether a blob stays: until the collector is given up that was killed.
const decidedWithin = time.Minute

// checkKept wants what is kept from every server.
func (f *fleet) checkKept() {
	f.t.Helper()
	for name, data := range f.kept {
		for i, m := range f.members {
			got, err := f.get(m, "/restic/crash/data/"+name)
			for began := time.Now(); errors.Is(err, errAway) && time.Since(began) < decidedWithin; {
				time.Sleep(200 * time.Millisecond)
				got, err = f.get(m, "/restic/crash/data/"+name)
			}
			if err != nil || !bytes.Equal(got, data) {
				f.t.Errorf("kill %d: server %d: what is kept: %d bytes of %d, %v", f.runs, i, len(got), len(data), err)
			}
		}
	}
}

func (f *fleet) get(m *member, path string) ([]byte, error) {
	return f.do(m, http.MethodGet, path, nil)
}

func (f *fleet) post(m *member, path string, body []byte) error {
	_, err := f.do(m, http.MethodPost, path, body)
	return err
}

// errAway is a server's answer that something it depends on is away, or undecided, and may be asked again.
var errAway = errors.New("503 Service Unavailable")

func (f *fleet) do(m *member, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequest(method, m.base()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode == http.StatusServiceUnavailable {
		return nil, fmt.Errorf("%w: %s", errAway, text)
	}
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return text, err
}

// buryAlways buries all the time. What a killed server promised is over after its lease: the rest of what others wait
// for, requests of its that come late, is over with its process.
func (f *fleet) buryAlways() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(300 * time.Millisecond):
			f.bury()
		}
	}
}

// collectAlways collects all the time.
func (f *fleet) collectAlways(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
		f.mu.Lock()
		base := f.base
		f.mu.Unlock()
		// It fails when its server, or the bucket's, is killed, and while promises stand.
		f.collecting.Lock()
		_, err := f.sarsen(ctx, "gc", "--server", base, "--all", "--patience", "30s")
		f.collecting.Unlock()
		if err == nil {
			f.mu.Lock()
			f.collected++
			f.mu.Unlock()
		}
	}
}

// bury says in the bucket that sessions are dead whose promises are over, if all servers run.
func (f *fleet) bury() {
	ctx := context.Background()
	p, err := f.bucket.List(ctx, "s/", "")
	if err != nil {
		return
	}
	alive := map[string]bool{}
	for _, m := range f.members {
		id, err := f.session(m)
		if err != nil {
			return
		}
		alive[id] = true
	}
	then := time.Now().Add(-24 * time.Hour)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range p.Objects {
		id := o.Key[2:]
		if alive[id] {
			continue
		}
		if f.over[id].IsZero() {
			f.over[id] = time.Now()
		}
		if time.Since(f.over[id]) < bucketLease {
			continue
		}
		text := fmt.Sprintf(`{"id": %q, "lease": 1, "heartbeat": 1, "state": "dead", "silent": %q}`, id, then.Format(time.RFC3339))
		_, _ = f.bucket.Put(ctx, o.Key, strings.NewReader(text), int64(len(text)), bucket.Condition{ETag: o.ETag})
	}
	_ = filepath.WalkDir(filepath.Join(f.gate.Dir, "builds", "d"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			_ = os.Chtimes(path, then, then)
		}
		return nil
	})
}

func (f *fleet) sarsen(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, sarsen, args...)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s%s", err, &out, &log)
	}
	return out.String(), nil
}

// finish stops everything but one server, collects twice, and wants nothing in the bucket but what is kept.
func (f *fleet) finish() {
	t := f.t
	acknowledged := int64(0)
	for _, m := range f.members {
		m.stopLoad()
		n, _ := m.oracle.counts()
		acknowledged += n
		if m.broken() > 0 {
			t.Errorf("%d losses", m.broken())
		}
	}
	time.Sleep(bucketLease * 3 / 2)
	f.checkKept()
	for range 2 {
		if _, err := f.sarsen(t.Context(), "gc", "--server", f.members[0].base(), "--all"); err != nil {
			t.Fatal(err)
		}
	}
	f.checkKept()
	time.Sleep(bucketLease) // the leases of what was read last
	out, err := f.sarsen(t.Context(), "gc", "--server", f.members[0].base(), "--all", "--dry-run", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var line struct {
		Report struct{ Objects, Bytes, Kept, Kept_Bytes, Candidates int64 }
	}
	if err := json.Unmarshal([]byte(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]), &line); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	r := line.Report
	if lie := f.lie(); r.Objects != r.Kept || r.Bytes != r.Kept_Bytes || lie != r.Kept_Bytes {
		t.Errorf("after two collections %d bytes lie in the bucket: %+v; want what is kept, and no more", lie, r)
	}
	if out, err := f.sarsen(t.Context(), "fsck", "--config", f.config, "--bucket", f.gate.Bucket); err != nil {
		t.Errorf("%s: %v", out, err)
	}
	f.mu.Lock()
	collected := f.collected
	f.mu.Unlock()
	t.Logf("%d kills, %d emptied disks, %d acknowledged, %d kept, %d collections; at the end %d objects with %d bytes", f.runs, f.emptied, acknowledged, len(f.kept), collected, r.Objects, r.Bytes)
	if collected == 0 || acknowledged < int64(20*f.runs) {
		t.Errorf("that is too little to say anything")
	}
}

// lie returns how many bytes of blobs and results lie in the bucket.
func (f *fleet) lie() (n int64) {
	for _, kind := range []string{"c", "a"} {
		_ = filepath.WalkDir(filepath.Join(f.gate.Dir, "builds", kind), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					n += info.Size()
				}
			}
			return nil
		})
	}
	return n
}
