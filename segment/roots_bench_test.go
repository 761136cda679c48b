package segment

import (
	"fmt"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

// BenchmarkStartRoots measures start-up with 100,000 roots, as restic makes them: each holds one blob.
func BenchmarkStartRoots(b *testing.B) {
	const n = 100_000
	dir := b.TempDir()
	o := Options{MaxSize: 2 << 30, Lease: time.Hour, Durability: None}
	r, err := Open(b.Context(), vfs.OS{}, dir, o)
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		data := storetest.Bytes(uint64(i), 5000)
		d := digest.SHA256.Of(data)
		if err := blob.Put(b.Context(), r, d, data); err != nil {
			b.Fatal(err)
		}
		if err := r.Keep(b.Context(), fmt.Sprintf("restic/laptop/data/%s", d.Hex()), nil, digest.SetOf(d)); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		r, err := Open(b.Context(), vfs.OS{}, dir, o)
		if err != nil {
			b.Fatal(err)
		}
		if got := r.Stats().Roots; got != n {
			b.Fatalf("%d roots, want %d", got, n)
		}
		b.StopTimer()
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
