//go:build crash && linux

package crash

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What only Sarsen has: files in a backup repository, which are roots. They have no lease. Each name is put, replaced and deleted
// by one client at a time, and holds one of its versions from the one that was acknowledged last on.

const (
	rootNames = 40 // how many names there are
	// remembered is how many versions of a name are remembered before the one that was acknowledged: a disk that is cut holds
	// one of those that were tried until then.
	remembered = 100
)

// A rootFact is what is known of one name.
type rootFact struct {
	seeds map[int]uint64 // of the bytes of each version; one that was deleted has none
	sizes map[int]int64
	acked int
	tried int
}

// roots is what is known of all names. Its methods may be called from many goroutines at once.
type roots struct {
	mu    sync.Mutex
	facts map[int]rootFact
	busy  map[int]bool
	acked int64 // answers, ever
}

func (o *roots) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.facts, o.busy = map[int]rootFact{}, map[int]bool{}
}

// promised returns all that is known now.
func (o *roots) promised() map[int]rootFact {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.facts)
}

// try notes that a version of some name is about to be sent. A size of zero deletes it.
func (o *roots) try(r *rand.Rand, seed uint64, size int64) (name, version int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name = r.IntN(rootNames); o.busy[name]; name = r.IntN(rootNames) {
	}
	o.busy[name] = true
	f := o.facts[name]
	f.seeds, f.sizes = maps.Clone(f.seeds), maps.Clone(f.sizes) // others have the old ones
	if f.seeds == nil {
		f.seeds, f.sizes = map[int]uint64{}, map[int]int64{}
	}
	for v := range f.seeds {
		if v < f.acked-remembered {
			delete(f.seeds, v)
			delete(f.sizes, v)
		}
	}
	f.tried++
	if size > 0 {
		f.seeds[f.tried], f.sizes[f.tried] = seed, size
	}
	o.facts[name] = f
	return name, f.tried
}

// answered notes what became of it. A version that a start has found is as good as acknowledged.
func (o *roots) answered(name, version int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.busy, name)
	if f := o.facts[name]; ok && version > f.acked {
		f.acked = version
		o.facts[name] = f
		o.acked++
	}
}

// answers returns how many versions were acknowledged.
func (o *roots) answers() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked
}

// rootStep puts one file, or deletes it.
func (w *writer) rootStep(ctx context.Context) error {
	o := &w.load.oracle.roots
	seed, size := 1+w.rand.Uint64()/2, int64(1+w.rand.IntN(20<<10))
	switch n := w.rand.IntN(10); {
	case n == 0:
		size = 400 << 10
	case n < 3:
		size = 0
	}
	name, version := o.try(w.rand, seed, size)
	method, want := http.MethodPut, []int{http.StatusOK}
	if size == 0 {
		method, want = http.MethodDelete, []int{http.StatusOK, http.StatusNotFound}
	}
	code, _, err := w.conn.file(ctx, method, name, blobBytes(seed, size))
	o.answered(name, version, err == nil && slices.Contains(want, code))
	switch {
	case err != nil:
		return err
	case code == http.StatusInsufficientStorage || code == http.StatusServiceUnavailable:
		return status.Error(codes.ResourceExhausted, "no room for a file")
	case !slices.Contains(want, code):
		return fmt.Errorf("%s of file %d: status %d", method, name, code)
	}
	return nil
}

// askRoots asks for every file that is known. What was tried until latest may be there.
func (c *check) askRoots(ctx context.Context, facts, latest map[int]rootFact) {
	names := slices.Sorted(maps.Keys(facts))
	c.each(len(names), func(i int) error {
		f := facts[names[i]]
		code, got, err := c.conn.file(ctx, http.MethodGet, names[i], nil)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.tally.checked++
		c.mu.Unlock()
		for v := latest[names[i]].tried; v >= f.acked; v-- {
			last := latest[names[i]]
			seed, there := last.seeds[v]
			if !there && code == http.StatusNotFound || there && code == http.StatusOK && bytes.Equal(got, blobBytes(seed, last.sizes[v])) {
				if c.oracle != nil {
					c.oracle.roots.answered(names[i], v, true)
				}
				return nil
			}
		}
		c.mu.Lock()
		c.tally.files++
		c.mu.Unlock()
		c.tell("LOST file %d of a repository, version %d acknowledged and %d tried: status %d, %d bytes", names[i], f.acked, f.tried, code, len(got))
		return nil
	})
}

// file makes a request for a file of the repository. The server listens for it before it does so for the rest.
func (c *conn) file(ctx context.Context, method string, name int, data []byte) (code int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.http+"/casync/crash/"+strconv.Itoa(name), bytes.NewReader(data))
	if err != nil {
		return 0, nil, err
	}
	answer, err := c.files.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, body, err
}
