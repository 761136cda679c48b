// Package redisserver starts real Redis servers for tests: Debian's redis-server, unpacked once into
// ${SARSEN_TEST_CACHE:-~/.cache/sarsen-test} and never installed. SARSEN_TEST_REDIS names another program, such as Valkey's.
//
// Where it can't be had, the test is skipped loudly; with CI=true that is a failure.
//
// Concurrency: Start and Cluster may be called from several processes at once; one of them unpacks.
package redisserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server is a running server with an empty memory.
type Server struct {
	Address string

	t      testing.TB
	binary program
	args   []string
	cmd    *exec.Cmd
}

// A program is redis-server and where its libraries are.
type program struct{ path, libraries string }

// Start starts a server that ends with the test. args are as in a configuration file, with "--" before each name.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, func(port string) []string {
		return append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)
	})
}

// Sentinel starts a sentinel that watches a server under the name "main", and puts a replica in its place when it does not
// answer for half a second.
func Sentinel(t testing.TB, master *Server) *Server {
	t.Helper()
	host, at, _ := strings.Cut(master.Address, ":")
	return start(t, func(port string) []string {
		file := filepath.Join(t.TempDir(), "sentinel.conf")
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\n"+
			"sentinel failover-timeout main 2000\n", port, host, at)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return []string{file, "--sentinel"}
	})
}

func start(t testing.TB, args func(port string) []string) *Server {
	t.Helper()
	p, err := unpacked()
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("redis-server: %v", err)
	}
	if err != nil {
		t.Skipf("SKIPPED: redis-server, a real Redis server, can't be had here: %v", err)
	}
	s := &Server{t: t, binary: p}
	// A port taken here may be taken by another process before the server has it.
	for range 5 {
		port := freePort(t)
		s.Address = "127.0.0.1:" + port
		s.args = args(port)
		if err = s.run(); err == nil {
			t.Cleanup(s.Stop)
			return s
		}
	}
	t.Fatalf("redis-server: %v", err)
	return nil
}

func freePort(t testing.TB) string {
	t.Helper()
	for {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := listener.Addr().(*net.TCPAddr).Port
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		if port < 55000 { // a cluster's bus takes the port that is 10000 greater
			return strconv.Itoa(port)
		}
	}
}

func (s *Server) run() error {
	s.cmd = exec.Command(s.binary.path, s.args...)
	s.cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+s.binary.libraries)
	s.cmd.SysProcAttr = endsWithUs
	var output strings.Builder
	s.cmd.Stdout, s.cmd.Stderr = &output, &output
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for range 500 {
		if answer, err := s.Try("PING"); err == nil && answer == "+PONG" {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Stop()
	return fmt.Errorf("it does not answer: %s", output.String())
}

// Stop kills the server, if it runs. What it held is lost.
func (s *Server) Stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Restart starts the server again, on the same port and empty. It must have been stopped.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatalf("redis-server: %v", err)
	}
}

// Hang stops the server in its tracks: it takes connections and answers nothing, until Resume.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(which syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(which); err != nil {
		s.t.Fatal(err)
	}
}

// Do runs one command whose answer is a line, a number or a string, and returns it.
func (s *Server) Do(words ...string) string {
	s.t.Helper()
	answer, err := s.Try(words...)
	if err != nil || strings.HasPrefix(answer, "-") {
		s.t.Fatalf("%s: %s, %v", strings.Join(words, " "), answer, err)
	}
	return strings.TrimLeft(answer, "+:")
}

// Try is Do whose error is the caller's. An answer that is none is "$-1".
func (s *Server) Try(words ...string) (answer string, err error) {
	c, err := net.DialTimeout("tcp", s.Address, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := c.Write([]byte(b.String())); err != nil {
		return "", err
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if !strings.HasPrefix(line, "$") || line == "$-1" {
		return line, nil
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil {
		return "", err
	}
	text := make([]byte, n)
	for at := 0; at < n; {
		m, err := r.Read(text[at:])
		if err != nil {
			return "", err
		}
		at += m
	}
	return string(text), nil
}

// Cluster starts three servers without replicas that share the slots. One that fails takes only its own slots with it.
func Cluster(t testing.TB) [3]*Server {
	t.Helper()
	var nodes [3]*Server
	for i := range nodes {
		nodes[i] = Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no",
			"--cluster-config-file", fmt.Sprintf("nodes-%d.conf", i))
	}
	for i, n := range nodes {
		first, last := i*16384/3, (i+1)*16384/3-1
		n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last))
		n.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	host, port, _ := strings.Cut(nodes[0].Address, ":")
	for _, n := range nodes[1:] {
		n.Do("CLUSTER", "MEET", host, port)
	}
	for range 1000 {
		ready := 0
		for _, n := range nodes {
			info := n.Do("CLUSTER", "INFO")
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384") && strings.Contains(info, "cluster_known_nodes:3") {
				ready++
			}
		}
		if ready == len(nodes) {
			return nodes
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the nodes did not become a cluster")
	return nodes
}

// packages are what redis-server is made of in Debian.
var packages = []string{"redis-tools", "liblzf1", "libjemalloc2", "libatomic1"}

// unpacked returns the program, which it fetches unless that was done before.
func unpacked() (program, error) {
	if path := os.Getenv("SARSEN_TEST_REDIS"); path != "" {
		return program{path, os.Getenv("LD_LIBRARY_PATH")}, nil
	}
	cache := os.Getenv("SARSEN_TEST_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return program{}, err
		}
		cache = filepath.Join(home, ".cache", "sarsen-test")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return program{}, err
	}
	lock, err := os.Create(filepath.Join(cache, "redis.lock"))
	if err != nil {
		return program{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return program{}, err
	}
	root := filepath.Join(cache, "redis")
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		err = fetch(root)
		if err != nil {
			return program{}, err
		}
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr", "lib", "*-linux-gnu*"))
	// One program is the server, the sentinel and the checker, by the name that it is called by.
	return program{filepath.Join(root, "usr", "bin", "redis-server"), strings.Join(libraries, ":")}, err
}

func fetch(root string) error {
	fresh := root + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return err
	}
	for _, p := range packages {
		if err := in(fresh, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", p); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(fresh, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := errors.Join(in(fresh, "dpkg", "-x", deb, "."), os.Remove(deb)); err != nil {
			return err
		}
	}
	bin := filepath.Join(fresh, "usr", "bin")
	if _, err := os.Stat(filepath.Join(bin, "redis-server")); err != nil {
		if err := os.Symlink("redis-check-rdb", filepath.Join(bin, "redis-server")); err != nil {
			return err
		}
	}
	return os.Rename(fresh, root)
}

func in(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
