// Package versitygw starts a real S3 server for tests: Versity's gateway over a directory, built once from
// tools/versitygw and kept in ${SARSEN_TEST_CACHE:-~/.cache/sarsen-test}.
//
// Where it can't be built or started, the test is skipped loudly; with CI=true that is a failure. SARSEN_TEST_S3 names
// another server to test, such as MinIO, as http://key:secret@127.0.0.1:9000; it gets a bucket for each Start.
//
// Concurrency: Start may be called from several processes at once; one of them builds.
package versitygw

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"
)

// A Server is a running gateway with one empty bucket.
type Server struct {
	Endpoint, Bucket     string
	AccessKey, SecretKey string
	Dir                  string // where the bucket's objects lie; "" if that is not known

	binary string
	args   []string
	output *os.File
	cmd    *exec.Cmd // nil for another server
}

// Start starts a server that ends with the test. flags are more of its own, like --region.
func Start(t testing.TB, flags ...string) *Server {
	t.Helper()
	s, err := start(t, flags)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("versitygw: %v", err)
	}
	if err != nil {
		t.Skipf("SKIPPED: versitygw, a real S3 server, can't be built or started here: %v", err)
	}
	return s
}

func start(t testing.TB, flags []string) (*Server, error) {
	if other := os.Getenv("SARSEN_TEST_S3"); other != "" {
		s, err := elsewhere(t.Context(), other)
		if err != nil {
			t.Fatalf("SARSEN_TEST_S3: %v", err)
		}
		return s, nil
	}
	binary, err := build()
	if err != nil {
		return nil, err
	}
	dir := t.TempDir()
	s := &Server{Bucket: "sarsen", AccessKey: "testkey", SecretKey: "testsecret", Dir: filepath.Join(dir, "data", "sarsen")}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	s.Endpoint = "http://" + address
	args := append(slices.Concat([]string{"--port", address, "--quiet"}, flags), "posix")
	if unix.Setxattr(s.Dir, "user.sarsen.probe", []byte("1"), 0) != nil {
		meta := filepath.Join(dir, "meta")
		if err := os.Mkdir(meta, 0o755); err != nil {
			return nil, err
		}
		args = append(args, "--sidecar", meta)
	}
	s.binary, s.args = binary, append(args, filepath.Join(dir, "data"))
	if s.output, err = os.Create(filepath.Join(dir, "output")); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		s.Stop()
		_ = s.output.Close()
	})
	return s, s.Restart()
}

// Restart starts the server again after Stop, at the same address, and waits until it listens.
func (s *Server) Restart() error {
	s.cmd = exec.Command(s.binary, s.args...)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.cmd.SysProcAttr = endsWithUs
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	for range 500 {
		if c, err := net.Dial("tcp", strings.TrimPrefix(s.Endpoint, "http://")); err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	text, _ := os.ReadFile(s.output.Name())
	return fmt.Errorf("it does not listen: %s", text)
}

// elsewhere makes a bucket on a server that runs already.
func elsewhere(ctx context.Context, address string) (*Server, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	secret, _ := u.User.Password()
	s := &Server{Endpoint: u.Scheme + "://" + u.Host, Bucket: "sarsen-" + strings.ToLower(rand.Text()), AccessKey: u.User.Username(), SecretKey: secret}
	client := s3.New(s3.Options{
		BaseEndpoint: &s.Endpoint, UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
	})
	_, err = client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.Bucket})
	return s, err
}

// Stop kills the server. What it has stays.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// build returns the program, which it makes unless that was done before.
func build() (string, error) {
	module, err := moduleDir()
	if err != nil {
		return "", err
	}
	versions, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	cache := os.Getenv("SARSEN_TEST_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, ".cache", "sarsen-test")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	binary := filepath.Join(cache, fmt.Sprintf("versitygw-%x", sha256.Sum256(versions)))[:len(cache)+1+len("versitygw-")+16]
	lock, err := os.Create(filepath.Join(cache, "versitygw.lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(binary); !errors.Is(err, os.ErrNotExist) {
		return binary, err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary+".new", "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, os.Rename(binary+".new", binary)
}

// moduleDir returns tools/versitygw of the module that the test is in.
func moduleDir() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		module := filepath.Join(dir, "tools", "versitygw")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			return module, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("tools/versitygw is not above the test")
		}
	}
	return "", err
}
