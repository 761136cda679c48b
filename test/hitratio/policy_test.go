package hitratio

// A Policy is a cache that holds at most so many bytes.
type Policy interface {
	// Get asks for an object of size bytes, and reports whether it was there. If not, the client puts
	// it at once, as a build does that had to make it: the call stands for both. Keys count from 1.
	Get(key uint32, size int64) bool
}

// A queue is a list of objects in order, oldest first. Key 0 stands for its ends.
type queue struct {
	links []link
	bytes int64
}

type link struct {
	older, newer uint32
	size         int64
	in           bool
}

func newQueue(keys int) *queue { return &queue{links: make([]link, keys+1)} }

func (q *queue) has(key uint32) bool { return q.links[key].in }

func (q *queue) oldest() uint32 { return q.links[0].newer }

// push makes key the newest.
func (q *queue) push(key uint32, size int64) {
	newest := q.links[0].older
	q.links[key] = link{older: newest, size: size, in: true}
	q.links[newest].newer = key
	q.links[0].older = key
	q.bytes += size
}

// remove takes key out and returns its size.
func (q *queue) remove(key uint32) int64 {
	l := q.links[key]
	q.links[l.older].newer = l.newer
	q.links[l.newer].older = l.older
	q.links[key] = link{}
	q.bytes -= l.size
	return l.size
}

// A plain cache evicts the oldest: the one that was put first (FIFO) or asked for first (LRU).
type plain struct {
	*queue
	capacity int64
	lru      bool
}

func (c *plain) Get(key uint32, size int64) bool {
	if c.has(key) {
		if c.lru {
			c.push(key, c.remove(key))
		}
		return true
	}
	if size > c.capacity {
		return false
	}
	for c.bytes+size > c.capacity {
		c.remove(c.oldest())
	}
	c.push(key, size)
	return false
}

// An s3fifo is S3-FIFO as "FIFO queues are all you need for cache eviction" (SOSP 2023) describes it:
// a small queue of a tenth, in which most objects die, a main queue with reinsertion, and a ghost
// queue that remembers what the small one let go. All are counted in bytes.
type s3fifo struct {
	small, main, ghost *queue
	reads              []uint8 // capped at 3
	capacity           int64
}

func newS3FIFO(keys int, capacity int64) *s3fifo {
	return &s3fifo{newQueue(keys), newQueue(keys), newQueue(keys), make([]uint8, keys+1), capacity}
}

func (c *s3fifo) Get(key uint32, size int64) bool {
	if c.small.has(key) || c.main.has(key) {
		c.reads[key] = min(c.reads[key]+1, 3)
		return true
	}
	if size > c.capacity {
		return false
	}
	for c.small.bytes+c.main.bytes+size > c.capacity {
		if c.small.bytes >= c.capacity/10 || c.main.bytes == 0 {
			c.shrinkSmall()
		} else {
			c.shrinkMain()
		}
	}
	c.reads[key] = 0
	if c.ghost.has(key) {
		c.ghost.remove(key)
		c.main.push(key, size)
	} else {
		c.small.push(key, size)
	}
	return false
}

// shrinkSmall moves what was read more than once to the main queue, until one object goes.
func (c *s3fifo) shrinkSmall() {
	for c.small.bytes > 0 {
		key := c.small.oldest()
		size := c.small.remove(key)
		if c.reads[key] <= 1 {
			c.ghost.push(key, size)
			for c.ghost.bytes > c.capacity*9/10 {
				c.ghost.remove(c.ghost.oldest())
			}
			return
		}
		c.reads[key] = 0
		c.main.push(key, size)
		if c.main.bytes > c.capacity*9/10 {
			c.shrinkMain()
		}
	}
}

// shrinkMain puts back what was read, once for each time, until one object goes.
func (c *s3fifo) shrinkMain() {
	for {
		key := c.main.oldest()
		size := c.main.remove(key)
		if c.reads[key] == 0 {
			return
		}
		c.reads[key]--
		c.main.push(key, size)
	}
}
