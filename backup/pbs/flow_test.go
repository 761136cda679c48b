package pbs_test

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
)

// A slow reader gives others their turn, as bodies do that share a line.
type slow struct{ io.Reader }

// Read implements io.Reader.
func (s *slow) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 64<<10)])
}

// TestManyLarge: a client that sends more chunks at once than the server takes at once gets all of them through. What
// waits for its turn must not take the connection's room from what has it.
func TestManyLarge(t *testing.T) {
	f := start(t, forgets())
	b := begin(t, f.Client, host, nil)
	id, err := b.Open(t.Context(), "dynamic_index", map[string]any{"archive-name": "a.didx"})
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 32, 4 << 20
	var wait sync.WaitGroup
	x := &format.Index{Ends: make([]uint64, n), Digests: make([][32]byte, n)}
	offsets := make([]uint64, n)
	var all [n][]byte
	for i := range n {
		piece := make([]byte, size)
		piece[0] = byte(i)
		x.Ends[i], x.Digests[i], offsets[i] = uint64(i+1)*size, b.Key.Digest(piece), uint64(i)*size
		all[i] = format.DataBlob{Data: piece}.Append(nil)
	}
	for i, raw := range all {
		wait.Go(func() {
			if err := b.UploadFrom(t.Context(), "dynamic", id, x.Digests[i], size, len(raw), &slow{bytes.NewReader(raw)}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	x.Size = n * size
	err = errors.Join(b.Append(t.Context(), "dynamic", id, x.Digests, offsets), b.CloseIndex(t.Context(), "dynamic", id, n, "a.didx", x), b.Finish(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
}

// TestRaceNoCache: upstream took chunks that a client uploads with no-cache without a trace of them, so that a collector
// removed them before the backup was finished.
func TestRaceNoCache(t *testing.T) {
	store := forgets()
	f := start(t, store)
	b, err := f.Backup(t.Context(), host, nil, url.Values{"no-cache": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	id, err := b.Open(t.Context(), "dynamic_index", map[string]any{"archive-name": "a.didx"})
	if err != nil {
		t.Fatal(err)
	}
	data := bytesOf(1, 100_000)
	d, err := b.Chunk(t.Context(), "dynamic", id, data)
	if err != nil {
		t.Fatal(err)
	}
	store.Evict()
	x := &format.Index{Size: uint64(len(data)), Ends: []uint64{uint64(len(data))}, Digests: [][32]byte{d}}
	err = b.Append(t.Context(), "dynamic", id, x.Digests, []uint64{0})
	store.Evict()
	err = errors.Join(err, b.CloseIndex(t.Context(), "dynamic", id, 1, "a.didx", x))
	store.Evict()
	if err := errors.Join(err, b.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	b.Close()
	store.Evict()
	restore(t, f.Client, host, nil, "a.didx", data)
}
