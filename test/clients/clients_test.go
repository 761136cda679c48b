//go:build clients

package clients_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/internal/versitygw"
)

// sarsen is the absolute path of the program under test.
var sarsen = os.Getenv("SARSEN")

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (int, error) {
	if sarsen == "" && obstacle() == nil {
		dir, err := os.MkdirTemp("", "sarsen-clients-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		sarsen = filepath.Join(dir, "sarsen")
		build := exec.Command("go", "build", "-o", sarsen, "../../cmd/sarsen")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs in roots that have nothing else
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building sarsen: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

func TestBazel(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	script(t, 15*time.Minute, "bazel.sh", "SARSEN_TEST_ROOT="+root)
}

func TestBuildbox(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	script(t, 5*time.Minute, "buildbox.sh", "SARSEN_TEST_ROOT="+root)
}

func TestChunks(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	script(t, 10*time.Minute, "chunks.sh", "SARSEN_TEST_ROOT="+root)
}

func TestBuildStream(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	script(t, 5*time.Minute, "buildstream.sh", "SARSEN_TEST_ROOT="+root)
}

// TestExecution has the clients whose actions Sarsen's workers run.
func TestExecution(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	for _, tt := range []struct {
		name    string
		timeout time.Duration
	}{
		{"recc.sh", 3 * time.Minute},
		{"trexe.sh", 3 * time.Minute},
		{"botworker.sh", 5 * time.Minute},
		{"buildstreamexec.sh", 5 * time.Minute},
		{"bazelworker.sh", 5 * time.Minute},
		{"bazelexec.sh", 25 * time.Minute},
	} {
		t.Run(strings.TrimSuffix(tt.name, ".sh"), func(t *testing.T) {
			script(t, tt.timeout, tt.name, "SARSEN_TEST_ROOT="+root)
		})
	}
}

// TestCC has gcc, clang and clang-cl behind `sarsen cc`.
func TestCC(t *testing.T) {
	require(t, "go")
	root := script(t, 20*time.Minute, "sidroot.sh")
	for _, name := range []string{"cc.sh", "ccremote.sh", "clang.sh", "projects.sh"} {
		t.Run(strings.TrimSuffix(name, ".sh"), func(t *testing.T) {
			t.Parallel()
			script(t, 15*time.Minute, name, "SARSEN_TEST_ROOT="+root)
		})
	}
}

// TestHTTPCaches has the build tools that speak a dialect of their own over HTTP.
func TestHTTPCaches(t *testing.T) {
	require(t, "node", "npm", "git")
	sid := script(t, 20*time.Minute, "sidroot.sh")
	npm := script(t, 5*time.Minute, "npmroot.sh")
	for _, tt := range []struct {
		name, root string
		timeout    time.Duration
	}{
		{"ccache.sh", sid, 10 * time.Minute},
		{"sccache.sh", sid, 10 * time.Minute},
		{"gradle.sh", sid, 20 * time.Minute},
		{"nix.sh", sid, 5 * time.Minute},
		{"turbo.sh", npm, 10 * time.Minute},
		{"nx.sh", npm, 10 * time.Minute},
		{"metro.sh", npm, 5 * time.Minute},
		{"curl.sh", sid, 2 * time.Minute},
	} {
		t.Run(strings.TrimSuffix(tt.name, ".sh"), func(t *testing.T) {
			t.Parallel() // they wait more than they work
			script(t, tt.timeout, tt.name, "SARSEN_TEST_ROOT="+tt.root)
		})
	}
}

// TestBackups has the tools whose backups Sarsen keeps.
func TestBackups(t *testing.T) {
	require(t)
	root := script(t, 20*time.Minute, "sidroot.sh")
	tools := script(t, 5*time.Minute, "backuproot.sh")
	for _, name := range []string{"restic.sh", "casync.sh", "pbs.sh"} {
		t.Run(strings.TrimSuffix(name, ".sh"), func(t *testing.T) {
			script(t, 15*time.Minute, name, "SARSEN_TEST_ROOT="+root, "SARSEN_TEST_BACKUP="+tools)
		})
	}
}

// TestShared has Bazel at two servers that share a bucket and a Redis.
func TestShared(t *testing.T) {
	require(t)
	// The script takes the programs from where these leave them.
	redisserver.Start(t).Stop()
	versitygw.Start(t).Stop()
	root := script(t, 20*time.Minute, "sidroot.sh")
	script(t, 30*time.Minute, "shared.sh", "SARSEN_TEST_ROOT="+root)
}

func TestMoon(t *testing.T) {
	require(t, "node", "npm", "git")
	root := script(t, 5*time.Minute, "moonroot.sh")
	script(t, 5*time.Minute, "moon.sh", "SARSEN_TEST_ROOT="+root)
}

// require skips the test, loudly, where it can't run. On CI it fails there: a test
// that is skipped unseen is worth nothing.
func require(t *testing.T, programs ...string) {
	t.Helper()
	why := obstacle()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			why = errors.Join(why, err)
		}
	}
	if why == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this has to run on CI and can't: %v", why)
	}
	fmt.Fprintf(os.Stderr, "\n*** %s SKIPPED, Sarsen was NOT tried with this client: %v\n\n", t.Name(), why)
	t.Skipf("can't run here: %v", why)
}

// obstacle says why no client can run on this machine, or nil.
func obstacle() error {
	if runtime.GOOS != "linux" {
		return errors.New("namespaces need Linux")
	}
	if os.Geteuid() != 0 {
		return errors.New("namespaces and chroot need root")
	}
	unshare := exec.Command("unshare", "--mount", "--propagation", "private", "--net", "--pid",
		"--fork", "--kill-child", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
	if out, err := unshare.CombinedOutput(); err != nil {
		return fmt.Errorf("unshare: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// script runs a script of this folder, passes on all it says as it says it, and
// returns the last line of its standard output.
func script(t *testing.T, timeout time.Duration, name string, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), append(env, "SARSEN="+sarsen)...)
	cmd.WaitDelay = 10 * time.Second
	// The scripts become 'unshare --kill-child', so that with it everything ends. This
	// ends it also when the test binary dies: by Ctrl-C or by go test's own timeout.
	// The kernel means the thread that started it, so that must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	began := time.Now()
	defer func() { t.Logf("%s took %.0f s", name, time.Since(began).Seconds()) }()
	last := new(string)
	stdout, outDone := lines(t, last)
	stderr, errDone := lines(t, new(string))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	stdout.Close()
	stderr.Close()
	<-outDone
	<-errDone
	if ctx.Err() != nil {
		t.Fatalf("%s: did not end within %v", name, timeout)
	}
	if err != nil {
		t.Fatalf("%s: %v; what it said last is above", name, err)
	}
	nothingMounted(t)
	return *last
}

// lines returns a writer that logs what is written to it line by line and keeps the
// last line. After Close, done is closed when all is logged.
func lines(t *testing.T, last *string) (w *io.PipeWriter, done chan struct{}) {
	r, w := io.Pipe()
	done = make(chan struct{})
	go func() {
		defer close(done)
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			*last = scanner.Text()
			t.Log(*last)
		}
		// A line too long to scan must not block the script.
		_, _ = io.Copy(io.Discard, r)
	}()
	return w, done
}

// nothingMounted checks that the scripts' mounts went with their namespaces.
func nothingMounted(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	cache := os.Getenv("SARSEN_TEST_CACHE")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache", "sarsen-test")
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, cache) {
			t.Errorf("left behind: %s", strings.TrimSpace(line))
		}
	}
}
