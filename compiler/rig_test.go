package compiler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sarsen-build/sarsen/compiler"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/worker/sandbox"
)

// TestMain makes the test's binary the program: package launch takes it over for `cc gcc ...` before this
// is reached, and launchers start it as their daemon.
func TestMain(m *testing.M) {
	if sandbox.Main() {
		return
	}
	if len(os.Args) == 4 && os.Args[1] == launch.Program && os.Args[2] == "--daemon" {
		if err := daemon(os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func daemon(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := compiler.Options{Dir: dir, MaxSize: 64 << 20, Idle: time.Minute, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if addr := os.Getenv("SARSEN_CC_REMOTE"); addr != "" {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		o.Remote, o.Instance = conn, "team"
		o.ExecuteQueue = time.Minute
		if text := os.Getenv("SARSEN_CC_REMOTE_QUEUE"); text != "" {
			if o.ExecuteQueue, err = time.ParseDuration(text); err != nil {
				return err
			}
		}
	}
	return compiler.Run(ctx, o)
}

// A user compiles in a folder of its own, with a cache and a daemon of its own.
type user struct {
	t    testing.TB
	dir  string // the cache
	work string
	env  []string
}

// newUser returns a user whose compiles run with these variables, and whose daemon is up.
func newUser(t testing.TB, env ...string) *user {
	t.Helper()
	need(t, "gcc")
	u := &user{t: t, dir: t.TempDir(), work: t.TempDir(), env: append([]string{"SARSEN_CC_PATIENCE=20s"}, env...)}
	u.start()
	t.Cleanup(func() {
		_, _ = u.ask("stop") // it may be gone
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if lock, err := os.OpenFile(launch.LockIn(u.dir), os.O_RDWR, 0); err == nil {
				err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
				lock.Close()
				if err == nil {
					return
				}
			}
		}
	})
	return u
}

func need(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("SKIPPED: there is no %s here, so nothing was tested", program)
	}
}

// start compiles something that can't be cached until a daemon answers.
func (u *user) start() {
	u.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		u.run("gcc", "--version")
		if _, err := u.ask("stats"); err == nil {
			return
		} else if time.Now().After(end) {
			u.t.Fatal(err)
		}
	}
}

func (u *user) environ() []string {
	env := append(os.Environ(), "LC_ALL=C", "SARSEN_CC_DIR="+u.dir)
	return append(env, u.env...)
}

func (u *user) ask(verb string) (*compiler.Reply, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: launch.SocketIn(u.dir)})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return compiler.AskDaemon(conn, compiler.Question{Verb: verb})
}

// An outcome is how a program ended.
type outcome struct {
	stdout, stderr string
	status         int
}

// run runs a compiler through the launcher.
func (u *user) run(argv ...string) outcome {
	u.t.Helper()
	return u.exec(os.Args[0], append([]string{launch.Program}, argv...)...)
}

func (u *user) exec(name string, argv ...string) outcome {
	u.t.Helper()
	cmd := exec.Command(name, argv...)
	cmd.Dir, cmd.Env = u.work, append(u.environ(), "PWD="+u.work)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// compile runs a compiler through the launcher, which must do its work.
func (u *user) compile(argv ...string) {
	u.t.Helper()
	if got := u.run(argv...); got.status != 0 {
		u.t.Fatalf("%q: got status %d, want 0: %s", argv, got.status, got.stderr)
	}
}

// write writes a file, and waits until it is older than a compile that begins afterwards.
func (u *user) write(name, text string) {
	u.t.Helper()
	path := filepath.Join(u.work, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		u.t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
}

func (u *user) read(name string) string {
	u.t.Helper()
	b, err := os.ReadFile(filepath.Join(u.work, name))
	if err != nil {
		u.t.Fatal(err)
	}
	return string(b)
}

func (u *user) remove(names ...string) {
	u.t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(u.work, name)); err != nil {
			u.t.Fatal(err)
		}
	}
}

// counters returns the statistics, as they are in the file.
func (u *user) counters() map[string]uint64 {
	u.t.Helper()
	all, err := compiler.ReadCounters(compiler.CountersIn(u.dir))
	if err != nil {
		u.t.Fatal(err)
	}
	return all
}

// counts does something and wants exactly these counters to have grown by one ("hit.direct"), or more
// ("hit.direct=2"), those that begin with "stored." left out.
func (u *user) counts(want string, do func()) {
	u.t.Helper()
	before := u.counters()
	do()
	var got []string
	for name, n := range u.counters() {
		switch grown := n - before[name]; {
		case grown == 0 || strings.HasPrefix(name, "stored.") || strings.HasPrefix(name, "remote.upload"): // they come when they come
		case grown == 1:
			got = append(got, name)
		default:
			got = append(got, fmt.Sprintf("%s=%d", name, grown))
		}
	}
	if g := strings.Join(sorted(got), " "); g != want {
		u.t.Errorf("counted %q, want %q", g, want)
	}
}
