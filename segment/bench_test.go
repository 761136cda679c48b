package segment

import (
	"context"
	"encoding/binary"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// tenMillion is how many blobs the largest ring of the figures holds.
const tenMillion = 10_000_000

// BenchmarkStart fills a ring with ten million blobs of 64 bytes, stops it, and starts it again: how
// long that takes to the first answer, and how much memory the process then has. Run it with -benchtime
// 1x; it takes a minute or two and 2 GB of disk.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	o := Options{MaxSize: 8 << 30, Lease: time.Hour, tick: -1}
	fill(b, dir, o)
	debug.FreeOSMemory()
	b.Run("clean", func(b *testing.B) {
		for range b.N {
			begin := time.Now()
			r, err := Open(context.Background(), vfs.OS{}, dir, o)
			if err != nil {
				b.Fatal(err)
			}
			if missing, err := r.Missing(context.Background(), digest.SetOf(tinyDigest(tenMillion/2))); err != nil || missing.Len() > 0 {
				b.Fatalf("Missing = %v, %v", missing.List(), err)
			}
			b.ReportMetric(time.Since(begin).Seconds(), "s/start")
			b.ReportMetric(float64(resident(b))/(1<<20), "MiB")
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func tinyDigest(n int) digest.Digest { return digest.SHA256.Of(tinyBytes(n)) }

func tinyBytes(n int) []byte { return binary.LittleEndian.AppendUint64(make([]byte, 56), uint64(n)) }

func fill(b *testing.B, dir string, o Options) {
	r, err := Open(context.Background(), vfs.OS{}, dir, o)
	if err != nil {
		b.Fatal(err)
	}
	const batch = 4000
	ds, data := make([]digest.Digest, batch), make([][]byte, batch)
	for n := 0; n < tenMillion; n += batch {
		for i := range batch {
			data[i] = tinyBytes(n + i)
			ds[i] = digest.SHA256.Of(data[i])
		}
		for _, err := range r.PutAll(context.Background(), ds, data) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
}

// resident returns the memory that the process has, in bytes, as Linux counts it.
func resident(b *testing.B) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib << 10
		}
	}
	b.Fatal("no VmRSS in /proc/self/status")
	return 0
}
