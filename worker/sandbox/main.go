package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
)

// Main serves as the runner if this process was started as one, and returns true when that is over. It is the
// first thing that the program's main does.
func Main() bool {
	if len(os.Args) != 2 || os.Args[0] != runnerName {
		return false
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", runnerName, err)
		os.Exit(1)
	}
	return true
}

// A launcher starts commands in one kind of sandbox.
type launcher interface {
	// launch starts the command with copies of these descriptors; stdin is -1 for an empty one.
	launch(s *Spec, stdin, stdout, stderr int) (child, error)
}

// A child is a command and all its descendants.
type child interface {
	terminate() // asks all of them to end
	kill()      // ends all of them
	// wait returns when none of them lives.
	wait() (end, error)
	// root returns the action's root if it is not Spec.Root. The caller closes it, when the child is gone.
	root() *os.File
}

// An end is how a command ended.
type end struct {
	code    int
	message string // what the sandbox has to say on the command's standard error
	killed  string // why the kernel killed it, if the sandbox knows
	usage   Usage
}

// A runner is the process on the far side of the wire.
type runner struct {
	options  Options
	launcher launcher
	wire     *wire

	mu      sync.Mutex
	running map[uint64]*action
}

// serve answers the worker until it closes the socket. What still runs then dies with this process.
func serve(way string) error {
	// Its threads mostly wait for the kernel; more of them only wake each other. Measured on two cores: a fifth less
	// processor time for an action.
	runtime.GOMAXPROCS((runtime.NumCPU() + 7) / 8)
	if way == holder {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	conn, err := net.FileConn(os.NewFile(3, "worker"))
	if err != nil {
		return err
	}
	closeOnExec(3)
	w := &wire{conn: conn.(*net.UnixConn)}
	var hello request
	if _, err := w.read(&hello); err != nil {
		return err
	}
	if hello.Hello == nil {
		return fmt.Errorf("no hello")
	}
	o, _ := hello.Hello.withDefaults()
	l, lacks, owner, err := newLauncher(o, way)
	first := answer{Lacks: lacks, Owner: owner}
	if err != nil {
		first.Error = err.Error()
	}
	if err := w.write(first); err != nil || first.Error != "" {
		return err
	}
	r := &runner{options: o, launcher: l, wire: w, running: map[uint64]*action{}}
	for {
		var q request
		files, err := w.read(&q)
		if err != nil {
			return nil
		}
		r.handle(&q, files)
	}
}

// handle begins a command, whose pipes the files are, or cancels one.
func (r *runner) handle(q *request, files []*os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Cancel {
		if a := r.running[q.Seq]; a != nil {
			a.stop("cancelled", false)
		}
		return
	}
	a := &action{spec: q.Run, pipes: files, grace: r.options.Grace}
	r.running[q.Seq] = a
	go func() {
		out, root, err := a.run(r.launcher)
		r.mu.Lock()
		delete(r.running, q.Seq)
		r.mu.Unlock()
		reply := answer{Seq: q.Seq, Outcome: out}
		if err != nil {
			reply.Error, reply.Refused = err.Error(), errors.Is(err, errPlace)
		}
		// A worker that does not listen is gone, and serve sees that too.
		if root == nil {
			_ = r.wire.write(reply)
			return
		}
		_ = r.wire.write(reply, root)
		_ = root.Close()
	}()
}
