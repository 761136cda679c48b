package backup_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/backup"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/vfs"
	"github.com/sarsen-build/sarsen/segment"
)

const pack = 16 << 20

// served returns the address of a handler on a ring on the disk.
func served(b *testing.B) string {
	ring, err := segment.Open(b.Context(), vfs.OS{}, b.TempDir(), segment.Options{MaxSize: 6 << 30, Lease: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(backup.New(backup.Options{Store: ring, Keeper: ring}))
	b.Cleanup(func() {
		server.Close()
		ring.Close()
	})
	return server.URL + "/restic/r/data/"
}

// send makes a request and discards the answer.
func send(b *testing.B, method, url string, body []byte, headers ...string) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil || a.StatusCode >= 300 {
		b.Errorf("%s: status %d, %v", method, a.StatusCode, err)
	}
}

// BenchmarkUpload stores packs, five at a time as restic does, each synced to the disk.
func BenchmarkUpload(b *testing.B) {
	url := served(b)
	packs := make([][]byte, b.N)
	for i := range packs {
		packs[i] = storetest.Bytes(uint64(i), pack)
	}
	b.SetBytes(pack)
	b.SetParallelism(3)
	var next atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			data := packs[next.Add(1)-1]
			send(b, "POST", url+name(data), data)
		}
	})
}

// BenchmarkDownload reads packs in ranges, as restic does when it restores.
func BenchmarkDownload(b *testing.B) {
	url := served(b)
	data := storetest.Bytes(1, pack)
	send(b, "POST", url+name(data), data)
	for _, part := range []int{pack, 3_000_000, 500_000} {
		b.Run(fmt.Sprint(part), func(b *testing.B) {
			b.SetBytes(pack)
			for b.Loop() {
				for at := 1234; at+part-1234 <= pack; at += part {
					send(b, "GET", url+name(data), nil, "Range", fmt.Sprintf("bytes=%d-%d", at, at+part-1))
				}
			}
		})
	}
}
