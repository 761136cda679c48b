package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
)

// runnerName is what the runner is called in its arguments, which is how Main knows it.
const runnerName = "sarsen-runner"

// holder is a runner that runs nothing: its user namespace is what is wanted of it.
const holder = "holder"

// A Runner runs commands in a process of its own.
type Runner struct {
	options Options

	mu      sync.Mutex
	closed  bool
	process *process
}

// A process is one incarnation of the runner.
type process struct {
	wire  *wire
	cmd   *exec.Cmd
	lacks []string
	owner int
	plain bool          // without namespaces
	dead  chan struct{} // closed when the process ended and was reaped

	mu    sync.Mutex
	seq   uint64
	calls map[uint64]chan *answer // nil once the process is gone
}

// Start starts the runner and builds an empty sandbox once, to learn what the host allows. In mode Strict it fails
// with what Lacks would have said.
func Start(o Options) (*Runner, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Runner{options: o}
	p, err := r.living()
	if err != nil {
		return nil, err
	}
	for _, lack := range p.lacks {
		o.Log.Warn("the sandbox is incomplete", "lacks", lack)
	}
	return r, nil
}

// Lacks says in sentences what the host did not allow.
func (r *Runner) Lacks() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.process.lacks)
}

// Home returns where actions find their root, in modes with a sandbox.
func (r *Runner) Home() string { return r.options.home() }

// Owner returns the user and group on the host to whom staged directories should belong, and whether they must be
// changed at all. Whoever makes them so as it stages sets Spec.Owned, which spares a walk.
func (r *Runner) Owner() (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process.owner, r.process.owner > 0
}

// Confines reports whether commands run in namespaces of their own, so that none of them can reach another's files.
func (r *Runner) Confines() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.process.plain
}

// Adopt gives the directories below root to the user that Owner returns, as Run does without Spec.Owned.
func (r *Runner) Adopt(root string) error {
	user, ok := r.Owner()
	if !ok {
		return nil
	}
	return own(root, user)
}

// Close ends the runner and all that it runs.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.closed = true
	p := r.process
	r.mu.Unlock()
	_ = p.wire.conn.Close()
	<-p.dead
	return nil
}

// living returns the runner's process, a new one if the last one died.
func (r *Runner) living() (*process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("the sandbox's runner is closed")
	}
	if r.process != nil {
		select {
		case <-r.process.dead:
			r.options.Log.Warn("the sandbox's runner died and is started again", "state", r.process.cmd.ProcessState)
		default:
			return r.process, nil
		}
	}
	p, err := start(r.options)
	if err != nil {
		return nil, err
	}
	r.process = p
	return p, nil
}

// start tries the ways of starting a runner, the strongest first.
func start(o Options) (*process, error) {
	var sentences []string
	var last error
	for _, w := range ways(o) {
		p, err := startProcess(o, w)
		if err == nil {
			p.lacks = append(sentences, p.lacks...)
			return p, nil
		}
		if w.lack == "" || o.Mode == Strict {
			return nil, fmt.Errorf("sandbox: %w", err)
		}
		sentences, last = append(sentences, fmt.Sprintf(w.lack, err)), err
	}
	return nil, fmt.Errorf("sandbox: chroot needs namespaces, which can't be had here: %w", last)
}

func startProcess(o Options, w way) (*process, error) {
	conn, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	self, err := executable()
	if err != nil {
		return nil, err
	}
	p := &process{wire: &wire{conn: conn}, plain: w.name == asPlain, dead: make(chan struct{}), calls: map[uint64]chan *answer{}}
	p.cmd = &exec.Cmd{Path: self, Args: []string{runnerName, w.name}, Env: []string{"GOGC=400"}, Dir: "/",
		Stderr: os.Stderr, ExtraFiles: []*os.File{theirs}, SysProcAttr: w.attr}
	started := make(chan error)
	go func() {
		// The runner's death signal is bound to the thread that forked it, so that thread stays until the end.
		runtime.LockOSThread()
		err := p.cmd.Start()
		_ = theirs.Close()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
		close(p.dead)
	}()
	if err := <-started; err != nil {
		_ = conn.Close()
		return nil, err
	}
	if err := p.hello(o); err != nil {
		_ = conn.Close()
		<-p.dead
		return nil, err
	}
	go p.answers()
	return p, nil
}

func (p *process) hello(o Options) error {
	if err := p.wire.write(request{Hello: &o}); err != nil {
		return err
	}
	var a answer
	if _, err := p.wire.read(&a); err != nil {
		return fmt.Errorf("%w at its start: %w", ErrRunnerDied, err)
	}
	p.lacks, p.owner = a.Lacks, a.Owner
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// answers hands answers to whoever waits for them, until the runner is gone.
func (p *process) answers() {
	for {
		a := new(answer)
		files, err := p.wire.read(a)
		if err != nil {
			break
		}
		if len(files) > 0 {
			a.root, err = os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", files[0].Fd()))
			closeAll(files)
			if err != nil && a.Error == "" {
				a.Error = "the action's root: " + err.Error()
			}
		}
		p.mu.Lock()
		call := p.calls[a.Seq]
		delete(p.calls, a.Seq)
		p.mu.Unlock()
		if call != nil {
			call <- a
		}
	}
	_ = p.wire.conn.Close()
	_ = p.cmd.Process.Kill()
	<-p.dead
	p.mu.Lock()
	calls := p.calls
	p.calls = nil
	p.mu.Unlock()
	for _, call := range calls {
		close(call)
	}
}

// run has one command run. It returns only when the runner answered or died, so that nothing of the action is left.
func (p *process) run(ctx context.Context, s *Spec) (*answer, error) {
	call := make(chan *answer, 1)
	p.mu.Lock()
	if p.calls == nil {
		p.mu.Unlock()
		return nil, ErrRunnerDied
	}
	p.seq++
	seq := p.seq
	p.calls[seq] = call
	p.mu.Unlock()
	var files []*os.File
	if s.Pipes != nil {
		files = s.Pipes.theirs[:]
	}
	if err := p.wire.write(request{Seq: seq, Run: s}, files...); err != nil {
		_ = p.wire.conn.Close()
	}
	if s.Pipes != nil {
		s.Pipes.release()
	}
	stop := context.AfterFunc(ctx, func() { _ = p.wire.write(request{Seq: seq, Cancel: true}) })
	defer stop()
	a := <-call
	switch {
	case a == nil:
		return nil, ErrRunnerDied
	case a.Error != "":
		if a.root != nil {
			_ = a.root.Close()
		}
		if a.Refused {
			return nil, fmt.Errorf("%w: %s", ErrSpec, a.Error)
		}
		return nil, errors.New(a.Error)
	}
	return a, nil
}
