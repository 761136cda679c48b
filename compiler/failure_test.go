//go:build linux

package compiler_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/compiler/launch"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/server"
)

// daemon returns the process of the user's daemon.
func (u *user) daemon() int {
	u.t.Helper()
	pid := u.holder()
	if pid == 0 {
		u.t.Fatal("there is no daemon")
	}
	return pid
}

// holder returns the process of the user's daemon, 0 if there is none.
func (u *user) holder() int {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: launch.SocketIn(u.dir)})
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}

// sources writes n sources, each with a header, and returns their names.
func (u *user) sources(n int) []string {
	var names []string
	for i := range n {
		name := fmt.Sprintf("s%d.c", i)
		os.WriteFile(filepath.Join(u.work, name), []byte("#include \"a.h\"\nint v"+strconv.Itoa(i)+" = A;\n"), 0o666)
		names = append(names, name)
	}
	u.write("a.h", "#define A 1\n")
	return names
}

// build compiles all sources, which must succeed and give what the compiler gives.
func (u *user) build(names []string) {
	u.t.Helper()
	for _, name := range names {
		object := strings.TrimSuffix(name, ".c") + ".o"
		os.Remove(filepath.Join(u.work, object))
		u.compile("gcc", "-c", name, "-o", object)
		got := u.read(object)
		if alone := u.exec("gcc", "-c", name, "-o", object); alone.status != 0 {
			u.t.Fatal(alone.stderr)
		}
		if got != u.read(object) {
			u.t.Errorf("%s is not what the compiler writes", object)
		}
	}
}

func TestDaemonKilled(t *testing.T) {
	u := newUser(t)
	names := u.sources(4)
	u.build(names)
	before := u.counters()
	if err := syscall.Kill(u.daemon(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.build(names) // starts another
	u.start()
	u.build(names)
	after := u.counters()
	if after["miss.new"] < before["miss.new"] || after["hit.direct"] < 4 {
		t.Errorf("counted %v before the kill and %v after it; want no count lost, and at least 4 hits", before, after)
	}
}

func TestDaemonStopped(t *testing.T) {
	u := newUser(t)
	u.env = nil // the patience of users
	names := u.sources(3)
	u.build(names)
	pid := u.daemon()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	u.build(names)
	syscall.Kill(pid, syscall.SIGCONT)
	u.env = []string{"SARSEN_CC_PATIENCE=20s"}
	for end := time.Now().Add(20 * time.Second); u.litter() != "" && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if l := u.litter(); l != "" {
		t.Errorf("the daemon left %s", l)
	}
	u.build(names)
}

// litter returns files that a daemon forgot in the work folder.
func (u *user) litter() string {
	found, _ := filepath.Glob(filepath.Join(u.work, ".sarsen-cc-*"))
	return strings.Join(found, " ")
}

// TestFolderUnusable: where nothing can be written there is no daemon.
func TestFolderUnusable(t *testing.T) {
	u := newUser(t)
	u.dir = filepath.Join(u.work, "a.h", "cache") // below a file
	u.build(u.sources(2))
}

// TestTempGone has no place for the dependency file that the daemon asks the compiler for, as on a disk that
// becomes full.
func TestTempGone(t *testing.T) {
	u := newUser(t)
	names := u.sources(2)
	if err := os.Remove(filepath.Join(u.dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	u.build(names)
	u.write("wrong.c", "int f(void) { return nothing; }\n")
	got, want := u.run("gcc", "-c", "wrong.c"), u.exec("gcc", "-c", "wrong.c")
	if got != want || want.status != 1 {
		t.Errorf("a compile that fails: got %+v, want %+v", got, want)
	}
}

// TestDiskFull has the cache on a disk without any room.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can mount a small disk")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: mount: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	u := newUser(t)
	names := u.sources(3)
	for _, room := range []int{0, 8 << 10, 600 << 10} {
		filler := filepath.Join(disk, "filler")
		os.Remove(filler)
		if err := os.WriteFile(filler, make([]byte, 1<<20-room), 0o600); err != nil && room > 0 {
			t.Fatal(err)
		}
		u.dir = filepath.Join(disk, "cache")
		u.build(names)
		u.build(names)
		_, _ = u.ask("stop")
	}
}

func serveRemote(t *testing.T) (addr string, stop func()) {
	t.Helper()
	store := model.New(time.Hour)
	s := server.New(server.Options{Store: store, Actions: action.New(store, store)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	return l.Addr().String(), func() { s.Stop(t.Context()) }
}

// TestRemote: what one user compiled is a direct hit for another with a cache of its own.
func TestRemote(t *testing.T) {
	addr, stop := serveRemote(t)
	defer stop()
	one := newUser(t, "SARSEN_CC_REMOTE="+addr)
	names := one.sources(3)
	one.build(names)
	if _, err := one.ask("drain"); err != nil {
		t.Fatal(err)
	}
	two := newUser(t, "SARSEN_CC_REMOTE="+addr)
	two.work = one.work
	two.counts("hit.direct=3 remote.fetched=3", func() { two.build(names) })
	two.counts("hit.direct=3", func() { two.build(names) })
}

// TestRemoteGone: the server ends in the middle.
func TestRemoteGone(t *testing.T) {
	addr, stop := serveRemote(t)
	u := newUser(t, "SARSEN_CC_REMOTE="+addr)
	names := u.sources(4)
	u.build(names[:2])
	stop()
	u.build(names)
	u.counts("hit.direct=4", func() { u.build(names) })
}

// TestRemoteSilent: the server takes connections and says nothing.
func TestRemoteSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u := newUser(t, "SARSEN_CC_REMOTE="+l.Addr().String())
	names := u.sources(6)
	u.build(names)
	u.counts("hit.direct=6", func() { u.build(names) })
	if n := u.counters()["remote.lookup_failed"]; n == 0 || n >= 6 {
		t.Errorf("%d of 6 compiles waited for the server, want one now and then", n)
	}
}
