package compiler_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/execution"
	"github.com/sarsen-build/sarsen/files"
	"github.com/sarsen-build/sarsen/internal/model"
	pb "github.com/sarsen-build/sarsen/internal/workerpb"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/upstream"
	"github.com/sarsen-build/sarsen/worker"
	"github.com/sarsen-build/sarsen/worker/sandbox"
	"github.com/sarsen-build/sarsen/worker/stage"
)

// A farm is a server that executes, to which workers can be connected.
type farm struct {
	t    *testing.T
	addr string
	conn *grpc.ClientConn
}

// newFarm starts a server; executes says whether it has a scheduler.
func newFarm(t *testing.T, executes bool) *farm {
	t.Helper()
	store := model.New(time.Hour)
	o := server.Options{Store: store, Actions: action.New(store, store)}
	if executes {
		o.Scheduler = execution.New(execution.Options{Store: store, Actions: o.Actions})
		t.Cleanup(o.Scheduler.Close)
	}
	s := server.New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() {
		stopping, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Stop(stopping)
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &farm{t, l.Addr().String(), conn}
}

// work starts a worker and returns what stops it.
func (f *farm) work(name string, o sandbox.Options) (stop func()) {
	f.t.Helper()
	dir := f.t.TempDir()
	o.Dir = dir
	runner, err := sandbox.Start(o)
	if err != nil {
		f.t.Skipf("SKIPPED, nothing was executed: this machine gives no namespaces to a worker with --chroot: %v", err)
	}
	kept, err := files.Open(filepath.Join(dir, "files"), files.Options{MaxSize: 1 << 30, Lease: time.Minute})
	if err != nil {
		f.t.Fatal(err)
	}
	store := upstream.New(f.conn, "", upstream.Options{})
	stager, err := stage.Open(stage.Options{Dir: filepath.Join(dir, "trees"), Files: kept, Source: store})
	if err != nil {
		f.t.Fatal(err)
	}
	connected := make(chan struct{})
	w, err := worker.New(worker.Options{
		Connect: func(ctx context.Context) (pb.Workers_ConnectClient, error) {
			return pb.NewWorkersClient(f.conn).Connect(ctx)
		},
		Name: name, Dir: dir, Slots: 2, Stager: stager, Store: store, Runner: runner, Connected: func() { close(connected) },
		Properties: []*repb.Platform_Property{{Name: "OSFamily", Value: "linux"}, {Name: "ISA", Value: "x86-64"}, {Name: "ISA", Value: "arm-a64"}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.Run(ctx); err != nil {
			f.t.Errorf("the worker ended with %v", err)
		}
		_, _, _ = runner.Close(), stager.Close(), kept.Close()
	}()
	<-connected
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	f.t.Cleanup(stop)
	return stop
}

// farUser is a user whose misses addr executes. Its folder is none in which workers have something of their own.
func farUser(t *testing.T, addr string, env ...string) *user {
	t.Helper()
	u := newUser(t, append([]string{"SARSEN_CC_REMOTE=" + addr, "SARSEN_CC_REMOTE_EXECUTE=1"}, env...)...)
	t.Cleanup(func() {
		log, _ := os.ReadFile(filepath.Join(u.dir, "daemon.log")) // there may be nothing to say
		if strings.Contains(string(log), "DATA RACE") {
			t.Error("the daemon has a race")
		}
		if t.Failed() {
			t.Logf("%s", log)
		}
	})
	dir, err := os.MkdirTemp("/var/tmp", "sarsen-cc-test-")
	if err != nil {
		t.Skipf("SKIPPED, nothing was executed: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u.work = dir
	return u
}

// written returns what lies below the working directory, by name, and removes what was not there before.
func (u *user) written(before map[string]string) map[string]string {
	u.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(u.work, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if _, there := before[path]; !there {
			all[path] = string(b)
			if before != nil {
				err = os.Remove(path)
			}
		}
		return err
	})
	if err != nil {
		u.t.Fatal(err)
	}
	return all
}

// same compiles alone and through the launcher and wants the same: files, messages and status; and these counters.
func (u *user) same(want string, argv ...string) {
	u.t.Helper()
	before := u.written(nil)
	alone := u.exec(argv[0], argv[1:]...)
	wrote := u.written(before)
	var got outcome
	u.counts(want, func() { got = u.run(argv...) })
	if got != alone {
		u.t.Errorf("%q: got %+v, want %+v", argv, got, alone)
	}
	there := u.written(before)
	for name, text := range wrote {
		if there[name] != text {
			u.t.Errorf("%q: %s: got %d bytes that are not the %d of the compiler alone", argv, name, len(there[name]), len(text))
		}
	}
	if len(there) != len(wrote) {
		u.t.Errorf("%q: got %d outputs, want %d", argv, len(there), len(wrote))
	}
}

const project = `#include <stdio.h>
#include "a.h"
#include <generated.h>
#if __has_include("only_asked_for.h")
int asked;
#endif
int main(void) { printf("%d %d\n", A, GENERATED); return A; }
`

func (u *user) project() {
	u.write("src/a b.c", project)
	u.write("src/m.c", project)
	u.write("src/only_asked_for.h", "#error it is not read\n")
	u.write("inc/a.h", "#pragma once\n#define A 3\n")
	u.write("real/generated.h", "#define GENERATED 7\n")
	u.write("src/m.cc", "#include <vector>\n#include \"../inc/a.h\"\nint f(std::vector<int> v) { return v.size() + A; }\n")
	u.write("src/warns.c", "int f(void) { int unused; return 1 / 0; }\n")
	u.write("src/m.S", "#include \"../inc/a.h\"\n.globl f\nf: .long A\n")
	u.write("src/m.i", "int f(void) { return 1; }\n")
	u.write("arguments", "-O2 -Iinc \"-isystem\" link\n-DTEXT='\"a b\"'\n")
	for name, target := range map[string]string{"link": "real", "out": "real", "here": "."} {
		if err := os.Symlink(target, filepath.Join(u.work, name)); err != nil {
			u.t.Fatal(err)
		}
	}
}

// TestExecute: whatever a server compiles is what the compiler here would have written, and is a hit the next time.
func TestExecute(t *testing.T) {
	f := newFarm(t, true)
	f.work("one", sandbox.Options{Chroot: true})
	u := farUser(t, f.addr)
	u.project()
	absolute := u.work
	both := []string{"-Iinc", "-isystem", "link"}
	for _, argv := range [][]string{
		{"gcc", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-g", "-O2", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-g3", "-MD", "-MP", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-g", "-MMD", "-MT", "a b", "-MF", "out/m.d", "-c", "src/m.c", "-o", "out/m.o"},
		{"gcc", "--coverage", "-frandom-seed=1", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-g", "-gsplit-dwarf", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-flto", "-frandom-seed=1", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-fstack-usage", "-DTEXT=\"a  b\\\"\"", "-D", "OTHER='x'", "-c", "src/a b.c", "-o", "m.o"},
		{"gcc", "-I" + absolute + "/inc", "-I", absolute + "/here/nothing", "-I" + absolute + "/here/real", "-c", "src/m.c", "-o", absolute + "/m.o"},
		{"gcc", "-g", "@arguments", "-c", "src/m.c", "-o", "m.o"},
		{"gcc", "-include", "src/../inc/a.h", "-S", "src/m.c"},
		{"gcc", "-Wall", "-Wextra", "-c", "src/warns.c"},
		{"gcc", "-c", "src/m.S"},
		{"gcc", "-c", "src/m.i"},
		{"g++", "-g", "-std=c++17", "-MD", "-c", "src/m.cc"},
	} {
		t.Run(strings.Join(argv, " "), func(t *testing.T) {
			need(t, argv[0])
			u.t = t
			argv = slices.Concat(argv[:1], both, argv[1:])
			u.same("executed.remotely miss.new", argv...)
			u.same("hit.direct", argv...)
		})
	}
	u.t = t
	u.write("real/generated.h", "#define GENERATED 8\n")
	u.same("executed.remotely miss.header", "gcc", "-Iinc", "-isystem", "link", "-c", "src/m.c", "-o", "m.o")
	if got := u.run("gcc", "-c", "src/m.c", "-Inowhere"); got.status == 0 || !strings.Contains(got.stderr, "a.h: No such file") {
		t.Errorf("a compile without its header: got %+v, want the compiler's own words", got)
	}
}

// TestExecuteElsewhere: the working directory has another name, and outputs lie above it.
func TestExecuteElsewhere(t *testing.T) {
	f := newFarm(t, true)
	f.work("one", sandbox.Options{Chroot: true})
	u := farUser(t, f.addr)
	u.project()
	top := u.work
	u.work = top + "/here/here/src"
	argv := []string{"gcc", "-g", "-I../inc", "-I../link", "-MD", "-c", "m.c", "-o", "../m.o"}
	alone := u.exec(argv[0], argv[1:]...)
	want, wantDeps := u.read("../m.o"), u.read("../m.d")
	u.remove("../m.o", "../m.d")
	u.counts("executed.remotely miss.new", func() {
		if got := u.run(argv...); got != alone {
			t.Errorf("got %+v, want %+v", got, alone)
		}
	})
	if u.read("../m.o") != want || u.read("../m.d") != wantDeps || !strings.Contains(want, u.work) {
		t.Error("got other outputs than those of the compiler alone, which name the working directory")
	}
}

// TestExecuteRefuses: what might differ elsewhere is compiled here.
func TestExecuteRefuses(t *testing.T) {
	f := newFarm(t, true)
	f.work("one", sandbox.Options{Chroot: true})
	u := farUser(t, f.addr)
	u.project()
	u.write("src/time.c", "#include \"time.h\"\n")
	u.write("src/time.h", "const char *t = __TIMESTAMP__;\n")
	u.write("src/date.c", "const char *d = __DATE__;\n")
	u.write("src/twice.c", "#include \"x/y.h\"\n#include \"z/y.h\"\n")
	u.write("src/x/y.h", "#pragma once\nextern int y;\n")
	u.write("src/z/y.h", "#pragma once\nextern int y;\n")
	u.write("src/alike.c", "#include \"v/y.h\"\n#include \"w/y.h\"\n")
	u.write("src/v/y.h", "extern int y; // once\n")
	u.write("src/w/y.h", "extern int y; // once\n")
	u.write("src/wrong.c", "int f(void) { return nothing; }\n")
	private := t.TempDir()
	if err := os.WriteFile(private+"/p.h", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	u.write("src/private.c", "#include \""+private+"/p.h\"\n")
	u.same("miss.new not_executed.processor", "gcc", "-march=native", "-c", "src/m.i")
	u.same("miss.new not_executed.time_macro not_stored.time_macro", "gcc", "-c", "src/time.c")
	u.same("miss.new not_executed.time_macro", "gcc", "-c", "src/date.c")
	u.same("miss.new not_executed.headers_alike", "gcc", "-c", "src/alike.c")
	u.same("miss.new not_executed.hidden_input not_stored.hidden_input", "gcc", "-c", "src/twice.c")
	u.same("miss.new not_executed.private_directory", "gcc", "-c", "src/private.c")
	u.same("miss.new not_executed.headers_not_found not_stored.compile_failed", "gcc", "-c", "src/m.c")
	u.same("miss.new not_executed.compile_failed not_stored.compile_failed", "gcc", "-c", "src/wrong.c")
	u.same("miss.new not_executed.option", "gcc", "-fexec-charset=latin1", "-c", "src/m.i")
	plain := u.env
	u.env = append(slices.Clone(plain), "LD_LIBRARY_PATH="+u.work)
	u.same("miss.new not_executed.library_variables", "gcc", "-O1", "-c", "src/m.i")
	u.env = append(slices.Clone(plain), "LC_ALL=de_DE.UTF-8")
	u.same("miss.new not_executed.messages_in_a_locale", "gcc", "-Wall", "-c", "src/warns.c")
	u.same("executed.remotely miss.new", "gcc", "-O1", "-c", "src/m.i")
	u.env = append(u.env, "SARSEN_CC_REMOTE_EXECUTE=0")
	u.same("miss.new", "gcc", "-O2", "-c", "src/m.i")
}

// TestExecuteWithoutHelp: a server that does not help costs a moment, and the compiler runs here.
func TestExecuteWithoutHelp(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0") // which takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	gone.Close()
	plain := newFarm(t, true)
	plain.work("plain", sandbox.Options{Mode: sandbox.None})
	for _, tt := range []struct{ name, addr, first, second string }{
		{"no execution", newFarm(t, false).addr, "not_executed.server_executes_nothing", "not_executed.server_failed_before"},
		{"no worker", newFarm(t, true).addr, "not_executed.in_queue", "not_executed.server_failed_before"},
		{"a worker that is not --chroot", plain.addr, "not_executed.compile_failed", "not_executed.server_failed_before"},
		{"gone", gone.Addr().String(), "not_executed.server_failed_before remote.lookup_failed", "not_executed.server_failed_before"},
		{"mute", mute.Addr().String(), "not_executed.server_failed_before remote.lookup_failed", "not_executed.server_failed_before"},
		{"none", "", "not_executed.no_server_set", "not_executed.no_server_set"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			queue := "1m"
			if tt.name == "no worker" {
				queue = "1s"
			}
			u := farUser(t, tt.addr, "SARSEN_CC_REMOTE_QUEUE="+queue)
			u.project()
			u.same("miss.new "+tt.first, "gcc", "-O1", "-c", "src/m.i")
			for i := 0; tt.name == "no worker" && u.counters()[tt.second] == 0; i++ { // the first may not have got to the queue in time
				if u.compile("gcc", fmt.Sprintf("-DN=%d", i), "-c", "src/m.i"); i == 20 {
					t.Fatalf("20 compiles waited for a worker: %v", u.counters())
				}
			}
			u.same("miss.new "+tt.second, "gcc", "-O2", "-c", "src/m.i")
			u.same("hit.direct", "gcc", "-O1", "-c", "src/m.i")
		})
	}
}

// TestExecuteMany: more compiles at once than there are processors, and the only worker leaves in the middle.
func TestExecuteMany(t *testing.T) {
	f := newFarm(t, true)
	stop := f.work("one", sandbox.Options{Chroot: true})
	u := farUser(t, f.addr, "SARSEN_CC_REMOTE_QUEUE=2s")
	u.project()
	warm := 0
	for end := time.Now().Add(3 * time.Minute); u.counters()["executed.remotely"] == 0; warm++ { // until the compiler is there
		if u.compile("gcc", fmt.Sprintf("-DWARM=%d", warm), "-c", "src/m.i"); time.Now().After(end) {
			t.Fatalf("nothing was executed: %v", u.counters())
		}
		time.Sleep(100 * time.Millisecond)
	}
	const n = 24
	var wg sync.WaitGroup
	results := make([]error, n)
	for i := range n {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "cc", "gcc", "-Iinc", "-Ilink", fmt.Sprintf("-DN=%d", i), "-c", "src/m.c", "-o", fmt.Sprintf("m%d.o", i))
			cmd.Dir, cmd.Env = u.work, append(u.environ(), "PWD="+u.work)
			if out, err := cmd.CombinedOutput(); err != nil {
				results[i] = fmt.Errorf("%w: %s", err, out)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for more := true; more && u.counters()["executed.remotely"] < 3; time.Sleep(time.Millisecond) {
		select {
		case <-done:
			more = false
		default:
		}
	}
	stop()
	<-done
	u.exec("gcc", "-Iinc", "-Ilink", "-c", "src/m.c", "-o", "alone.o")
	for i, err := range results {
		if err != nil {
			t.Error(err)
		} else if u.read(fmt.Sprintf("m%d.o", i)) != u.read("alone.o") {
			t.Errorf("m%d.o is not what the compiler writes", i)
		}
	}
	all := u.counters()
	here := uint64(0)
	for name, count := range all {
		if strings.HasPrefix(name, "not_executed.") {
			here += count
		}
	}
	if there := all["executed.remotely"]; there+here != uint64(n+warm) {
		t.Errorf("got %d executed and %d here, want %d in all: %v", there, here, n+warm, all)
	}
}
