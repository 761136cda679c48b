package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	if name := os.Getenv("SANDBOX_TEST_HELPER"); name != "" {
		os.Exit(helper(name))
	}
	os.Exit(m.Run())
}

// begin starts a runner, or skips where the host can't have such a sandbox.
func begin(t testing.TB, o Options) *Runner {
	t.Helper()
	if o.Mode == "" {
		o.Mode = Strict
	}
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	r, err := Start(o)
	if err != nil && o.Mode == Strict {
		t.Skipf("SKIPPED: no strict sandbox on this host: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// A result is what a test looks at.
type result struct {
	Outcome
	dir, root      string
	stdout, stderr string
}

// newSpec makes a directory for an action, with an empty root.
func newSpec(t testing.TB, args ...string) Spec {
	t.Helper()
	dir := t.TempDir()
	s := Spec{ID: filepath.Base(dir), Root: filepath.Join(dir, "root"), Args: args, Env: []string{"PATH=/usr/bin:/bin"},
		Stdout: filepath.Join(dir, "stdout"), Stderr: filepath.Join(dir, "stderr"), Timeout: time.Minute}
	if err := os.Mkdir(s.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, r *Runner, s Spec) result {
	t.Helper()
	out, err := r.Run(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Root.Close() })
	return result{out, filepath.Dir(s.Root), s.Root, read(t, s.Stdout), read(t, s.Stderr)}
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was written
		t.Fatal(err)
	}
	return string(text)
}

func shell(t testing.TB, r *Runner, script string) result {
	t.Helper()
	return run(t, r, newSpec(t, "/bin/sh", "-c", script))
}

func BenchmarkRunEcho(b *testing.B) {
	for _, mode := range []Mode{Strict, None} {
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", mode, n), func(b *testing.B) {
				benchmarkEcho(b, begin(b, Options{Mode: mode}), n)
			})
		}
	}
}

func benchmarkEcho(b *testing.B, r *Runner, n int) {
	var mu sync.Mutex
	var times []time.Duration
	next := make(chan struct{}, b.N)
	for range b.N {
		next <- struct{}{}
	}
	close(next)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			s := newSpec(b, "/bin/echo", "hello")
			for range next {
				_ = os.Remove(s.Stdout)
				begun := time.Now()
				out, err := r.Run(context.Background(), s)
				if err != nil || out.ExitCode != 0 {
					b.Errorf("got %+v, %v", out, err)
					return
				}
				_ = out.Root.Close()
				mu.Lock()
				times = append(times, time.Since(begun))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	b.ReportMetric(float64(times[0].Microseconds()), "min-µs") // what a busy machine spoils least
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "actions/s")
}
