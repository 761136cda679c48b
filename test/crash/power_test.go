//go:build crash && linux

package crash

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// TestPowerCut cuts the power under a server at random instants while it goes on under load: what its
// disk held at that instant is asked for everything that was acknowledged before.
func TestPowerCut(t *testing.T) {
	needDisk(t)
	const pace = 8 << 20
	v, ok := given(pace)
	if !ok {
		v = variant{command: ourCommand("--max-size 256MB --lease 5s"), lease: 5 * time.Second, pace: pace, budget: *budget, ours: true, files: true}
	}
	tr := newTrial(t, "power cut", v)
	defer tr.finish()
	cuts(tr, *count)
	if n := tr.broken(); n > 0 {
		t.Errorf("%d losses in %d power cuts", n, tr.runs)
	}
}

// cuts cuts the power n times.
func cuts(tr *trial, n int) {
	t, r := tr.t, rand.New(rand.NewPCG(tr.seed, 1))
	dir := keptIfFailed(t, tr.variant)
	d := newDisk(t, dir)
	h := newHost(t, tr.variant, d.live, dir)
	after := newHost(t, tr.variant, d.after, dir)
	s := h.start(t)
	tr.load.start(s.conn)
	for tr.runs < n && !tr.over() && !tr.failed() {
		time.Sleep(20*time.Millisecond + time.Duration(r.Int64N(int64(280*time.Millisecond))))
		promised := tr.oracle.promised()
		if err := d.cut(); err != nil {
			t.Fatal(err)
		}
		promised.latest = tr.oracle.roots.promised()
		tr.askClone(d, after, promised)
		tr.ran()
		if tr.crowded() {
			tr.load.ending()
			s.kill()
			tr.stopLoad()
			tr.renew(h)
			s = h.start(t)
			tr.load.start(s.conn)
		}
	}
	tr.load.ending()
	if !s.kill() {
		t.Errorf("the server had ended by itself; it said:\n%s", h.said())
	}
	tr.stopLoad()
}

// askClone starts a server on what the power cut left and asks it for what was promised before.
func (tr *trial) askClone(d *disk, after *host, promised sample) {
	tr.t.Helper()
	if tr.variant.ours {
		// Mounting changes the clone, so evidence is set aside first. It costs no room.
		if err := clone(d.clone(), d.evidence()); err != nil {
			tr.t.Fatal(err)
		}
	}
	if err := d.boot(); err != nil {
		tr.t.Fatal(err)
	}
	s := after.start(tr.t)
	tr.ask(&check{conn: s.conn}, promised)
	s.kill()
	if err := d.discard(); err != nil {
		tr.t.Fatal(err)
	}
	if tr.failed() {
		kept := filepath.Join(d.dir, "cut.img")
		tr.t.Logf("what the disk held at the cut is kept in %s", kept)
		if err := execute("cp", "--sparse=always", d.evidence(), kept); err != nil {
			tr.t.Error(err)
		}
	}
}
