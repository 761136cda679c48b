package script

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// doDecided makes a request, again and again for a minute while a collection asks about what it is for.
func (m *member) doDecided(method, path string, body []byte) (status int, text []byte, err error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if status, text, err = m.do(method, path, body); status != 503 || time.Now().After(end) {
			return status, text, err
		}
	}
}

// TestBucketChunks: clients of casync's protocol store chunks of a few folders through two servers on one bucket at
// once, while it is collected with no grace. Every chunk that was acknowledged is read from both, and when one has lost
// its disk. A lost update in a folder's root would lose some.
func TestBucketChunks(t *testing.T) {
	t.Parallel() // it waits more than it works
	f := newFleet(t, "  refresh: 1s\n  collect: never\n")
	servers := []*member{f.start("a"), f.start("b")}
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() { f.keepCollecting(servers[1], stop) })

	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	chunks := map[string][]byte{} // by their paths
	for i := 0; len(chunks) < 60; i++ {
		data := fmt.Append(nil, "chunk ", i)
		id := sha256.Sum256(data)
		if n := binary.BigEndian.Uint16(id[:]); n < 3 {
			chunks[fmt.Sprintf("/casync/store/%04x/%x.cacnk", n, id)] = encoder.EncodeAll(data, nil)
		}
	}
	next := make(chan string, len(chunks))
	for path := range chunks {
		next <- path
	}
	close(next)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for path := range next {
				status, text, err := servers[i%2].doDecided("PUT", path, chunks[path])
				if status != 200 || err != nil {
					t.Errorf("PUT %s: %d %s, %v", path, status, text, err)
				}
			}
		})
	}
	clients.Wait()
	check := func(name string, m *member) {
		t.Helper()
		lost := 0
		for path, want := range chunks {
			status, got, err := m.doDecided("GET", path, nil)
			if status != 200 || err != nil || string(got) != string(want) {
				t.Logf("%s: GET %s: %d %.200s, %v", name, path, status, got, err)
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%s has lost %d of %d chunks", name, lost, len(chunks))
		}
	}
	check("a", servers[0])
	check("b", servers[1])
	servers[0].stop()
	if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
		t.Fatal(err)
	}
	check("a without its disk", f.start("a"))
	close(stop)
	collector.Wait()
}
