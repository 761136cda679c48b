package stage

import (
	"container/list"
	"sync"

	"github.com/sarsen-build/sarsen/digest"
)

// A cache holds nodes, least recently used last. It is bounded in nodes and in bytes of their messages;
// what a plan uses stays.
type cache struct {
	maxEntries int
	maxBytes   int64

	mu      sync.Mutex
	nodes   map[digest.Digest]*node
	order   *list.List // of *node, the most recently used first
	bytes   int64
	evicted int64
}

// held is what the cache knows of a node, under its mutex.
type held struct {
	users   int
	element *list.Element // nil if the node is not in the cache
}

func newCache(entries int, bytes int64) *cache {
	return &cache{maxEntries: entries, maxBytes: bytes, nodes: map[digest.Digest]*node{}, order: list.New()}
}

// take returns the node d, which then stays until it is released, or nil.
func (c *cache) take(d digest.Digest) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[d]
	if n != nil {
		n.users++
		c.order.MoveToFront(n.element)
	}
	return n
}

// has reports whether d is in the cache at the moment.
func (c *cache) has(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[d] != nil
}

// putAll puts the nodes of messages in, or replaces them in nodes by those that are there. They stay until they
// are released. It returns the messages that were put in. What is too much then goes with the next release.
func (c *cache) putAll(nodes map[digest.Digest]*node, messages []message) (fresh []message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		n, put := c.put(nodes[m.digest])
		nodes[m.digest] = n
		if put {
			fresh = append(fresh, m)
		}
	}
	return fresh
}

// put puts a node in, or finds the one that is there. The caller holds the mutex.
func (c *cache) put(n *node) (_ *node, fresh bool) {
	if old := c.nodes[n.digest]; old != nil {
		old.users++
		return old, false
	}
	n.users++
	n.element = c.order.PushFront(n)
	c.nodes[n.digest] = n
	c.bytes += n.digest.Size
	return n, true
}

// release lets the nodes of a plan go.
func (c *cache) release(p *plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range p.nodes {
		n.users--
	}
	c.shrink()
}

// restore puts in a node that nobody uses.
func (c *cache) restore(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ = c.put(n)
	n.users--
	c.shrink()
}

// shrink evicts what is too much, unless it is used.
func (c *cache) shrink() {
	for e := c.order.Back(); e != nil && (len(c.nodes) > c.maxEntries || c.bytes > c.maxBytes); {
		n := e.Value.(*node)
		e = e.Prev()
		if n.users > 0 {
			continue
		}
		c.order.Remove(n.element)
		n.element = nil
		delete(c.nodes, n.digest)
		c.bytes -= n.digest.Size
		c.evicted++
	}
}

// size returns how much there is.
func (c *cache) size() (entries, bytes, evicted int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.nodes)), c.bytes, c.evicted
}

// oldestFirst returns what there is, least recently used first.
func (c *cache) oldestFirst() []digest.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	ds := make([]digest.Digest, 0, len(c.nodes))
	for e := c.order.Back(); e != nil; e = e.Prev() {
		ds = append(ds, e.Value.(*node).digest)
	}
	return ds
}
