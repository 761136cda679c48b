package pbs_test

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/pbstest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// openRing opens a ring on the disk, for what a store in memory can't do: to be damaged, and to start again.
func openRing(t *testing.T, dir string) *segment.Ring {
	t.Helper()
	r, err := segment.Open(t.Context(), vfs.OS{}, dir, segment.Options{MaxSize: 64 << 20, Lease: time.Second, Durability: segment.None})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// task starts a task, waits for its end, and returns how it ended and what it logged.
func task(t *testing.T, c *pbstest.Client, name string, q url.Values) (exit, log string) {
	t.Helper()
	var upid string
	if err := c.Admin(t.Context(), "POST", name, q, &upid); err != nil {
		t.Fatal(err)
	}
	path := "/nodes/localhost/tasks/" + url.PathEscape(upid)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		var s struct{ Status, Exitstatus string }
		if err := c.REST(t.Context(), "GET", path+"/status", nil, nil, &s); err != nil {
			t.Fatal(err)
		}
		if s.Status == "stopped" {
			exit = s.Exitstatus
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not end", upid)
		}
	}
	var lines []struct {
		N int
		T string
	}
	if err := c.REST(t.Context(), "GET", path+"/log", url.Values{"limit": {"1000"}}, nil, &lines); err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		log += l.T + "\n"
	}
	return exit, log
}

// damage flips a bit in every copy of some bytes in a directory.
func damage(t *testing.T, dir string, data []byte) {
	t.Helper()
	names, err := filepath.Glob(dir + "/*.seg")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; ; {
			i := bytes.Index(b[at:], data)
			if i < 0 {
				break
			}
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			at += i + len(data)
			_, err = f.WriteAt([]byte{data[len(data)-1] ^ 1}, int64(at-1))
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			found++
		}
	}
	if found == 0 {
		t.Fatal("the bytes to damage are nowhere")
	}
}

// verificationOf returns the state that is listed of a snapshot.
func verificationOf(t *testing.T, c *pbstest.Client, s pbstest.Snapshot) string {
	t.Helper()
	var items []struct {
		Time         int64 `json:"backup-time"`
		Verification struct{ State, UPID string }
	}
	if err := c.Admin(t.Context(), "GET", "snapshots", nil, &items); err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		if i.Time == s.Time {
			return i.Verification.State
		}
	}
	t.Fatalf("%+v is not listed", s)
	return ""
}

// TestVerify: a damaged chunk is found, the snapshot says so, the next backup builds upon nothing and uploads the
// chunk anew; that heals the first one.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	ring := openRing(t, dir)
	f := start(t, ring)
	data := bytesOf(9, 200<<10)
	backUp(t, f.Client, host, nil, data)
	if got := verificationOf(t, f.Client, host); got != "" {
		t.Errorf("before it was verified: %q", got)
	}
	exit, log := task(t, f.Client, "verify", nil)
	if got := verificationOf(t, f.Client, host); exit != "OK" || got != "ok" {
		t.Errorf("verify = %s, %q, and log\n%s", exit, got, log)
	}

	piece := pbstest.Cut(data)[3]
	damage(t, dir, piece[:64])
	if exit, _ := task(t, f.Client, "verify", nil); exit != "OK" {
		t.Errorf("what was verified is not verified again: %s", exit)
	}
	exit, log = task(t, f.Client, "verify", url.Values{"ignore-verified": {"0"}})
	if got := verificationOf(t, f.Client, host); exit == "OK" || got != "failed" || !strings.Contains(log, "chunk ") {
		t.Errorf("verify of a damaged chunk = %s, %q, and log\n%s", exit, got, log)
	}
	r, err := f.Restore(t.Context(), host, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Archive(t.Context(), "root.pxar.didx"); err == nil {
		t.Error("a damaged snapshot was restored")
	}
	if _, err := r.Blob(t.Context(), "host.conf.blob"); err != nil {
		t.Errorf("what is left of a damaged snapshot: %v", err)
	}
	r.Close()

	b := begin(t, f.Client, at(host, 10), nil)
	_, err = b.Previous(t.Context(), "root.pxar.didx")
	refused(t, "previous of a damaged snapshot", err, 400, "no valid previous backup")
	if err := errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", data), b.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.Close()
	restore(t, f.Client, at(host, 10), nil, "root.pxar.didx", data)
	exit, log = task(t, f.Client, "verify", url.Values{"ignore-verified": {"0"}})
	if got := verificationOf(t, f.Client, host); exit != "OK" || got != "ok" {
		t.Errorf("verify of a healed snapshot = %s, %q, and log\n%s", exit, got, log)
	}
	restore(t, f.Client, host, nil, "root.pxar.didx", data)
	atRest(t, f)
}

// TestRestart: a server that starts again has every snapshot, its owner, notes and protection, the same fingerprint for
// its clients, and builds upon what it has.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	ring := openRing(t, dir)
	f := start(t, ring)
	data := bytesOf(9, 200<<10)
	backUp(t, f.Client, host, nil, data)
	if err := f.Admin(t.Context(), "PUT", "protected", with(host.Query(), "protected", "1"), nil); err != nil {
		t.Fatal(err)
	}
	f.stop()
	if err := ring.Close(); err != nil {
		t.Fatal(err)
	}
	f = start(t, openRing(t, dir))
	restore(t, f.Client, host, nil, "root.pxar.didx", data)
	var protected bool
	if err := f.Admin(t.Context(), "GET", "protected", host.Query(), &protected); err != nil || !protected {
		t.Errorf("protected = %v, %v", protected, err)
	}
	b := begin(t, f.Client, at(host, 10), nil)
	if _, err := b.Previous(t.Context(), "root.pxar.didx"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Dynamic(t.Context(), "root.pxar.didx", data), b.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	if b.Sent != 0 {
		t.Errorf("%d chunks were sent that the server has", b.Sent)
	}
	b.Close()
	restore(t, f.Client, at(host, 10), nil, "root.pxar.didx", data)
}

func with(q url.Values, more ...string) url.Values {
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q
}

// TestLongSession: a session that outlives every lease loses nothing while others fill the ring round and round.
func TestLongSession(t *testing.T) {
	ring := openRing(t, t.TempDir())
	f := start(t, ring)
	data := bytesOf(5, 2<<20)
	// no-cache is upstream's way without any trace of what was uploaded; here it is the way of all.
	b, err := f.Backup(t.Context(), host, nil, url.Values{"no-cache": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Dynamic(t.Context(), "root.pxar.didx", data); err != nil {
		t.Fatal(err)
	}
	churn(t, ring, 120<<20)
	if err := b.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	churn(t, ring, 120<<20)
	restore(t, f.Client, host, nil, "root.pxar.didx", data)
}

// churn stores this many bytes that nobody wants, at a rate at which leases end.
func churn(t *testing.T, ring *segment.Ring, bytes int64) {
	t.Helper()
	evicted := ring.Stats().EvictedSegments
	data := bytesOf(uint64(bytes), 1<<20)
	for n := int64(0); n < bytes; n += int64(len(data)) {
		data[n>>20%1000], data[0], data[1] = data[n>>20%1000]+1, byte(n>>20), byte(n>>28)
		if err := putAny(context.Background(), ring, data); err != nil {
			t.Fatal(err)
		}
	}
	if ring.Stats().EvictedSegments == evicted {
		t.Error("nothing was evicted")
	}
}

// putAny stores data; a ring that is full of leases is waited for.
func putAny(ctx context.Context, ring *segment.Ring, data []byte) error {
	for {
		err := blob.Put(ctx, ring, digest.SHA256.Of(data), data)
		if !errors.Is(err, blob.ErrFull) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
