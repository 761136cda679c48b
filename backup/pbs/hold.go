package pbs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
)

// A hold is how a session keeps what it said yes to. A lease would end before a long backup does. An open Reader
// holds too, but on to the place where the bytes lie, which the store may need; so Readers are exchanged for a
// root now and then.
type hold struct {
	store *datastore
	name  string

	mu      sync.Mutex
	readers []blob.Reader
	digests []digest.Digest // of the readers
	bytes   int64           // of the readers
	roots   []string
	timer   *time.Timer
	closed  bool
	flushes sync.WaitGroup
}

// When Readers are exchanged for a root.
const (
	maxReaders   = 1024
	maxReadBytes = 1 << 30
	maxReadAge   = 30 * time.Second
)

// maxTries is how often a blob is stored anew that went before it could be held, or whose room the store took away.
const maxTries = 10

func (d *datastore) newHold() *hold {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &hold{store: d, name: d.sessionRoots() + hex.EncodeToString(id[:]) + "/"}
}

func (d *datastore) sessionRoots() string {
	return sessionPrefix + d.Name + "/" + d.server.identity.name + "/"
}

// A holdValue is the value of a root of a hold.
type holdValue struct {
	Since int64 `json:"since"` // seconds since 1970
}

// maxConnection is how long a backup or a restore may take, and orphaned how old roots of a hold are that no server can
// need any more.
const (
	maxConnection = 30 * 24 * time.Hour
	orphaned      = maxConnection + 24*time.Hour
)

// releaseSessions lets go of what sessions of a former process of this server held, and of what is left of servers
// that never came back.
func (d *datastore) releaseSessions(ctx context.Context) error {
	var names []string
	for r, err := range d.Keeper.Kept(ctx, sessionPrefix+d.Name+"/") {
		if err != nil {
			return err
		}
		var h holdValue
		ours := strings.HasPrefix(r.Name, d.sessionRoots())
		if ours || json.Unmarshal(r.Value, &h) != nil || time.Since(time.Unix(h.Since, 0)) > orphaned {
			names = append(names, r.Name)
		}
	}
	for _, name := range names {
		if err := d.Keeper.Release(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// put stores data and holds it.
func (h *hold) put(ctx context.Context, data []byte) (digest.Digest, error) {
	d := digest.SHA256.Of(data)
	if d.IsEmpty() {
		return d, nil
	}
	for tries := 0; ; tries++ {
		// Whoever has it open knows that it is there, so this comes before an upload, and after it: a short
		// lease may have ended.
		r, err := h.store.Store.Open(ctx, d)
		if err == nil {
			if mutant.ChunkUnheld || mutant.DuplicateUnheld && tries == 0 {
				return d, r.Close()
			}
			return d, h.add(ctx, d, r)
		}
		if !errors.Is(err, blob.ErrNotFound) || tries == maxTries {
			return d, err
		}
		sim.Point("put")
		if err := blob.Put(ctx, h.store.Store, d, data); err != nil && !(errors.Is(err, blob.ErrAborted)) {
			return d, err
		}
		sim.Point("stored")
	}
}

// add takes a Reader over.
func (h *hold) add(ctx context.Context, d digest.Digest, r blob.Reader) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		r.Close()
		return errEnded
	}
	h.readers, h.digests, h.bytes = append(h.readers, r), append(h.digests, d), h.bytes+d.Size
	due := len(h.readers) >= h.store.server.maxReaders || h.bytes >= maxReadBytes
	if len(h.readers) == 1 {
		h.timer = time.AfterFunc(maxReadAge, func() { _ = h.flush(h.store.server.stopping) })
	}
	h.mu.Unlock()
	if due {
		return h.flush(ctx)
	}
	return nil
}

// flush exchanges the Readers for a root. If that fails, the Readers go on holding.
func (h *hold) flush(ctx context.Context) error {
	h.mu.Lock()
	if h.closed || len(h.readers) == 0 {
		h.mu.Unlock()
		return nil
	}
	readers, digests := h.readers, h.digests
	h.readers, h.digests, h.bytes = nil, nil, 0
	h.timer.Stop()
	h.flushes.Add(1)
	h.mu.Unlock()
	defer h.flushes.Done()
	if mutant.HoldSwapped {
		for _, r := range readers {
			r.Close()
		}
		readers = nil
	}
	err := h.keep(ctx, digest.SetOf(digests...))
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.readers, h.digests = append(h.readers, readers...), append(h.digests, digests...)
		for _, d := range digests {
			h.bytes += d.Size
		}
		if !h.closed {
			h.timer.Reset(maxReadAge)
		}
		return err
	}
	for _, r := range readers {
		r.Close()
	}
	return nil
}

// keep holds a set by a root.
func (h *hold) keep(ctx context.Context, set digest.Set) error {
	h.mu.Lock()
	name := fmt.Sprintf("%s%d", h.name, len(h.roots))
	h.roots = append(h.roots, name)
	h.mu.Unlock()
	value, err := json.Marshal(holdValue{time.Now().Unix()})
	if err != nil {
		return err
	}
	sim.Point("hold")
	return h.store.Keeper.Keep(context.WithoutCancel(ctx), name, value, set)
}

// release lets go of everything. A root that can't be released is released at the next start.
func (h *hold) release(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	if h.timer != nil {
		h.timer.Stop()
	}
	h.mu.Unlock()
	h.flushes.Wait()
	h.mu.Lock()
	readers, roots := h.readers, slices.Clone(h.roots)
	h.readers, h.digests = nil, nil
	h.mu.Unlock()
	for _, r := range readers {
		r.Close()
	}
	var errs []error
	for _, name := range roots {
		errs = append(errs, h.store.Keeper.Release(ctx, name))
	}
	return errors.Join(errs...)
}
