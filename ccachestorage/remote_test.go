package ccachestorage

import (
	"net/http"
	"sync"
	"testing"

	"github.com/sarsen-build/sarsen/internal/storetest"
)

// TestConnectionGone has a server, or a proxy before it, that closes a connection just when it is used again: the request
// is made once more on another.
func TestConnectionGone(t *testing.T) {
	r := newRig(t, Options{})
	c := r.connect()
	var mu sync.Mutex
	used := map[string]bool{}
	r.cache.misbehave(func(w http.ResponseWriter, req *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		again := used[req.RemoteAddr]
		used[req.RemoteAddr] = true
		if again {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	for i, size := range []int{1, 100, 100_000, maxHeld} {
		value := storetest.Bytes(uint64(i), size)
		c.want("put", c.put(i, value, flagOverwrite), "ok")
		c.want("put again", c.put(i, value, flagOverwrite), "ok")
		if is, got := c.get(i); is != "ok" || string(got) != string(value) {
			t.Errorf("get %d: got %s, %d bytes", i, is, len(got))
		}
	}
}
