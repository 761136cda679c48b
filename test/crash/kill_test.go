//go:build crash && linux

package crash

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestKill kills a server under load at random instants, starts it again on the same directory each
// time, and asks for everything that was acknowledged.
func TestKill(t *testing.T) {
	const pace = 24 << 20
	if v, ok := given(pace); ok {
		kills(t, v, *count)
		return
	}
	t.Run("short lease", func(t *testing.T) {
		// What is older than the lease is evicted, so one directory lasts for the whole test.
		v := variant{command: ourCommand("--max-size 128MB --lease 1s"), lease: time.Second, pace: pace / 2, ours: true, files: true}
		v.budget = *budget - *budget/4
		kills(t, v, *count-*count/4)
	})
	t.Run("default lease", func(t *testing.T) {
		v := variant{command: ourCommand("--max-size 256MB"), lease: forever, room: 64 << 20, pace: pace, ours: true, files: true}
		v.budget = *budget / 4
		kills(t, v, *count/4)
	})
}

func kills(t *testing.T, v variant, n int) {
	tr := newTrial(t, "kill", v)
	defer tr.finish()
	dir := keptIfFailed(t, v)
	h := newHost(t, v, dir, dir)
	killed(tr, h, n)
	if n := tr.broken(); n > 0 {
		t.Errorf("%d losses in %d kills", n, tr.runs)
	}
}

// killed runs the cycles of h's server until n kills are done.
func killed(tr *trial, h *host, n int) {
	r := rand.New(rand.NewPCG(tr.seed, 1))
	for {
		if r.IntN(8) == 0 && tr.runs < n {
			// A start dies too, in the midst of looking at what the last kill left.
			s := h.spawn(tr.t)
			time.Sleep(time.Duration(r.Int64N(int64(40 * time.Millisecond))))
			s.kill()
			tr.ran()
		}
		s := h.start(tr.t)
		tr.ask(&check{conn: s.conn, oracle: tr.oracle}, tr.oracle.promised())
		if tr.runs >= n || tr.over() || tr.failed() {
			s.kill()
			return
		}
		if tr.crowded() {
			s.kill()
			tr.renew(h)
			s = h.start(tr.t)
		}
		before, _ := tr.oracle.counts()
		refused := tr.load.refused.Load()
		tr.load.start(s.conn)
		time.Sleep(instant(r))
		if after, _ := tr.oracle.counts(); after == before && tr.load.refused.Load() > refused && tr.variant.lease < forever {
			time.Sleep(tr.variant.lease * 3 / 2) // it is full of leased blobs, until their leases end
		}
		tr.load.ending()
		if !s.kill() {
			tr.t.Fatalf("kill %d: the server had ended by itself; it said:\n%s", tr.runs, h.said())
		}
		tr.stopLoad()
		tr.ran()
	}
}

// instant returns when to kill, from 10 to 300 ms after the load began; early instants are as likely by
// their order of magnitude as late ones.
func instant(r *rand.Rand) time.Duration {
	return time.Duration(10 * math.Pow(30, r.Float64()) * float64(time.Millisecond))
}

// TestForgetful pins that a loss is seen: the server of this test starts with an empty directory each time.
func TestForgetful(t *testing.T) {
	forgetful := command("rm -rf {dir}; " + string(ourCommand("--max-size 256MB")))
	v := variant{command: forgetful, lease: forever, room: 64 << 20, pace: 24 << 20, files: true}
	t.Run("kill", func(t *testing.T) {
		tr := newTrial(t, "kill", v)
		dir := keptIfFailed(t, v)
		killed(tr, newHost(t, v, dir, dir), 8)
		seesLoss(t, tr)
	})
	t.Run("power cut", func(t *testing.T) {
		needDisk(t)
		tr := newTrial(t, "power cut", v)
		cuts(tr, 8)
		seesLoss(t, tr)
	})
}

func seesLoss(t *testing.T, tr *trial) {
	t.Helper()
	if got := tr.tally; got.results == 0 || got.named == 0 || got.others == 0 || got.files == 0 {
		t.Errorf("a server that forgets everything lost %d results, %d blobs that they name, %d others, %d files; want some of each",
			got.results, got.named, got.others, got.files)
	}
}
