package persist

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/worker/sandbox"
)

func TestMain(m *testing.M) {
	if sandbox.Main() {
		return
	}
	if filepath.Base(os.Args[0]) == "tool" {
		testTool(os.Args[1:])
	}
	os.Exit(m.Run())
}

// A rig is a pool, and a directory that stands for a store of files that are shared by links.
type rig struct {
	*testing.T
	pool  *Pool
	dir   string
	store string
	n     int
	mu    sync.Mutex
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	runner, err := sandbox.Start(sandbox.Options{Mode: sandbox.Strict, Log: log})
	if err != nil {
		t.Skipf("SKIPPED: no strict sandbox on this host: %v", err)
	}
	// Others than the owner must get through to the action's root.
	dir, err := os.MkdirTemp("/var/tmp", "sarsen-persist-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, dir: dir, store: filepath.Join(dir, "store")}
	if err := os.Mkdir(r.store, 0o755); err != nil {
		t.Fatal(err)
	}
	o.Dir, o.Runner, o.Remove, o.Log = dir, runner, os.RemoveAll, log
	r.pool = New(o)
	t.Cleanup(func() {
		r.pool.Close()
		_ = runner.Close()
		left, err := filepath.Glob(filepath.Join(dir, "tool-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("got directories of tools after the end: %v, %v", left, err)
		}
		_ = os.RemoveAll(dir)
	})
	r.keep("tool", program(t), 0o555)
	return r
}

func program(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keep puts a file into the store.
func (r *rig) keep(name string, data []byte, mode os.FileMode) {
	r.Helper()
	if err := os.WriteFile(filepath.Join(r.store, name), data, 0o644); err != nil {
		r.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.store, name), mode); err != nil {
		r.Fatal(err)
	}
}

// stage makes an action whose root has the tool and some files, NAME=DATA, and whose request has these arguments.
func (r *rig) stage(flags string, arguments []string, files ...string) Action {
	r.Helper()
	r.mu.Lock()
	r.n++
	id := fmt.Sprintf("action-%d", r.n)
	r.mu.Unlock()
	dir := filepath.Join(r.dir, id)
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		r.Fatal(err)
	}
	for _, d := range []string{dir, root} {
		if err := os.Chmod(d, 0o755); err != nil {
			r.Fatal(err)
		}
	}
	a := Action{Spec: sandbox.Spec{ID: id, Root: root, Args: append(append([]string{"/work/tool"}, strings.Fields(flags)...), "@args"),
		Stdout: filepath.Join(dir, "stdout"), Stderr: filepath.Join(dir, "stderr"), Timeout: 20 * time.Second},
		Platform: &repb.Platform{Properties: []*repb.Platform_Property{{Name: "persistentWorkerKey", Value: "k"}}}}
	if strings.Contains(flags, "--json") {
		a.Platform.Properties = append(a.Platform.Properties, &repb.Platform_Property{Name: "persistentWorkerProtocol", Value: "json"})
	}
	link := func(stored, name string, tool bool) {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			r.Fatal(err)
		}
		if err := os.Link(filepath.Join(r.store, stored), at); err != nil {
			r.Fatal(err)
		}
		if b, err := os.ReadFile(at); err != nil {
			r.Fatal(err)
		} else {
			a.Inputs = append(a.Inputs, Input{name, digest.SHA256.Of(b), tool})
		}
	}
	link("tool", "tool", true)
	files = append(files, "args="+strings.Join(arguments, "\n")+"\n")
	for i, f := range files {
		name, data, _ := strings.Cut(f, "=")
		stored := fmt.Sprintf("%s-%d", id, i)
		r.keep(stored, []byte(data), 0o444)
		link(stored, name, strings.HasPrefix(name, "tool."))
	}
	return a
}

// A result is what a test looks at.
type result struct {
	sandbox.Outcome
	err            error
	root           string
	stdout, stderr string
}

func (r *rig) run(ctx context.Context, a Action) result {
	r.Helper()
	out, err := r.pool.Run(ctx, a)
	got := result{Outcome: out, err: err, root: a.Spec.Root}
	if out.Root != nil {
		_ = out.Root.Close()
		stdout, e1 := os.ReadFile(a.Spec.Stdout)
		stderr, e2 := os.ReadFile(a.Spec.Stderr)
		for _, err := range []error{e1, e2} {
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was printed
				r.Fatal(err)
			}
		}
		got.stdout, got.stderr = string(stdout), string(stderr)
	}
	return got
}

// ask runs an action and wants it to say something.
func (r *rig) ask(want, flags string, arguments []string, files ...string) result {
	r.Helper()
	got := r.run(r.Context(), r.stage(flags, arguments, files...))
	if got.err != nil || got.ExitCode != 0 || got.stderr != want || got.stdout != "" {
		r.Errorf("%q: got %d, %q on stdout, %q on stderr, %v; want 0 and %q on stderr", arguments, got.ExitCode, got.stdout, got.stderr, got.err, want)
	}
	return got
}

// stats wants counts of the pool.
func (r *rig) stats(want Stats) {
	r.Helper()
	if got := r.pool.Stats(); got != want {
		r.Errorf("got %+v, want %+v", got, want)
	}
}

func (r *rig) read(name string) string {
	r.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		r.Error(err)
	}
	return string(b)
}

// TestServe: one process answers many requests in both protocols, each with its own inputs, and its outputs lie
// where an ordinary command leaves them.
func TestServe(t *testing.T) {
	for _, flags := range []string{"", "--json"} {
		t.Run("protocol"+flags, func(t *testing.T) {
			r := newRig(t, Options{})
			for i := range 5 {
				data := fmt.Sprint("data ", i)
				got := r.ask("done", flags, []string{"copy", "src/in", "out"}, "src/in="+data)
				if out := r.read(filepath.Join(got.root, "out")); out != data {
					t.Errorf("out: got %q, want %q", out, data)
				}
			}
			r.ask("6", flags, []string{"number"})
			hash := func(text string) string { return digest.SHA256.Of([]byte(text)).Hex() }
			r.ask("tool "+digest.SHA256.Of(program(t)).Hex()+"\nsrc/in "+hash("x")+"\nargs "+hash("inputs\n"), flags, []string{"inputs"}, "src/in=x")
			if got := r.run(t.Context(), r.stage(flags, []string{"fail"})); got.ExitCode != 7 || got.stderr != "it is wrong" || got.err != nil {
				t.Errorf("got %+v, want exit code 7 and what the response says", got)
			}
			r.ask(". args tool done", flags, []string{"list", "."})
			r.stats(Stats{Started: 1, Reused: 8, Idle: 1})
		})
	}
}

// TestKey: what starts the tool in another way starts another one.
func TestKey(t *testing.T) {
	r := newRig(t, Options{MaxIdle: 10})
	number := []string{"number"}
	r.ask("1", "", number)
	r.ask("1", "--json", number)
	r.ask("1", "--verbose", number)
	r.ask("1", "", number, "tool.conf=a")
	r.ask("1", "", number, "tool.conf=b")
	r.ask("1", "", number, "tool.conf2=b")
	r.ask("2", "", number, "other=a")
	other := func(change func(*Action)) {
		t.Helper()
		a := r.stage("", number)
		change(&a)
		if got := r.run(t.Context(), a); got.stderr != "1" {
			t.Errorf("got %+v, want a process of its own", got)
		}
	}
	other(func(a *Action) { a.Spec.Env = []string{"A=b"} })
	other(func(a *Action) { a.Instance = "other" })
	other(func(a *Action) { a.Platform.Properties[0].Value = "other" })
	r.stats(Stats{Started: 9, Reused: 1, Idle: 9})
}

// TestWorkingDirectory: the process stays in a directory that is there in every request.
func TestWorkingDirectory(t *testing.T) {
	r := newRig(t, Options{})
	for i := range 3 {
		data := fmt.Sprint("data ", i)
		a := r.stage("", []string{"copy", "in", "../out"}, "a/b/in="+data, "a/side=x", fmt.Sprintf("a/only%d=x", i))
		a.Spec.Dir, a.Spec.Args[1] = "a/b", "@../../args"
		if got := r.run(t.Context(), a); got.stderr != "done" || r.read(filepath.Join(got.root, "a/out")) != data {
			t.Errorf("got %+v, want %q copied", got, data)
		}
	}
	a := r.stage("", []string{"list", "/work"}, "a/b/in=x")
	a.Spec.Dir, a.Spec.Args[1] = "a/b", "@../../args"
	if got, want := r.run(t.Context(), a), "/work /work/a /work/a/b /work/a/b/in /work/args /work/tool done"; got.stderr != want {
		t.Errorf("got %q, want %q", got.stderr, want)
	}
	r.stats(Stats{Started: 1, Reused: 3, Idle: 1})
}

// TestOrdinary: what no persistent worker can serve runs as any other action does.
func TestOrdinary(t *testing.T) {
	r := newRig(t, Options{})
	number := []string{"number"}
	changes := []func(*Action){
		func(a *Action) { a.Inputs[0].Tool = false },
		func(a *Action) { a.Platform.Properties[0] = &repb.Platform_Property{Name: requires, Value: "xml"} },
		func(a *Action) { a.Spec.Args[1] = "--"; a.Spec.Args = append(a.Spec.Args, "args") },
		func(a *Action) { a.Spec.Args = append(a.Spec.Args, "@absent") },
		func(a *Action) { a.Spec.Args = append(a.Spec.Args, "@../store/tool") },
	}
	for i, change := range changes {
		a := r.stage("", number)
		change(&a)
		if got := r.run(t.Context(), a); got.err != nil || got.ExitCode == 0 && got.stderr != "0" || got.ExitCode != 0 && got.ExitCode != 9 {
			t.Errorf("change %d: got %+v, want an ordinary command", i, got)
		}
	}
	r.stats(Stats{Ordinary: int64(len(changes))})
}

// TestIdle: idle processes are few and do not stay for ever.
func TestIdle(t *testing.T) {
	r := newRig(t, Options{MaxIdle: 2, IdleTime: 100 * time.Millisecond})
	for i := range 4 {
		r.ask("1", "", []string{"number"}, fmt.Sprintf("tool.x=%d", i))
		if got := r.pool.Stats().Idle; got > 2 {
			t.Errorf("got %d idle processes, want 2 at most", got)
		}
	}
	for r.pool.Stats().Idle > 0 { // a test that hangs here fails at its time limit
		time.Sleep(10 * time.Millisecond)
	}
	r.stats(Stats{Started: 4, Retired: 4})
}

// TestMany: requests at the same time have processes of their own, and get their own answers.
func TestMany(t *testing.T) {
	r := newRig(t, Options{MaxIdle: 3})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 8 {
				data := fmt.Sprint(w, " ", i)
				got := r.run(t.Context(), r.stage("", []string{"copy", "in", "out"}, "in="+data))
				b, err := os.ReadFile(filepath.Join(got.root, "out"))
				if got.err != nil || err != nil || string(b) != data {
					t.Errorf("got %+v, %q, %v, want %q", got, b, err, data)
				}
			}
		})
	}
	wg.Wait()
	s := r.pool.Stats()
	if s.Started+s.Reused != 32 || s.Started >= 32 || s.Died != 0 {
		t.Errorf("got %+v, want 32 requests in fewer processes, and none that died", s)
	}
}

// TestEnds: a request that is cancelled or takes too long ends the process.
func TestEnds(t *testing.T) {
	r := newRig(t, Options{})
	a := r.stage("", []string{"hang"})
	a.Spec.Timeout = time.Second
	got := r.run(t.Context(), a)
	if got.err != nil || !got.TimedOut || got.Killed != "timeout" || got.stderr != "this takes a while\n" {
		t.Errorf("got %+v, want a timeout with what the tool said", got)
	}
	why := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Second, func() { cancel(why) })
	if got := r.run(ctx, r.stage("", []string{"hang"})); !errors.Is(got.err, why) {
		t.Errorf("got %+v, want the context's error", got)
	}
	r.ask("1", "", []string{"number"})
	r.stats(Stats{Started: 3, Idle: 1})
}
