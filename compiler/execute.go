package compiler

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"

	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/upstream"
)

// The bounds of what a server may cost that compiles.
const (
	// executeTime is how long an action may run there.
	executeTime = 10 * time.Minute
	// attemptTime bounds all of it, uploads included.
	attemptTime = 15 * time.Minute
	// askTime bounds the question whether the server executes at all, and whether it is still there.
	askTime = 2 * time.Second
	// silence is how long the server may say nothing of an action before it is asked whether it is there.
	silence = 5 * time.Second
	// stallTime is how long a transfer may stand still.
	stallTime = 10 * time.Second
	// farBeat is how often a launcher is told that its compile is under way elsewhere.
	farBeat = launch.FarPatience / 5
	// localTime is how long a compile waits for a processor here.
	localTime = time.Minute
	// DefaultExecuteJobs is how many compiles are executed at once unless the daemon is told otherwise.
	DefaultExecuteJobs = 100
	// DefaultExecuteQueue is how long a compile is left in the server's queue while a processor is idle here.
	DefaultExecuteQueue = 2 * time.Second
)

// An executor has a server compile what is not known. Whatever goes wrong with it, the compiler runs here.
type executor struct {
	instance   string
	platform   *repb.Platform
	client     repb.ExecutionClient
	offers     repb.CapabilitiesClient
	blobs      *upstream.Store
	toolchains toolchains
	slots      chan struct{} // compiles that are executed
	here       chan struct{} // compilers that run here
	scans      chan struct{} // preprocessors that look for headers
	large      chan struct{} // who uploads what is large
	log        func(string, error)

	down    atomic.Int64 // nanoseconds since 1970 until which nothing is executed
	asked   atomic.Int64 // when it last said that it executes
	began   atomic.Int64 // when it last began or ended an action
	running atomic.Int64 // actions that workers have
	ctx     context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup
}

func newExecutor(o *Options) *executor {
	x := &executor{
		instance: o.Instance, client: repb.NewExecutionClient(o.Remote), offers: repb.NewCapabilitiesClient(o.Remote),
		blobs:      upstream.New(o.Remote, o.Instance, upstream.Options{Retry: -1, Stall: stallTime}),
		toolchains: toolchains{known: map[string][]string{}},
		slots:      make(chan struct{}, o.ExecuteJobs), large: make(chan struct{}, 1),
		here: make(chan struct{}, runtime.NumCPU()), scans: make(chan struct{}, runtime.NumCPU()),
		log: func(what string, err error) { o.Log.Warn(what, "error", err) },
	}
	x.ctx, x.stop = context.WithCancel(context.Background())
	properties := o.Platform
	if len(properties) == 0 {
		properties = defaultPlatform()
	}
	x.platform = &repb.Platform{}
	for name, value := range properties {
		x.platform.Properties = append(x.platform.Properties, &repb.Platform_Property{Name: name, Value: value})
	}
	slices.SortFunc(x.platform.Properties, func(a, b *repb.Platform_Property) int {
		return compare(a.Name, b.Name, a.Value, b.Value)
	})
	return x
}

// defaultPlatform is what a worker must be to run this machine's programs, in the API's words.
func defaultPlatform() map[string]string {
	isa := map[string]string{"amd64": "x86-64", "arm64": "arm-a64"}[runtime.GOARCH]
	if isa == "" {
		isa = runtime.GOARCH
	}
	return map[string]string{"OSFamily": runtime.GOOS, "ISA": isa}
}

func (x *executor) close() {
	x.stop()
	x.work.Wait()
}

// pauseFor sees to it that nothing is executed for a while.
func (x *executor) pauseFor(d time.Duration) { x.down.Store(time.Now().Add(d).UnixNano()) }

// executes reports whether the user wants a miss to be executed elsewhere.
func (j *job) executes() bool {
	switch j.env[launch.Execute] {
	case "":
		return j.daemon.o.Execute
	case "0", "false", "no", "off":
		return false
	}
	return true
}

// An attempt is a compile on its way through a server.
type attempt struct {
	free   chan struct{} // closed when what the compile reads is known
	queued chan struct{} // closed when the server is asked to execute it
	stage  chan bool     // whether a worker has it, whenever that changes
	done   chan struct{} // closed at the end
	plan   *plan
	entry  *entry // nil if it is to be run here, because of reason
	why    string
	text   string // what there is to say about it
	found  bool   // the server had the result
}

// execute has the server compile what was a miss, and returns the entry. It returns nil if the compiler is to
// run here; leave is then to be called when it has.
func (j *job) execute(ctx context.Context) (e *entry, leave func()) {
	x := j.daemon.executor
	leave = func() {}
	if !j.executes() {
		return nil, leave
	}
	if x == nil {
		j.here(notConfigured)
		return nil, leave
	}
	if time.Now().UnixNano() < j.daemon.entries.remote.down.Load() {
		j.here(notNow)
		return nil, j.queue(x)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	a := &attempt{free: make(chan struct{}), queued: make(chan struct{}), stage: make(chan bool), done: make(chan struct{})}
	if j.peer.send(launch.Far, nil) != nil { // from now on it waits for longer
		return nil, leave
	}
	x.work.Go(func() {
		defer close(a.done)
		x.run(ctx, a, j)
	})
	switch j.await(ctx, a, x) {
	case left:
		return nil, leave
	case stolen:
		j.here(notBegun)
		select {
		case <-a.queued:
			if x.running.Load() == 0 && time.Now().UnixNano()-x.began.Load() > int64(j.daemon.o.ExecuteQueue) {
				x.pauseFor(3 * pause) // nobody works there
			}
		default:
		}
		return nil, func() { <-x.here }
	}
	if a.entry == nil {
		if a.why == notSucceeded {
			j.failedThere = a.text
		}
		j.here(a.why)
		return nil, j.queue(x)
	}
	if reason := j.learn(ctx, a); reason != "" {
		j.daemon.count(reason)
	} else {
		j.daemon.count(stored)
	}
	j.daemon.past.place(j, "it was compiled by the server")
	return a.entry, leave
}

// here notes why a compile runs here.
func (j *job) here(why string) {
	j.daemon.count(why)
	j.daemon.past.place(j, "it was compiled here: "+why)
}

// What became of waiting for an attempt.
const (
	ended  = iota // it came to its end
	stolen        // a processor is idle here, and is held for this compile
	left          // the launcher has gone: nothing is to be done
)

// await waits for the end of an attempt and lets the launcher know that there is one.
func (j *job) await(ctx context.Context, a *attempt, x *executor) int {
	tick := time.NewTicker(farBeat)
	defer tick.Stop()
	impatient := time.NewTimer(j.daemon.o.ExecuteQueue)
	defer impatient.Stop()
	free := a.free
	begun, late := false, false
	for {
		var here chan struct{}
		if free == nil && !begun && late {
			here = x.here
		}
		select {
		case <-a.done:
			return ended
		case <-tick.C:
			if j.peer.send(launch.Far, nil) != nil {
				select { // until then the job is looked at
				case <-a.free:
				case <-a.done:
				}
				return left
			}
		case <-free:
			free = nil
		case <-impatient.C:
			late = true
		case begun = <-a.stage:
		case here <- struct{}{}:
			return stolen
		}
	}
}

// queue waits for a processor, so that a build with many jobs does not run all of them here at once when the server
// does not help. It returns what gives the processor back.
func (j *job) queue(x *executor) (leave func()) {
	limit := time.NewTimer(localTime)
	defer limit.Stop()
	tick := time.NewTicker(farBeat)
	defer tick.Stop()
	for {
		select {
		case x.here <- struct{}{}:
			return func() { <-x.here }
		case <-limit.C: // who has them all does not move
			return func() {}
		case <-tick.C:
			if j.peer.send(launch.Far, nil) != nil {
				return func() {}
			}
		}
	}
}

// run is an attempt from its beginning to its end.
func (x *executor) run(ctx context.Context, a *attempt, j *job) {
	if a.why = x.ready(ctx); a.why != "" {
		return
	}
	select {
	case x.scans <- struct{}{}:
	case <-ctx.Done():
		a.why = notBegun
		return
	}
	a.plan, a.why = j.plan(x)
	<-x.scans
	again := j.env["SARSEN_CC_RECACHE"] != ""
	if a.why != "" {
		return
	}
	close(a.free)
	select {
	case x.slots <- struct{}{}:
	case <-ctx.Done():
		a.why = notBegun
		return
	}
	defer func() { <-x.slots }()
	// Uploads go on even if nobody waits for this compile any more: the next one needs most of it.
	if err := x.upload(x.ctx, a.plan.blobs); err != nil {
		x.failed(a, err)
		return
	}
	if ctx.Err() != nil {
		a.why = notBegun
		return
	}
	close(a.queued)
	response, err := x.wait(ctx, a, again)
	if err == nil {
		err = x.outputs(ctx, a, response)
	}
	if err != nil && ctx.Err() == nil {
		x.failed(a, err)
	}
}

// learn stores what the server made as if it had been made here.
func (j *job) learn(ctx context.Context, a *attempt) string {
	if j.env["SARSEN_CC_READ_ONLY"] != "" {
		return notReadOnly
	}
	return j.put(ctx, a.entry, a.plan.result, a.plan.read, "")
}

// upload sends the blobs that the server lacks. What is large is sent by one at a time: compiles that begin together
// lack the same compiler.
func (x *executor) upload(ctx context.Context, blobs map[digest.Digest]input) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var all, later digest.Set
	for d := range blobs {
		all.Add(d)
	}
	missing, err := x.blobs.Missing(ctx, all)
	if err != nil {
		return err
	}
	var now digest.Set
	for _, d := range missing.List() {
		if d.Size > largeBlob {
			later.Add(d)
		} else {
			now.Add(d)
		}
	}
	if err := x.send(ctx, now, blobs); err != nil || later.Len() == 0 {
		return err
	}
	select {
	case x.large <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-x.large }()
	if later, err = x.blobs.Missing(ctx, later); err != nil {
		return err
	}
	for _, d := range later.List() {
		if err := x.send(ctx, digest.SetOf(d), blobs); err != nil {
			return err
		}
	}
	return nil
}

// largeBlob is the size in bytes above which a blob is not sent twice at once.
const largeBlob = 128 << 10

func (x *executor) send(ctx context.Context, ds digest.Set, blobs map[digest.Digest]input) error {
	var data [][]byte
	for _, d := range ds.List() {
		in := blobs[d]
		b, err := in.read()
		if err != nil {
			return errors.Join(errInput, err)
		}
		data = append(data, b)
	}
	return errors.Join(x.blobs.PutAll(ctx, ds.List(), data)...)
}

// errInput says that an input could not be read: it is no fault of the server.
var errInput = errors.New("an input changed")

// ready returns why the server is not to be asked, "" if it executes.
func (x *executor) ready(ctx context.Context) string {
	now := time.Now().UnixNano()
	if now < x.down.Load() {
		return notNow
	}
	if now-x.asked.Load() < int64(time.Minute) {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := x.offers.GetCapabilities(ctx, &repb.GetCapabilitiesRequest{InstanceName: x.instance}, grpc.WaitForReady(false))
	if err != nil {
		x.log("the server that is to compile does not answer", err)
		x.pauseFor(pause)
		return notServer
	}
	if !c.GetExecutionCapabilities().GetExecEnabled() {
		x.log("the server executes nothing", os.ErrInvalid)
		x.pauseFor(time.Minute)
		return notOffered
	}
	x.asked.Store(now)
	return ""
}

// compare stops to execute for a while if a compiler that failed there succeeded here: that worker is none for it.
func (j *job) compare(r *launch.Report) {
	if j.failedThere != "" && r.Status == 0 {
		j.daemon.executor.pauseFor(time.Minute)
		j.daemon.log.Warn("a compile that succeeds here failed on the server: have its workers --chroot, and this machine's architecture?",
			"source", j.command.Sources[0], "error", j.failedThere)
	}
}
