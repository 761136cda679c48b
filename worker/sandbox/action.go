package sandbox

import (
	"errors"
	"os"
	"sync"
	"time"
)

// An action is one command in the runner, from its request to its answer.
type action struct {
	spec  *Spec
	pipes []*os.File // the command's standard input and output, if it has pipes
	grace time.Duration

	mu    sync.Mutex
	child child
	why   string // why it is being killed; the first reason stands
	timer *time.Timer
}

// stop kills the command: at once, or first gently.
func (a *action) stop(why string, gently bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.why != "" && gently {
		return // it is on its way already
	}
	if a.why == "" {
		a.why = why
	}
	if a.child == nil {
		return // run sees why
	}
	if gently {
		a.child.terminate()
		a.timer = time.AfterFunc(a.grace, func() { a.stop(why, false) })
		return
	}
	a.child.kill()
}

// run runs the command. The file is the action's root where it is not Spec.Root.
func (a *action) run(l launcher) (Outcome, *os.File, error) {
	defer closeAll(a.pipes)
	logs, err := openLogs(a.spec, len(a.pipes) == 2)
	if err != nil {
		return Outcome{}, nil, err
	}
	defer logs.close()
	out := Outcome{Start: time.Now()}
	stdin, stdout := -1, 0
	if len(a.pipes) == 2 {
		stdin, stdout = int(a.pipes[0].Fd()), int(a.pipes[1].Fd())
	} else {
		stdout = logs[0].child
	}
	c, err := l.launch(a.spec, stdin, stdout, logs[1].child)
	if err != nil {
		return out, nil, err
	}
	logs.start()
	closeAll(a.pipes)
	a.pipes = nil
	a.started(c)
	e, err := c.wait()
	out.End = time.Now()
	why := a.ended()
	out.Usage = e.usage
	var lost error
	out.Usage.Stdout, out.Usage.Stderr, lost = logs.finish(e.message)
	if err = errors.Join(err, lost); err != nil {
		return out, c.root(), err
	}
	out.ExitCode, out.Killed = e.code, e.killed
	if why != "" {
		out.Killed, out.TimedOut = why, why == "timeout"
	}
	return out, c.root(), nil
}

func (a *action) started(c child) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.child = c
	switch {
	case a.why != "":
		c.kill()
	case a.spec.Timeout > 0:
		a.timer = time.AfterFunc(a.spec.Timeout, func() { a.stop("timeout", true) })
	}
}

// ended makes stop harmless, and returns why the command was killed.
func (a *action) ended() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	a.child = nil
	return a.why
}
