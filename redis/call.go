package redis

import (
	"context"
	"sync"

	"github.com/sarsen-build/sarsen/digest"
)

// A call is one call of a Store. It goes with the context down to the bucket, so that Redis is asked once.
type call struct {
	client *Client
	whole  bool // the bytes are wanted with the name

	mu      sync.Mutex
	entries map[string]entry  // by lookup: what Redis has, and the zero entry for what it has not, or did not say
	looked  map[string]bool   // by name: the bucket was asked whether it has it
	listed  map[string]bool   // by name: it was given as all that a listing has
	served  map[string]string // by lookup: the object whose bytes were taken from Redis
	read    string            // the object that was read last
}

type callKey struct{}

func (c *Client) newCall(whole bool) *call {
	return &call{
		client: c, whole: whole, entries: map[string]entry{}, looked: map[string]bool{}, listed: map[string]bool{}, served: map[string]string{},
	}
}

func (k *call) in(ctx context.Context) context.Context { return context.WithValue(ctx, callKey{}, k) }

// callOf returns the call that a context belongs to, or nil.
func callOf(ctx context.Context) *call {
	k, _ := ctx.Value(callKey{}).(*call)
	return k
}

// fetch asks for what was not asked for yet, in one round trip.
func (k *call) fetch(ctx context.Context, lookups []string, whole bool) {
	var wanted []string
	seen := map[string]bool{}
	k.mu.Lock()
	for _, l := range lookups {
		if _, ok := k.entries[l]; !ok && !seen[l] {
			seen[l] = true
			wanted = append(wanted, l)
		}
	}
	k.mu.Unlock()
	if len(wanted) == 0 {
		return
	}
	found := k.client.get(ctx, wanted, whole)
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, l := range wanted {
		k.entries[l] = found[i]
	}
}

// entry returns what Redis has.
func (k *call) entry(ctx context.Context, lookup string) entry {
	k.fetch(ctx, []string{lookup}, k.whole)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.entries[lookup]
}

// take returns the bytes of an object, or nil if Redis has them not. It gives them once: who asks again found them
// damaged.
func (k *call) take(ctx context.Context, lookup, name string) []byte {
	e := k.entry(ctx, lookup)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read = name
	if e.name != name || e.object == nil || k.served[lookup] != "" {
		return nil
	}
	k.served[lookup] = name
	return e.object
}

// look reports whether the bucket was not asked for an object yet, and says that it is now.
func (k *call) look(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := name != "" && !k.looked[name]
	k.looked[name] = true
	return first
}

// list says that a listing was cut short at an object.
func (k *call) list(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listed[name] = true
}

// cutShort reports whether a listing was cut short at an object. It may be one that is about to be deleted, and another
// copy lies beside it: the next listing is whole.
func (k *call) cutShort(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.listed[name]
}

// from returns the object whose bytes were taken from Redis, or "".
func (k *call) from(lookup string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.served[lookup]
}

func (k *call) lastRead() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.read
}

// distrust says that the bytes in Redis were not the blob's. The bucket is asked next time.
func (k *call) distrust(lookup string) (name string) {
	name = k.from(lookup)
	k.client.counts.corrupt.Add(1)
	k.client.log.Warn("redis held other bytes than a blob's", "key", k.client.o.Prefix+lookup)
	k.client.forget(lookup, name)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.looked, name)
	return name
}

// fits reports whether the object of that name can be d.
func fits(name string, d digest.Digest) bool {
	return name != "" && (d.Size == digest.AnySize || d.Size == sizeOf(name))
}
