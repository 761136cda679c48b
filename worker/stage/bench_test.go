package stage

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// BenchmarkStageHit10k stages 10,000 files in 1,000 directories, all of which are known. Taking the tree
// away again is not counted.
func BenchmarkStageHit10k(b *testing.B) {
	src := newSource()
	s := openStager(b, b.TempDir(), src, Options{}, 1<<30)
	root := src.store(b, digest.SHA256, grove(989, 10))
	work := filepath.Join(b.TempDir(), "work")
	spread(b, work)
	n := 0
	stage := func() string {
		n++
		into := filepath.Join(work, "action-"+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(n))
		stats, err := s.Stage(ctx, root, into)
		if err != nil {
			b.Fatal(err)
		}
		if n > 1 && (stats.Linked != stats.Files || stats.Resolved > 0) {
			b.Fatalf("no hit: %+v", stats)
		}
		return into
	}
	if err := os.RemoveAll(stage()); err != nil {
		b.Fatal(err)
	}
	var cpu time.Duration
	for b.Loop() {
		before := processorTime(b)
		into := stage()
		cpu += processorTime(b) - before
		b.StopTimer()
		if err := os.RemoveAll(into); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(cpu.Seconds()*1000/float64(b.N), "cpu-ms/op")
	if got := s.o.Files.Stats(); got.Copied+got.Cloned > 0 {
		b.Errorf("%d files are copies, want links", got.Copied+got.Cloned)
	}
}

// processorTime returns what this process used, which a busy machine changes less than the time of day.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spread makes the directory that work directories lie in.
func spread(b *testing.B, work string) {
	b.Helper()
	if err := os.Mkdir(work, 0o755); err != nil {
		b.Fatal(err)
	}
	d, err := vfs.OS{}.OpenDir(work)
	if err != nil {
		b.Fatal(err)
	}
	d.Spread()
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
