package execution

import (
	"strings"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
)

// TestPlatforms sees which of two workers runs what.
func TestPlatforms(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		linux := r.worker("linux", 9, "OSFamily=linux", "tool=gcc", "tool=clang", "cpu=4", "memory=1000000000")
		mac := r.worker("mac", 9, "OSFamily=macos", "cpu=0.5", "container-image=docker://a")
		linux.keep(10 * time.Second) // others may be coming until then
		mac.Heartbeat(Load{})
		for _, c := range []struct {
			platform string
			want     *hand
		}{
			{"OSFamily=linux", linux}, {"OSFamily=macos", mac}, {"tool=gcc", linux}, {"tool=clang", linux},
			{"OSFamily=macos persistentWorkerKey=k persistentWorkerProtocol=json", mac}, {"OSFamily=linux supports-workers=1 requires-worker-protocol=json", linux},
			{"tool=clang tool=gcc", linux}, {"cpu=2", linux}, {"memory=10 OSFamily=linux", linux}, {"memory=900MB", linux},
			{"container-image=docker://a", mac}, {"cpu=0.25 OSFamily=macos", mac},
		} {
			w := r.execute(r.action(c.platform, nil, strings.Fields(c.platform)...))
			c.want.succeed(c.want.assigned())
			r.end(w)
		}
		for platform, want := range map[string]string{
			"OSFamily=windows":           `needs OSFamily=windows: no worker has the platform; the closest, "linux", lacks OSFamily=windows (it has linux)`,
			"tool=gcc tool=msvc":         `"linux", lacks tool=msvc (it has gcc and clang)`,
			"cpu=4.001":                  `"linux", lacks cpu=4.001 (it has cpu=4)`,
			"OSFamily=macos cpu=0.75":    `lacks OSFamily=macos (it has linux)`,
			"OSFamily=macos tool=gcc x=": `"linux", lacks OSFamily=macos (it has linux) and x= (it has none)`,
			"gpu=1":                      `lacks gpu=1 (it has none)`,
		} {
			began := time.Now()
			a := r.end(r.execute(r.action(platform, nil, strings.Fields(platform)...)))
			if a.resp.Status.GetCode() != int32(codes.FailedPrecondition) || !strings.Contains(a.resp.Status.GetMessage(), want) {
				t.Errorf("%s: got %v, want %s", platform, a.resp.Status, want)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%s: refused after %s, want at once", platform, took)
			}
		}
		mac.Leave()
		linux.keep(time.Minute)
		a := r.end(r.execute(r.action("image", nil, "container-image=docker://b")))
		if !strings.Contains(a.resp.Status.GetMessage(), "no worker runs container images") {
			t.Errorf("got %v, want it to say that no worker runs container images", a.resp.Status)
		}
	})
}

// TestAmounts fills a worker by what actions use, not only by slots.
func TestAmounts(t *testing.T) {
	bubble(t, func(o *Options) { o.Minimum = []string{"gpu"} }, func(t *testing.T, r *rig) {
		h := r.worker("w", 9, "cpu=1", "gpu=2")
		big := r.execute(r.action("big", nil, "cpu=0.7"))
		i := h.assigned()
		small := r.execute(r.action("small", nil, "cpu=0.3", "gpu=2"))
		j := h.assigned()
		more := r.execute(r.action("more", nil, "gpu=1"))
		r.execute(r.action("free", nil))
		h.assigned()
		r.check()
		r.stage(more, queuedStage)
		h.succeed(i)
		r.end(big)
		h.nothing()
		h.succeed(j)
		r.end(small)
		h.assigned()
	})
}

// TestNoWorker waits for a worker to come, or for the time to be over.
func TestNoWorker(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		w := r.execute(r.action("a", nil))
		time.Sleep(59 * time.Second)
		r.stage(w, queuedStage)
		time.Sleep(time.Second)
		a := r.now(w)
		if a.resp.Status.GetCode() != int32(codes.FailedPrecondition) || !strings.Contains(a.resp.Status.GetMessage(), "no worker is connected") {
			t.Errorf("got %v, want FAILED_PRECONDITION", a.resp)
		}

		// The first worker that comes has another platform. The next one may be close behind.
		w = r.execute(r.action("b", nil, "OSFamily=macos"))
		time.Sleep(30 * time.Second)
		linux := r.worker("linux", 1, "OSFamily=linux")
		time.Sleep(9 * time.Second)
		r.stage(w, queuedStage)
		mac := r.worker("mac", 1, "OSFamily=macos")
		mac.succeed(mac.assigned())
		r.end(w)

		// A worker that has it left. It may come back.
		mac.Leave()
		w = r.execute(r.action("c", nil, "OSFamily=macos"))
		linux.keep(59 * time.Second)
		r.stage(w, queuedStage)
		linux.keep(2 * time.Second)
		if a := r.now(w); a.resp.Status.GetCode() != int32(codes.FailedPrecondition) {
			t.Errorf("got %v, want FAILED_PRECONDITION", a)
		}

		// The only worker that has it is drained.
		if err := r.s.Drain("linux"); err != nil {
			t.Error(err)
		}
		w = r.execute(r.action("d", nil, "OSFamily=linux"))
		linux.keep(time.Minute)
		if a := r.now(w); !strings.Contains(a.resp.Status.GetMessage(), "being drained") {
			t.Errorf("got %v, want it to say that the worker is drained", a)
		}
	})
}

// TestWarned sees why something waits in the log, and neither early nor often.
func TestWarned(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rig) {
		h := r.worker("w", 2, "cpu=2")
		r.execute(r.action("a", nil, "cpu=2"))
		h.assigned()
		r.execute(r.action("b", nil, "cpu=2"))
		h.keep(59 * time.Second)
		if got := strings.Count(r.log.String(), "queued for long"); got != 0 {
			t.Errorf("%d warnings after 59 s, want none", got)
		}
		h.keep(2 * time.Minute)
		if got := strings.Count(r.log.String(), "queued for long"); got != 2 {
			t.Errorf("%d warnings after three minutes, want two:\n%s", got, r.log)
		}
		if !strings.Contains(r.log.String(), "not free at once what it needs") || !strings.Contains(r.log.String(), `needs="cpu=2"`) {
			t.Errorf("the log does not say why:\n%s", r.log)
		}
		r.execute(r.action("c", nil), at(-1))
		h.assigned()
		h.keep(time.Minute)
		if !strings.Contains(r.log.String(), "the 1 workers that can run it are busy") {
			t.Errorf("the log does not say why:\n%s", r.log)
		}
		h.Close()
		time.Sleep(29 * time.Second)
	})
}

// TestUnsatisfiableTimeout: if it is set, an action waits that long for a worker with its platform, whatever workers
// there are, and runs if one comes.
func TestUnsatisfiableTimeout(t *testing.T) {
	bubble(t, func(o *Options) { o.UnsatisfiableTimeout = 10 * time.Minute }, func(t *testing.T, r *rig) {
		h := r.worker("w", 1, "pool=cpu")
		time.Sleep(r.s.o.Settle)
		first := r.execute(r.action("a", nil, "pool=gpu"))
		h.keep(9 * time.Minute)
		r.stage(first, repb.ExecutionStage_QUEUED)
		gpu := r.worker("g", 1, "pool=gpu")
		gpu.succeed(gpu.assigned())
		if a := r.end(first); a.resp.GetResult() == nil {
			t.Errorf("got %v, want a result of the worker that came", a.resp)
		}
		gpu.Leave()
		second := r.execute(r.action("b", nil, "pool=tpu"))
		h.keep(9*time.Minute + 50*time.Second)
		r.stage(second, repb.ExecutionStage_QUEUED)
		h.keep(20 * time.Second)
		if a := r.end(second); a.resp.GetStatus().GetCode() != int32(codes.FailedPrecondition) {
			t.Errorf("got %v, want FAILED_PRECONDITION after ten minutes", a.resp)
		}
	})
}

func TestLimits(t *testing.T) {
	for text, want := range map[string]struct {
		cpu    float64
		memory int64
	}{
		"": {}, "tool=gcc": {}, "cpu=1.5": {cpu: 1.5}, "memory=4GB": {memory: 4e9}, "memory=512MiB cpu=2": {2, 512 << 20}, "memory=1048576": {memory: 1 << 20},
		"memory=4": {}, "memory=none cpu=much": {},
	} {
		p := new(repb.Platform)
		for _, f := range strings.Fields(text) {
			name, value, _ := strings.Cut(f, "=")
			p.Properties = append(p.Properties, &repb.Platform_Property{Name: name, Value: value})
		}
		if cpu, memory := Limits(p); cpu != want.cpu || memory != want.memory {
			t.Errorf("%q: got %v processors and %d bytes, want %+v", text, cpu, memory, want)
		}
	}
}
