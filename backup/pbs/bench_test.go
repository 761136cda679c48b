package pbs_test

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
	"github.com/sarsen-build/sarsen/internal/pbstest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

// BenchmarkChunks uploads chunks of 4 MiB to a ring on the disk, four at a time, and downloads them, over TLS.
func BenchmarkChunks(b *testing.B) {
	const atOnce = 4
	ring, err := segment.Open(b.Context(), vfs.OS{}, b.TempDir(), segment.Options{MaxSize: 4 << 30, Lease: time.Second, Durability: segment.Group})
	if err != nil {
		b.Fatal(err)
	}
	defer ring.Close()
	f := start(b, ring)
	defer f.stop()
	base := bytesOf(1, format.FixedChunk)
	chunk := func(n int) []byte {
		c := append([]byte(nil), base...)
		binary.LittleEndian.PutUint64(c, uint64(n))
		return c
	}
	each := func(n int, do func(i int) error) {
		var wait sync.WaitGroup
		for w := range atOnce {
			wait.Go(func() {
				for i := w; i < n; i += atOnce {
					if err := do(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wait.Wait()
	}
	round := int64(0)
	b.Run("Upload", func(b *testing.B) {
		round++
		s, err := f.Backup(b.Context(), at(host, round), nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		id, err := s.Open(b.Context(), "fixed_index", map[string]any{"archive-name": "a.fidx"})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(format.FixedChunk)
		b.ResetTimer()
		each(b.N, func(i int) error {
			c := chunk(i)
			d := (*pbstest.Key)(nil).Digest(c)
			return s.Upload(b.Context(), "fixed", id, d, len(c), format.DataBlob{Data: c}.Append(nil))
		})
	})
	const image = 32
	data := make([]byte, 0, image*format.FixedChunk)
	for i := range image {
		data = append(data, chunk(i)...)
	}
	done := pbstest.Snapshot{Type: "vm", ID: "1", Time: 1}
	s, err := f.Backup(b.Context(), done, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(s.Fixed(b.Context(), "a.fidx", data, nil), s.Finish(b.Context())); err != nil {
		b.Fatal(err)
	}
	s.Close()
	b.Run("Download", func(b *testing.B) {
		r, err := f.Restore(b.Context(), done, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Download(b.Context(), "a.fidx"); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(format.FixedChunk)
		b.ResetTimer()
		each(b.N, func(i int) error {
			_, err := r.Chunk(b.Context(), (*pbstest.Key)(nil).Digest(chunk(i%image)))
			return err
		})
	})
}
