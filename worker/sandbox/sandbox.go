// Package sandbox runs the commands of actions where they can do no harm.
//
// The worker starts one runner: this same program, executed again, which Main serves. The two speak
// over a socket. The runner never opens a file of the store for writing, so no child that it forks
// can hold a writable descriptor of a program that another action is about to execute (ETXTBSY,
// golang/go#22315), and it has nothing of the worker's memory, environment or descriptors.
//
// For each action a small child of the runner, the zygote (zygote.go), forks a process that builds the sandbox around
// itself and becomes its init (fork.go): pid 1 of pid and ipc namespaces of its own, in a copy of a prepared mount namespace,
// with a network namespace that no other action has at that time, and the runner's uts namespace, whose name
// nobody can change. Its child enters a user namespace, gives up every capability, takes limits, a Landlock domain and
// a seccomp filter, and executes the command. Both play scripts: lists of system calls that the runner writes
// down (builder.go, script.go), since a forked Go process may do nothing but system calls.
//
// What the command sees (view.go): the host's system directories read-only, a private /tmp and
// /dev/shm, a fresh /proc, a small /dev, and the action's root at /work, the same for every action.
// It is user 1000 there. On the host it is Options.User where the worker is root; elsewhere it
// is the worker's own user, and an overlay keeps it from the staged files, which are shared.
//
// With Options.Chroot it sees nothing of the host (chroot.go): the action's root is /, and the command looks like root in it, as
// in a container's. There always is an overlay then, in which even the inputs can be changed.
//
// # Invariants
//
// When Run returns, no process of the action lives, unless it says ErrRunnerDied: then the kernel kills them at
// that moment. No staged file is changed, only directories. An action that was not found answers 127, one that can't be executed 126, one
// that a signal ended 128 and the signal's number; these are outcomes and no errors.
//
// # Concurrency
//
// A Runner may be used by many goroutines. Its process runs all actions at once.
//
// # Crashes
//
// The kernel kills the runner when the worker dies, and every action when the runner dies. A runner that
// died is started again by the next Run.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// Mode says how much of a sandbox there must be.
type Mode string

// The modes.
const (
	Auto   Mode = "auto"   // as much as the host allows; Lacks tells what is missing
	Strict Mode = "strict" // all of it, or Start fails
	None   Mode = "none"   // a process group of its own and nothing else
)

// Home is where every action finds its root, in modes with a sandbox and without Options.Chroot.
const Home = "/work"

// Options configure a Runner. The zero value runs in mode Auto.
type Options struct {
	Mode Mode
	// Chroot makes an action's root all that it sees, with /proc, /dev and /tmp of its own, and makes it look like root
	// there. Start fails where no namespaces can be had.
	Chroot bool
	// Dir is on the file system of the actions' roots, where Start tries what that can do. It is made if it is not there;
	// empty is the temporary directory.
	Dir string
	// User is the user and group on the host under which actions run when the worker is root; 0 is 60999.
	User int
	// Binds are more directories of the host that actions may read, beside the system's.
	Binds []string
	// Hides are files and directories of the host that actions see empty, though they lie in a system directory.
	Hides []string
	// Temp bounds /tmp and /dev/shm of an action, in bytes each; 0 is 4 GiB. They are memory.
	Temp int64
	// Grace is how long after SIGTERM a command that timed out is killed; 0 is one second.
	Grace time.Duration
	// Cgroup is a cgroup v2 directory that this process may fill; empty is the worker's own.
	Cgroup string
	// Log gets what the runner has to say; nil discards it.
	Log *slog.Logger `json:"-"`
}

// OverlaySuffix comes after the name of Spec.Root in that of its overlay: see Outcome.Root.
const OverlaySuffix = ".overlay"

// Spec is one command to run.
type Spec struct {
	ID      string        // names the action in errors
	Root    string        // the staged input root on the host; its directories are given to the action
	Owned   bool          // the directories belong to the action's user already: see Runner.Owner
	Dir     string        // the working directory, below Root; empty is Root
	Args    []string      // a name without a slash is looked up in PATH of Env
	Env     []string      // the whole environment, "name=value"
	Stdout  string        // a file that is made if there is anything to keep; it must not be there
	Stderr  string        // the same
	MaxLog  int64         // bytes kept of each of them; 0 is 64 MiB
	Timeout time.Duration // 0 is none

	Memory  int64   // bytes; 0 is no limit
	CPU     float64 // cores; 0 is no limit
	Pids    int     // processes and threads; 0 is 4096
	Files   int     // open files a process; 0 is 65536
	Network bool    // the host's network; else loopback alone

	// Private says that no file below Root is shared with anybody, so nothing need be kept from the command.
	Private bool
	// Pipes are its standard input, which is empty otherwise, and output; then Stdout is not made. Run closes
	// the command's ends, and the caller the others.
	Pipes *Pipes `json:"-"`
}

// Outcome is what became of a command.
type Outcome struct {
	ExitCode int    // 128+n for signal n
	TimedOut bool   // Spec.Timeout passed
	Killed   string // why the sandbox killed it: "timeout", "cancelled", "memory"; else empty
	Start    time.Time
	End      time.Time
	Usage    Usage
	// Root is the action's root as the action left it. It differs from Spec.Root where an overlay keeps
	// the inputs: then Spec.Root with OverlaySuffix after its name holds what the action wrote, and goes when the
	// caller removes it, after closing Root.
	Root *os.Root `json:"-"`
}

// Usage is what a command and all its descendants took.
type Usage struct {
	User, System time.Duration
	MaxRSS       int64 // bytes, of the largest process
	ReadBlocks   int64 // of 512 bytes, from disks
	WriteBlocks  int64
	Stdout       int64 // bytes written, kept or not
	Stderr       int64
}

// ErrRunnerDied reports that the runner's process ended while an action ran. The action may be run again.
var ErrRunnerDied = errors.New("the sandbox's runner died")

// ErrSpec reports a Spec that no runner can run.
var ErrSpec = errors.New("not a command that can be run")

// errPlace reports an input root that can't be the root of an action.
var errPlace = errors.New("the input root can't be /")

const (
	defaultUser   = 60999 // in no range that distributions or systemd give out
	defaultTemp   = 4 << 30
	defaultGrace  = time.Second
	defaultMaxLog = 64 << 20
	defaultPids   = 4096
	defaultFiles  = 65536
	// maxTexts is more than Linux executes, and fits into a message to the runner however it is escaped there: a runner
	// that gets a longer one ends, and all that it runs with it.
	maxTexts = 8 << 20
)

func (o Options) home() string {
	if o.Chroot {
		return "/"
	}
	return Home
}

func (o Options) withDefaults() (Options, error) {
	if o.Mode == "" {
		o.Mode = Auto
	}
	if o.Mode != Auto && o.Mode != Strict && o.Mode != None {
		return o, fmt.Errorf("sandbox mode %q: want auto, strict or none", o.Mode)
	}
	if o.Chroot && (o.Mode == None || !canJail) {
		return o, errors.New("sandbox: chroot needs namespaces, which mode none and systems other than Linux do not have")
	}
	if o.User == 0 {
		o.User = defaultUser
	}
	if o.Temp == 0 {
		o.Temp = defaultTemp
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// withDefaults checks what the runner relies on: names that stay below the root, strings that survive
// the way to the runner and end where C ends them.
func (s Spec) withDefaults() (Spec, error) {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return s, fmt.Errorf("%w: %s: no arguments", ErrSpec, s.ID)
	}
	size := 0
	for _, text := range append(append([]string{s.Dir, s.Root}, s.Args...), s.Env...) {
		size += len(text) + 9 // with its end and its address, as Linux counts
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return s, fmt.Errorf("%w: %s: %q is not UTF-8 or holds a zero byte", ErrSpec, s.ID, text)
		}
	}
	if size > maxTexts {
		return s, fmt.Errorf("%w: %s: arguments and environment of %d bytes, at most %d", ErrSpec, s.ID, size, maxTexts)
	}
	if s.Dir == "" {
		s.Dir = "."
	}
	if !filepath.IsLocal(s.Dir) {
		return s, fmt.Errorf("%w: %s: working directory %q leaves the root", ErrSpec, s.ID, s.Dir)
	}
	for _, name := range []string{s.Root, s.Stdout, s.Stderr} {
		if !filepath.IsAbs(name) && (name != "" || s.Pipes == nil) {
			return s, fmt.Errorf("%w: %s: path %q is not absolute", ErrSpec, s.ID, name)
		}
	}
	if s.MaxLog == 0 {
		s.MaxLog = defaultMaxLog
	}
	if s.Pids == 0 {
		s.Pids = defaultPids
	}
	if s.Files == 0 {
		s.Files = defaultFiles
	}
	return s, nil
}

// Run runs one command and returns when nothing of it lives. A canceled context kills it; then the outcome
// is filled as well as can be, and the error is the context's. Other errors: ErrSpec, ErrRunnerDied,
// and whatever kept the sandbox from being built.
func (r *Runner) Run(ctx context.Context, s Spec) (Outcome, error) {
	if s.Pipes != nil {
		defer s.Pipes.release()
	}
	s, err := s.withDefaults()
	if err != nil {
		return Outcome{}, err
	}
	if err := ctx.Err(); err != nil {
		return Outcome{}, context.Cause(ctx)
	}
	p, err := r.living()
	if err != nil {
		return Outcome{}, err
	}
	a, err := p.run(ctx, &s)
	if err != nil {
		return Outcome{}, fmt.Errorf("%s: %w", s.ID, err)
	}
	if a.root == nil {
		if a.root, err = os.OpenRoot(s.Root); err != nil {
			return a.Outcome, err
		}
	}
	a.Outcome.Root = a.root
	if a.Outcome.Killed == "cancelled" {
		return a.Outcome, context.Cause(ctx)
	}
	return a.Outcome, nil
}
