package execution

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
)

// A machine takes random steps on a rig and knows what each client and worker has seen.
type machine struct {
	*rig
	t       *testing.T
	rand    *rand.Rand
	trace   []string
	clients []*client
	hands   []*machineHand
	names   int
	ran     map[string]int // results put into the action cache, by action
}

// A client waits for one operation.
type client struct {
	*Watch
	name string // of the action
	done bool
	gone time.Time // when it left; zero while it waits
}

// A machineHand is a worker process: it has what it was told and has not completed.
type machineHand struct {
	*hand
	open      bool // connected, as far as it knows
	silent    bool // hangs: no heartbeats
	has       []Instruction
	cancelled map[string]bool
}

// TestRandom takes random steps: clients come, join, leave, come back and cancel; workers come, run, fail, vanish, hang,
// break and come back, drain and leave; time passes and the store evicts. After every step all invariants hold, and in
// the end, when good workers come, every operation is done and everything is given back.
func TestRandom(t *testing.T) {
	n := 150
	if testing.Short() {
		n = 20
	}
	if v := os.Getenv("SARSEN_SCHEDULES"); v != "" {
		n = number(t, v)
	}
	first := 0
	if v := os.Getenv("SARSEN_SEED"); v != "" {
		first = number(t, v)
		n = first + 1
	}
	for seed := first; seed < n; seed++ {
		randomOne(t, seed)
	}
}

func number(t *testing.T, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func randomOne(t *testing.T, seed int) {
	m := &machine{rand: rand.New(rand.NewPCG(uint64(seed), 4)), ran: map[string]int{}}
	defer func() {
		if t.Failed() {
			for _, step := range m.trace[max(0, len(m.trace)-40):] {
				t.Log(step)
			}
			t.Logf("replay: SARSEN_SEED=%d go test ./execution -run '^TestRandom$'", seed)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		m.rig, m.t = newRig(t, func(o *Options) { o.MaxDone = 30 }), t
		for range 120 {
			m.step()
			m.see()
			m.check()
			if t.Failed() {
				t.FailNow()
			}
		}
		m.finish()
	})
}

func (m *machine) say(format string, args ...any) {
	m.trace = append(m.trace, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

func (m *machine) chance(percent int) bool { return m.rand.IntN(100) < percent }

// step does one thing.
func (m *machine) step() {
	steps := []struct {
		weight int
		do     func()
	}{
		{25, m.execute1}, {8, m.leave}, {4, m.comeBack}, {4, m.cancelOne}, {10, m.newWorker}, {30, m.answer}, {12, m.progress},
		{6, m.disconnect}, {8, m.reconnect}, {2, m.drainOne}, {2, m.leaveOne}, {2, m.hang}, {20, m.pass}, {2, m.lose},
	}
	sum := 0
	for _, s := range steps {
		sum += s.weight
	}
	at := m.rand.IntN(sum)
	for _, s := range steps {
		if at -= s.weight; at < 0 {
			s.do()
			synctest.Wait()
			return
		}
	}
}

var machinePlatforms = [][]string{{}, {}, {"cpu=1"}, {"cpu=0.5", "memory=10"}, {"cpu=3"}, {"OSFamily=macos"}, {"tool=gcc"}, {"tool=none"}}

func (m *machine) execute1() {
	n := m.rand.IntN(12)
	name := fmt.Sprint("action ", n)
	platform := machinePlatforms[n%len(machinePlatforms)]
	change := func(a *repb.Action) { a.DoNotCache = n == 11 }
	req := Request{
		Key: m.action(name, change, platform...), SkipCache: m.chance(50), Priority: int32(m.rand.IntN(3)),
		Invocation: []string{"", "x", "y"}[m.rand.IntN(3)],
	}
	w, err := m.s.Execute(context.Background(), req)
	m.say("execute %s %v: %v", name, platform, err)
	var missing *blob.MissingError
	if errors.As(err, &missing) {
		return // what was evicted in between
	}
	if err != nil {
		m.t.Fatalf("Execute = %v", err)
	}
	m.clients = append(m.clients, &client{Watch: w, name: name})
}

// one returns one of those that fit, or the zero value.
func one[T any](m *machine, all []T, fits func(T) bool) (_ T, ok bool) {
	var some []T
	for _, x := range all {
		if fits(x) {
			some = append(some, x)
		}
	}
	if len(some) == 0 {
		var none T
		return none, false
	}
	return some[m.rand.IntN(len(some))], true
}

func waiting(c *client) bool { return !c.done && c.gone.IsZero() }

func (m *machine) leave() {
	if c, ok := one(m, m.clients, waiting); ok {
		m.say("client of %s leaves", c.name)
		c.Close()
		c.gone = time.Now()
	}
}

func (m *machine) comeBack() {
	c, ok := one(m, m.clients, func(c *client) bool { return !c.gone.IsZero() })
	if !ok {
		return
	}
	w, err := m.s.Wait(c.Name())
	m.say("client of %s comes back: %v", c.name, err)
	if err == nil {
		c.Watch, c.gone = w, time.Time{}
	}
}

func (m *machine) cancelOne() {
	if c, ok := one(m, m.clients, waiting); ok {
		m.say("client of %s cancels", c.name)
		if err := m.s.Cancel(c.Name()); err != nil {
			m.t.Fatal(err)
		}
		if a := m.now(c.Watch); !a.Done || a.GetError().GetCode() != int32(codes.Canceled) {
			m.t.Fatalf("after Cancel: %v", a)
		}
	}
}

var machineWorkers = [][]string{{"cpu=2", "memory=15"}, {"cpu=4", "OSFamily=macos"}, {"tool=gcc", "tool=clang"}, {}}

func (m *machine) newWorker() {
	if len(m.hands) >= 5 {
		return
	}
	m.names++
	platform := machineWorkers[m.rand.IntN(len(machineWorkers))]
	name := fmt.Sprint("w", m.names)
	m.say("worker %s comes with %v", name, platform)
	m.hands = append(m.hands, &machineHand{hand: m.worker(name, 1+m.rand.IntN(3), platform...), open: true, cancelled: map[string]bool{}})
}

func busy(h *machineHand) bool  { return h.open && !h.silent && len(h.has) > 0 }
func alive(h *machineHand) bool { return h.open && !h.silent }

// answer completes an assignment in one of many ways.
func (m *machine) answer() {
	h, ok := one(m, m.hands, busy)
	if !ok {
		return
	}
	n := m.rand.IntN(len(h.has))
	i := h.has[n]
	h.has = slices.Delete(h.has, n, n+1)
	name := i.Command.GetArguments()[1]
	how := m.rand.IntN(10)
	m.say("worker %s answers %s, cancelled %v, in way %d", h.reg.Name, name, h.cancelled[i.ID], how)
	switch {
	case h.cancelled[i.ID]:
		h.fail(i, codes.Canceled, "")
	case how == 0:
		h.fail(i, codes.Internal, "trouble")
	case how == 1:
		h.fail(i, codes.FailedPrecondition, "missing")
	case how == 2:
		h.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{OutputFiles: []*repb.OutputFile{{Digest: protoOf(digest.SHA256.Of([]byte("nowhere")))}}}})
	case how == 3:
		h.Complete(i.ID, &repb.ExecuteResponse{Result: &repb.ActionResult{ExitCode: 1}})
	default:
		h.succeed(i)
		m.ran[name]++
	}
	if how == 4 { // a worker that stutters
		h.succeed(i)
	}
}

func (m *machine) progress() {
	if h, ok := one(m, m.hands, busy); ok {
		i := h.has[m.rand.IntN(len(h.has))]
		h.Progress(i.ID, []State{Executing, Uploading, Done}[m.rand.IntN(3)], nil)
		h.Log(i.ID, Stdout, []byte("text"))
	}
}

func (m *machine) disconnect() {
	if h, ok := one(m, m.hands, alive); ok {
		m.say("connection of %s breaks", h.reg.Name)
		h.Close()
		h.open = false
	}
}

// reconnect connects a worker anew, also one whose connection it does not know to be broken.
func (m *machine) reconnect() {
	h, ok := one(m, m.hands, func(h *machineHand) bool { return !h.open || m.chance(10) })
	if !ok {
		return
	}
	h.reg.Running = nil
	kept := h.has[:0]
	for _, i := range h.has {
		if m.chance(90) {
			h.reg.Running = append(h.reg.Running, Running{ID: i.ID, Key: i.Key, Started: time.Now().Add(-time.Second)})
			kept = append(kept, i)
		}
	}
	h.has = kept
	m.say("%s comes back with %d", h.reg.Name, len(kept))
	h.hand = m.connect(h.reg)
	h.open, h.silent = true, false
}

func (m *machine) drainOne() {
	if h, ok := one(m, m.hands, func(h *machineHand) bool { return true }); ok {
		m.say("%s is drained: %v", h.reg.Name, m.s.Drain(h.reg.Name))
	}
}

func (m *machine) remove(h *machineHand) {
	m.hands = slices.DeleteFunc(m.hands, func(other *machineHand) bool { return other == h })
}

func (m *machine) leaveOne() {
	if h, ok := one(m, m.hands, alive); ok {
		m.say("%s leaves", h.reg.Name)
		h.Leave()
		m.remove(h)
	}
}

func (m *machine) hang() {
	if h, ok := one(m, m.hands, alive); ok {
		m.say("%s hangs", h.reg.Name)
		h.silent = true
	}
}

// lose makes an output vanish, so that a result in the action cache has a hole.
func (m *machine) lose() {
	m.say("leases end")
	m.rest(aLease + time.Second)
	m.store.Evict()
}

func (m *machine) pass() {
	d := []time.Duration{time.Millisecond, time.Second, 10 * time.Second, 31 * time.Second, 61 * time.Second}[m.rand.IntN(5)]
	m.say("%s pass", d)
	m.rest(d)
}

// rest lets time pass. Workers that do not hang heartbeat, and take what they are told.
func (m *machine) rest(d time.Duration) {
	for ; d > 0; d -= 10 * time.Second {
		time.Sleep(min(d, 10*time.Second))
		m.see()
	}
}

// see lets workers that do not hang take what they are told, and clients look.
func (m *machine) see() {
	synctest.Wait()
	for _, h := range m.hands {
		if !alive(h) {
			continue
		}
		h.Heartbeat(Load{})
		for _, i := range h.told() {
			switch i.Kind {
			case Assign:
				h.has = append(h.has, i)
				if len(h.has) > h.reg.Slots {
					m.t.Errorf("SlotsCounted: worker %s has %d actions and %d slots", h.reg.Name, len(h.has), h.reg.Slots)
				}
			case Cancel:
				h.cancelled[i.ID] = true
				if !slices.ContainsFunc(h.has, func(has Instruction) bool { return has.ID == i.ID }) {
					h.fail(i, codes.NotFound, "it does not run") // else its slot is taken
				}
			}
		}
		if _, err := func() (Instruction, error) { i, _, err := h.next(); return i, err }(); err != nil {
			h.open = false
		}
	}
	for _, c := range m.clients {
		m.look(c)
	}
}

// look checks what a client sees: done once, and with holes never.
func (m *machine) look(c *client) {
	if c.done {
		return
	}
	m.s.mu.Lock()
	v := c.o.view()
	m.s.mu.Unlock()
	a := m.unpack(v.proto())
	if !a.Done {
		return
	}
	c.done = true
	if r := a.resp.Result; r != nil && a.resp.Status.GetCode() == 0 {
		missing, err := m.cache.Lease(context.Background(), digest.SHA256, r)
		if err != nil || missing.Len() > 0 {
			m.t.Errorf("Complete: %s was answered without %v, %v", c.name, missing.List(), err)
		}
	}
	if a.resp.Result == nil && a.resp.Status == nil && a.GetError() == nil {
		m.t.Errorf("%s ended with %v", c.name, a)
	}
}

// finish brings good workers and sees everything end.
func (m *machine) finish() {
	m.say("finish")
	for _, h := range slices.Clone(m.hands) {
		if h.open {
			h.Leave()
		}
		m.remove(h)
	}
	for n, platform := range machineWorkers {
		name := fmt.Sprint("good", n)
		m.hands = append(m.hands, &machineHand{hand: m.worker(name, 3, platform...), open: true, cancelled: map[string]bool{}})
	}
	for range 60 {
		m.rest(5 * time.Second)
		for _, h := range m.hands {
			for _, i := range h.has {
				if h.cancelled[i.ID] {
					h.fail(i, codes.Canceled, "")
				} else {
					h.succeed(i)
				}
			}
			h.has = nil
		}
		m.check()
	}
	for _, c := range m.clients {
		if !c.done {
			m.t.Errorf("OnceDone: the operation %s of %s never ended: %v", c.Name(), c.name, m.now(c.Watch))
		}
	}
	if n := m.s.Stats(); n.Checking+n.Queued+n.Running+n.Completing > 0 {
		m.t.Errorf("left are %+v", n)
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for _, w := range m.s.workers {
		if len(w.assignments) > 0 {
			m.t.Errorf("SlotsCounted: worker %s still holds %d assignments", w.name, len(w.assignments))
		}
	}
	if len(m.s.platforms)+len(m.s.invocations)+len(m.s.trees.nodes)+len(m.s.inflight) > 0 {
		m.t.Errorf("left are %d platforms, %d invocations, %d directories, %d keys", len(m.s.platforms), len(m.s.invocations), len(m.s.trees.nodes), len(m.s.inflight))
	}
}
