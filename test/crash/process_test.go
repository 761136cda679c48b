//go:build crash && linux

package crash

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a server. It is no measure of speed.
const patience = 60 * time.Second

// A command says how to start a server: a shell command in which {dir}, {grpc}, {http} and {sarsen}
// stand for its directory, its two ports, and the program that this test has built. Its last step should
// exec the server, so that the signal finds that.
type command string

func (c command) String() string { return string(c) }

// A server is a process that listens.
type server struct {
	cmd   *exec.Cmd
	conn  *conn
	ended chan struct{} // closed when the process is gone
}

// A host is where servers run, one after another: a directory, two ports, a log.
type host struct {
	command    command
	dir        string
	grpc, http int
	files      bool
	log        string  // the file that gets what the last one says
	last       *server // or nil
}

// newHost returns a host whose servers keep what they store in the directory data of disk.
func newHost(t *testing.T, v variant, disk, logs string) *host {
	t.Helper()
	h := &host{command: v.command, files: v.files, dir: filepath.Join(disk, "data")}
	h.grpc, h.http = freePort(t), freePort(t)
	h.log = filepath.Join(logs, fmt.Sprintf("server-%d.log", h.grpc))
	t.Cleanup(func() {
		if h.last != nil {
			h.last.kill()
		}
	})
	return h
}

// keptIfFailed returns a new directory that goes with the test, unless Sarsen failed it: then what is
// in it is evidence.
func keptIfFailed(t *testing.T, v variant) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sarsen-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && v.ours {
			t.Logf("what is left of it is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// freePort returns a port that nobody listens on at this moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// spawn starts a server and does not wait for it to listen.
func (h *host) spawn(t *testing.T) *server {
	t.Helper()
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(h.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	line := strings.NewReplacer("{dir}", h.dir, "{grpc}", strconv.Itoa(h.grpc), "{http}", strconv.Itoa(h.http),
		"{sarsen}", sarsen).Replace(string(h.command))
	s := &server{cmd: exec.Command("sh", "-c", line), ended: make(chan struct{})}
	h.last = s
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread ends that started the process, so it must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait()
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		h.last = nil
		t.Fatal(err)
	}
	return s
}

// start starts a server and waits until it answers.
func (h *host) start(t *testing.T) *server {
	t.Helper()
	s := h.spawn(t)
	if err := s.await(h.grpc); err != nil {
		s.kill()
		t.Fatalf("%s: %v; it said:\n%s", h.command, err, h.said())
	}
	if h.files {
		s.conn.http = "http://127.0.0.1:" + strconv.Itoa(h.http)
	}
	return s
}

// said returns the last lines of what the last server said.
func (h *host) said() string {
	text, err := os.ReadFile(h.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// await polls the port until the server accepts, and then asks for its capabilities.
func (s *server) await(port int) error {
	address := "127.0.0.1:" + strconv.Itoa(port)
	deadline := time.Now().Add(patience)
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-s.ended:
			return fmt.Errorf("it ended: %v", s.cmd.ProcessState)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it does not listen after %v: %w", patience, err)
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	go func() {
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	var err error
	s.conn, err = connect(ctx, address)
	return err
}

// kill sends SIGKILL and waits until the process is gone. It reports whether it was still there.
func (s *server) kill() bool {
	alive := true
	select {
	case <-s.ended:
		alive = false // its number may be another's
	default:
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.ended
	}
	if s.conn != nil {
		s.conn.close()
	}
	return alive
}
