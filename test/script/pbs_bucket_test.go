package script

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/pbstest"
)

var pbsAddress = regexp.MustCompile(`(?s)Proxmox backups: +(\S+)\s+Fingerprint: +(\S+)`)

// startPBS starts a server that takes Proxmox's clients too, and returns a client of it.
func (f *fleet) startPBS(name string) (*member, *pbstest.Client) {
	f.t.Helper()
	accounts := filepath.Join(f.dir, "backups.yaml")
	if err := os.WriteFile(accounts, []byte(`pbs: {"root@pam!test": {secret: secret-of-test, may: {main: "read, backup, prune"}}}`), 0o600); err != nil {
		f.t.Fatal(err)
	}
	m := f.start(name, "--pbs", "127.0.0.1:0", "--backups", accounts)
	said, err := os.ReadFile(m.log)
	if err != nil {
		f.t.Fatal(err)
	}
	at := pbsAddress.FindStringSubmatch(string(said))
	if at == nil {
		f.t.Fatalf("no address of the Proxmox backup server in %s", said)
	}
	return m, &pbstest.Client{Addr: at[1], Fingerprint: at[2], Auth: "PBSAPIToken=root@pam!test:secret-of-test", Store: "main"}
}

// archive is what the backups of these tests have.
const archive = "root.pxar.didx"

// backUp makes a snapshot, upon the one before where there is one.
func backUp(c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key, data []byte) error {
	b, err := c.Backup(context.Background(), s, key, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := b.Previous(context.Background(), archive); err != nil && pbstest.Code(err) != 400 {
		return err
	}
	if err := b.Dynamic(context.Background(), archive, data); err != nil {
		return err
	}
	return b.Finish(context.Background())
}

// restored wants a snapshot to be data.
func restored(c *pbstest.Client, s pbstest.Snapshot, key *pbstest.Key, data []byte) error {
	r, err := c.Restore(context.Background(), s, key)
	if err != nil {
		return fmt.Errorf("%+v: %w", s, err)
	}
	defer r.Close()
	if _, err := r.Manifest(context.Background()); err != nil {
		return fmt.Errorf("%+v: %w", s, err)
	}
	got, err := r.Archive(context.Background(), archive)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("other bytes than were backed up")
	}
	if err != nil {
		return fmt.Errorf("%+v: %w", s, err)
	}
	return nil
}

// keepCollecting collects the bucket with no grace, again and again, until stop is closed, and returns how often it did.
func (f *fleet) keepCollecting(m *member, stop chan struct{}) (times int) {
	for {
		select {
		case <-stop:
			return times
		default:
		}
		if _, err := f.run("gc", "--server", m.base, "--all", "--patience", "15s"); err == nil {
			times++
		} else if !strings.Contains(err.Error(), "promised stands until") {
			f.t.Error(err)
		}
	}
}

// TestBucketBackups: Proxmox's clients back up to two servers on one bucket, which is collected with no grace all the
// time. One server is killed amid a backup and comes back, and then loses its disk. What was finished is restored by either.
// What a backup was told on the other server stays, though that snapshot is forgotten and the first server starts again meanwhile.
func TestBucketBackups(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  refresh: 1s\n  collect: never\n")
	a, toA := f.startPBS("a")
	b, toB := f.startPBS("b")
	stop, collected := make(chan struct{}), 0
	var collector sync.WaitGroup
	collector.Go(func() { collected = f.keepCollecting(b, stop) })

	key := pbstest.NewKey([32]byte{7})
	r := rand.NewChaCha8([32]byte{9})
	plain := pbstest.Snapshot{Type: "host", ID: "plain", Time: 1700000000}
	sealed := pbstest.Snapshot{Type: "vm", ID: "100", Time: 1700000000}
	shared := pbstest.Snapshot{Type: "ct", ID: "200", Time: 1700000000}
	data, secret, upon := random(r, 1_500_000), random(r, 700_000), random(r, 700_000)
	for _, err := range []error{backUp(toA, plain, nil, data), backUp(toA, sealed, key, secret), backUp(toB, shared, nil, upon)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// A backup on b builds upon a snapshot that is forgotten, and one on a is cut by the kill.
	open, err := toB.Backup(t.Context(), at(shared, 10), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := open.Previous(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	if err := toA.Admin(t.Context(), "DELETE", "snapshots", shared.Query(), nil); err != nil {
		t.Fatal(err)
	}
	cut, err := toA.Backup(t.Context(), at(plain, 10), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	if err := cut.Dynamic(t.Context(), archive, random(r, 100_000)); err != nil {
		t.Fatal(err)
	}
	a.kill()
	if err := f.bury(b); err != nil {
		t.Fatal(err)
	}
	a, toA = f.startPBS("a")
	time.Sleep(heartbeat) // a few collections
	if err := open.Dynamic(t.Context(), archive, upon); err != nil || open.Sent > 0 {
		t.Errorf("a backup upon a snapshot sent %d chunks again, %v", open.Sent, err)
	}
	if err := open.Finish(t.Context()); err != nil {
		t.Errorf("the other server's backup was broken: %v", err)
	}
	check := func(c *pbstest.Client) {
		t.Helper()
		for _, err := range []error{restored(c, plain, nil, data), restored(c, sealed, key, secret), restored(c, at(shared, 10), nil, upon)} {
			if err != nil {
				t.Error(err)
			}
		}
		if err := restored(c, at(plain, 10), nil, nil); pbstest.Code(err) != 404 {
			t.Errorf("the backup that was cut: %v, want 404", err)
		}
	}
	check(toA)
	check(toB)
	a.stop()
	if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
		t.Fatal(err)
	}
	a, toA = f.startPBS("a")
	check(toA)
	close(stop)
	collector.Wait()
	if collected == 0 {
		t.Error("nothing was collected")
	}
	b.stop()
	f.emptied(a, toA, plain, sealed, shared)
}

func at(s pbstest.Snapshot, seconds int64) pbstest.Snapshot {
	s.Time += seconds
	return s
}

// emptied removes groups and wants nothing to be left in the bucket.
func (f *fleet) emptied(m *member, c *pbstest.Client, groups ...pbstest.Snapshot) {
	f.t.Helper()
	for _, s := range groups {
		s.Time = 0
		if err := c.Admin(context.Background(), "DELETE", "groups", s.Query(), nil); err != nil {
			f.t.Error(err)
		}
	}
	for range 2 {
		time.Sleep(2 * time.Second) // past the leases
		if err := f.bury(m); err != nil {
			f.t.Fatal(err)
		}
		if _, err := f.run("gc", "--server", m.base, "--all"); err != nil {
			f.t.Fatal(err)
		}
	}
	if c := f.fsck(); c.Bytes != 0 {
		f.t.Errorf("when all was forgotten, two collections left %+v", c)
	}
}
