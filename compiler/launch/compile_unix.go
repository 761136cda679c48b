//go:build unix

package launch

import (
	"os"
	"path"
	"syscall"
)

// statusNotFound is what shells end with for a command that is not there.
const statusNotFound = 127

// compile does what the compiler's command line asks for, and returns the exit status.
func compile(argv []string) int {
	compiler, err := Find(argv[0])
	if err != nil {
		complain(err.Error())
		return statusNotFound
	}
	enter(compiler)
	umask := syscall.Umask(0)
	syscall.Umask(umask)
	l := &launcher{compiler: compiler, args: argv[1:], env: os.Environ(), umask: umask}
	if os.Getenv("SARSEN_CC_DISABLE") == "" {
		if status, done := l.ask(); done {
			return status
		}
	}
	return l.become()
}

// A launcher is one compile.
type launcher struct {
	compiler string
	args     []string
	env      []string // as it was at the start
	umask    int
	part     bool   // of a command with several sources
	dir      string // the cache's folder
	conn     *conn
}

// become replaces this process by the compiler.
func (l *launcher) become() int {
	if l.conn != nil {
		l.conn.close()
	}
	err := syscall.Exec(l.compiler, append([]string{l.compiler}, l.args...), l.env)
	complain("run " + l.compiler + ": " + err.Error())
	return statusNotFound
}

// ask asks the daemon what to do and does it. If done is false, nothing happened yet and the compiler
// is to run.
func (l *launcher) ask() (status int, done bool) {
	cwd, err := os.Getwd()
	if err == nil && len(cwd) > 6 && cwd[:6] == "/proc/" {
		cwd, err = syscall.Getwd() // that name is another directory for the daemon
	}
	if err != nil {
		return 0, false
	}
	if l.dir, err = Dir(); err != nil {
		return 0, false
	}
	ask := Ask{
		Version: Version, Compiler: l.compiler, Args: l.args, Dir: cwd, Env: environment(),
		Umask: uint32(l.umask), View: View(), Terminal: isTerminal(2),
	}
	body := ask.Encode()
	// What is sent right away is there when the daemon first looks.
	if l.conn, err = connect(l.dir); err != nil {
		return 0, false
	}
	if l.conn.send(Request, body) != nil {
		return 0, false
	}
	for {
		kind, body, err := l.conn.receive()
		var answer Answer
		if err != nil || answer.Decode(body) != nil {
			return 0, false
		}
		unset(answer.Unset)
		switch kind {
		case Split:
			if l.part {
				return 0, false
			}
			return l.split(&answer), true
		case Hit:
			return l.take(&answer)
		case Run:
			return l.run(&answer), true
		case Preprocess:
			if !l.preprocess(&answer) {
				return 0, false
			}
		default:
			return 0, false
		}
	}
}

// take puts the outputs of a hit in their places.
func (l *launcher) take(a *Answer) (status int, done bool) {
	for i := 0; i+1 < len(a.Renames); i += 2 {
		if syscall.Rename(a.Renames[i], a.Renames[i+1]) != nil {
			return 0, false
		}
	}
	say(a.Stdout, a.Stderr)
	return 0, true
}

// say repeats what a compiler said.
func say(stdout, stderr []byte) {
	if len(stdout) > 0 {
		os.Stdout.Write(stdout)
	}
	if len(stderr) > 0 {
		os.Stderr.Write(stderr)
	}
}

// run runs the compiler as the daemon wants it and reports how it ended.
func (l *launcher) run(a *Answer) int {
	report, state := l.execute(a.Argv)
	if report == nil || l.blames(report) {
		if l.part {
			return l.alone()
		}
		return l.become()
	}
	if a.Headers {
		report.Stderr, report.Headers = splitHeaders(report.Stderr)
	}
	say(report.Stdout, report.Stderr)
	if l.conn.send(Done, report.Encode()) == nil {
		l.conn.receive() // until the daemon has read the outputs; without it nothing is stored
	}
	if state.Signaled() {
		dieOf(state.Signal())
	}
	return report.Status
}

// blames reports whether the compiler failed at a file in the cache's folder, or warns of it: the dependency files that the
// daemon asked for have no place on a full disk. Without them the compiler may succeed.
func (l *launcher) blames(r *Report) bool {
	return index(string(r.Stderr), l.dir+"/") >= 0
}

// preprocess runs the preprocessor as the daemon wants it; what it said is the daemon's affair.
func (l *launcher) preprocess(a *Answer) bool {
	report, _ := l.execute(a.Argv)
	return report != nil && l.conn.send(Preprocessed, report.Encode()) == nil
}

// execute runs the compiler and collects what it says. It returns nil if the compiler could not be
// started.
func (l *launcher) execute(args []string) (*Report, syscall.WaitStatus) {
	var state syscall.WaitStatus
	stdout, err := scratch()
	if err != nil {
		return nil, state
	}
	defer stdout.Close()
	stderr, err := scratch()
	if err != nil {
		return nil, state
	}
	defer stderr.Close()
	report := &Report{Began: now()}
	if state, err = l.child(args, stdout.Fd(), stderr.Fd()); err != nil {
		return nil, state
	}
	report.Status = statusOf(state)
	report.Stdout, report.Stderr = content(stdout), content(stderr)
	return report, state
}

// child runs the compiler and waits for its end.
func (l *launcher) child(args []string, stdout, stderr uintptr) (state syscall.WaitStatus, err error) {
	pid, err := syscall.ForkExec(l.compiler, append([]string{l.compiler}, args...), &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, stdout, stderr},
	})
	if err != nil {
		return state, err
	}
	defer passSignals(pid)()
	for {
		if _, err = syscall.Wait4(pid, &state, 0, nil); err != syscall.EINTR {
			return state, nil
		}
	}
}

func statusOf(state syscall.WaitStatus) int {
	if state.Signaled() {
		return 128 + int(state.Signal())
	}
	return state.ExitStatus()
}

// unset takes variables out of the environment of this process.
func unset(names []string) {
	for _, name := range names {
		os.Unsetenv(name)
	}
}

// content returns what was written into f by another process.
func content(f *os.File) []byte {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil
	}
	b := make([]byte, info.Size())
	n, _ := f.ReadAt(b, 0)
	return b[:n]
}

// SocketIn returns the path of the daemon's socket in its folder.
func SocketIn(dir string) string { return path.Join(dir, "daemon.sock") }

// LockIn returns the path of the file that a daemon has locked for as long as it lives.
func LockIn(dir string) string { return path.Join(dir, "daemon.lock") }
