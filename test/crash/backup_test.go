//go:build crash && linux

package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/pbstest"
)

// TestBackupKill kills a server amid backups, encrypted and not, forgetting, and sessions that break off, starts it
// again, and restores every snapshot that it lists. What was finished must be listed; what was not may be, whole.
func TestBackupKill(t *testing.T) {
	v := variant{ours: true}
	dir := keptIfFailed(t, v)
	accounts := filepath.Join(dir, "backups.yaml")
	if err := os.WriteFile(accounts, []byte(`pbs: {"root@pam!test": {secret: secret-of-test, may: {main: "read, backup, prune"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(freePort(t))
	v.command = ourCommand("--max-size 128MB --lease 1s --pbs " + address + " --backups " + accounts)
	h := newHost(t, v, dir, dir)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	b := &backups{t: t, acked: map[pbstest.Snapshot]bool{}, forgotten: map[pbstest.Snapshot]bool{}, begun: map[pbstest.Snapshot]bool{}, time: 1700000000}
	for kill := range *count {
		s := h.start(t)
		b.client = &pbstest.Client{Addr: address, Fingerprint: fingerprint(t, h.dir), Auth: "PBSAPIToken=root@pam!test:secret-of-test", Store: "main"}
		b.check()
		if t.Failed() {
			t.Fatalf("after %d kills; the server said:\n%s", kill, h.said())
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wait sync.WaitGroup
		for i := range 3 {
			wait.Go(func() { b.load(ctx, i) })
		}
		wait.Go(func() { b.litter(ctx) })
		time.Sleep(time.Duration(200+r.IntN(1500)) * time.Millisecond)
		if !s.kill() {
			t.Fatalf("kill %d: the server had ended by itself; it said:\n%s", kill, h.said())
		}
		cancel()
		wait.Wait()
	}
	s := h.start(t)
	b.check()
	s.kill()
	t.Logf("%d kills, %d snapshots finished, %d restores", *count, len(b.acked), b.restores)
	if len(b.acked) < *count {
		t.Errorf("only %d snapshots were finished", len(b.acked))
	}
}

// fingerprint returns that of the certificate which the server keeps.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "pbs", "server.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// backups are what clients made, and what they know of it.
type backups struct {
	t        *testing.T
	client   *pbstest.Client
	restores int

	mu        sync.Mutex
	time      int64
	begun     map[pbstest.Snapshot]bool // may be there
	acked     map[pbstest.Snapshot]bool // must be there
	forgotten map[pbstest.Snapshot]bool // need not be there
}

// keyOf returns the key of a group: one of three encrypts.
func keyOf(id string) *pbstest.Key {
	if id == "1" {
		return pbstest.NewKey([32]byte{1})
	}
	return nil
}

// dataOf returns what a snapshot has: the group's bytes, some of which each snapshot changes.
func dataOf(s pbstest.Snapshot) []byte {
	group := rand.New(rand.NewPCG(uint64(s.ID[0]), 1))
	data := make([]byte, 400<<10)
	for i := range data {
		data[i] = byte(group.Uint32() >> 9)
	}
	own := rand.New(rand.NewPCG(uint64(s.Time), 2))
	for range 5 {
		data[own.IntN(len(data))] = byte(own.Uint32())
	}
	return data
}

// load makes snapshots of one group, each upon the one before, and forgets old ones, until the server is gone.
func (b *backups) load(ctx context.Context, n int) {
	for ctx.Err() == nil {
		b.mu.Lock()
		b.time++
		s := pbstest.Snapshot{Type: "vm", ID: strconv.Itoa(n), Time: b.time}
		b.begun[s] = true
		b.mu.Unlock()
		if err := b.backup(ctx, s); err != nil {
			return
		}
		b.mu.Lock()
		b.acked[s] = true
		var old []pbstest.Snapshot
		for o := range b.acked {
			if o.ID == s.ID && o.Time < s.Time && !b.forgotten[o] {
				old = append(old, o)
			}
		}
		if len(old) > 4 {
			old = old[:2]
		} else {
			old = nil
		}
		for _, o := range old {
			b.forgotten[o] = true
		}
		b.mu.Unlock()
		for _, o := range old {
			_ = b.client.Admin(ctx, "DELETE", "snapshots", o.Query(), nil)
		}
	}
}

func (b *backups) backup(ctx context.Context, s pbstest.Snapshot) error {
	ss, err := b.client.Backup(ctx, s, keyOf(s.ID), nil)
	if err != nil {
		return err
	}
	defer ss.Close()
	_, err = ss.Previous(ctx, "a.didx")
	if err != nil && pbstest.Code(err) != 400 {
		return err
	}
	if err := ss.Dynamic(ctx, "a.didx", dataOf(s)); err != nil {
		return err
	}
	return ss.Finish(ctx)
}

// litter makes sessions that break off, so that the ring is filled and cleaned.
func (b *backups) litter(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		s := pbstest.Snapshot{Type: "host", ID: "litter", Time: 5}
		ss, err := b.client.Backup(ctx, s, nil, nil)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		_ = ss.Dynamic(ctx, "a.didx", dataOf(pbstest.Snapshot{ID: string(rune('a' + i%20)), Time: time.Now().UnixNano()}))
		ss.Close()
	}
}

// check restores everything that is listed, and misses what is not.
func (b *backups) check() {
	ctx := b.t.Context()
	var items []struct {
		Type string `json:"backup-type"`
		ID   string `json:"backup-id"`
		Time int64  `json:"backup-time"`
	}
	if err := b.client.Admin(ctx, "GET", "snapshots", url.Values{}, &items); err != nil {
		b.t.Fatal(err)
	}
	listed := map[pbstest.Snapshot]bool{}
	for _, i := range items {
		s := pbstest.Snapshot{Type: i.Type, ID: i.ID, Time: i.Time}
		listed[s] = true
		if !b.begun[s] {
			b.t.Errorf("%+v is listed, which nobody made", s)
			continue
		}
		if err := b.restore(ctx, s); err != nil {
			b.t.Errorf("%+v: %v", s, err)
		}
		b.restores++
	}
	for s := range b.acked {
		if !listed[s] && !b.forgotten[s] {
			b.t.Errorf("%+v was finished and is gone", s)
		}
	}
}

func (b *backups) restore(ctx context.Context, s pbstest.Snapshot) error {
	r, err := b.client.Restore(ctx, s, keyOf(s.ID))
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Manifest(ctx)
	got, err2 := r.Archive(ctx, "a.didx")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if !bytes.Equal(got, dataOf(s)) {
		return fmt.Errorf("%d bytes, and not those that were backed up", len(got))
	}
	return nil
}
