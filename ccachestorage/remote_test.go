package ccachestorage

import (
	"net/http"
	"strings"
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

// TestMessages cuts what is too long, between two letters.
func TestMessages(t *testing.T) {
	for text, want := range map[string]string{"": "", "x": "x", strings.Repeat("x", 300): strings.Repeat("x", 255), strings.Repeat("\u00e4", 200): strings.Repeat("\u00e4", 127)} {
		if got := string(appendMessage(nil, text)); got != string([]byte{byte(len(want))})+want {
			t.Errorf("%.10q...: got %q", text, got)
		}
	}
}
