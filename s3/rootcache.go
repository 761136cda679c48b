package s3

import "sync"

// A rootCache remembers roots that were read, by their keys, which name nothing else ever. Lists of backups read the same
// ones again and again. It drops what was not read for the longest time, roughly: it has two halves, of which the older
// one goes when the younger one is full.
type rootCache struct {
	mu           sync.Mutex
	young, older map[string]kept
	bytes        int // of young
}

// rootCacheHalf is how large a half of the cache gets, in bytes.
const rootCacheHalf = 32 << 20

func (c *rootCache) get(key string) (kept, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.young[key]
	if !ok {
		if k, ok = c.older[key]; ok {
			c.add(key, k)
		}
	}
	return k, ok
}

func (c *rootCache) put(key string, k kept) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(key, k)
}

// add is put for who holds the mutex.
func (c *rootCache) add(key string, k kept) {
	size := 2*len(key) + len(k.Value) + 48*len(k.Few) + 256
	if c.bytes += size; c.bytes > rootCacheHalf || c.young == nil {
		c.older, c.young, c.bytes = c.young, map[string]kept{}, size
	}
	c.young[key] = k
}
