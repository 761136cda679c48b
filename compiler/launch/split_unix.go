//go:build unix

package launch

import (
	"os"
	"sync"
)

// split compiles the sources of one command as if each had been called by itself, as many at once as the command
// says, and returns the status of the last one that failed. Compilers go on after a source that fails, too.
func (l *launcher) split(a *Answer) int {
	l.conn.close()
	statuses := make([]int, len(a.Parts))
	slots := make(chan struct{}, max(1, a.Jobs))
	var wg sync.WaitGroup
	for i, part := range a.Parts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p := &launcher{compiler: l.compiler, args: part, umask: l.umask, part: true}
			status, done := p.ask()
			if !done {
				status = p.alone()
			}
			statuses[i] = status
		})
	}
	wg.Wait()
	failed := 0
	for _, status := range statuses {
		if status != 0 {
			failed = status
		}
	}
	return failed
}

// alone runs the compiler without the daemon, and returns its status.
func (l *launcher) alone() int {
	if l.conn != nil {
		l.conn.close()
	}
	state, err := l.child(l.args, os.Stdout.Fd(), os.Stderr.Fd())
	if err != nil {
		complain("run " + l.compiler + ": " + err.Error())
		return statusNotFound
	}
	if state.Signaled() {
		dieOf(state.Signal())
	}
	return statusOf(state)
}
