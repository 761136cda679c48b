package bucket_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestStalls: a body that stops to come is left, and asked for again, at once for what its length is.
func TestStalls(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 1000)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(want)))
		if asked.Add(1) == 1 {
			_, _ = w.Write(want[:5000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.Copy(w, bytes.NewReader(want))
	}))
	defer server.Close()
	b, err := bucket.Open(t.Context(), bucket.Options{
		Bucket: "b", Endpoint: server.URL, PathStyle: true, AccessKey: "k", SecretKey: "s", TryLimit: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := b.Get(t.Context(), "k", 0, -1); err != nil || !bytes.Equal(got, want) || asked.Load() != 2 {
		t.Errorf("Get = %d bytes, %v, after %d requests", len(got), err, asked.Load())
	}
}
