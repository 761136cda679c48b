package pbs

import (
	"context"
	"sync"

	"github.com/sarsen-build/sarsen/backup/pbs/format"
)

// An ahead reads chunks before they are asked for, along the indexes that were downloaded: a client asks for one after
// the other, and where chunks are far away each would cost it a round trip.
type ahead struct {
	ctx  context.Context
	read func(context.Context, format.Chunk) ([]byte, error)

	mu     sync.Mutex
	order  []format.Chunk       // of all indexes, one after the other
	place  map[[32]byte]int     // where a chunk comes first
	at     int                  // what was asked for last
	coming map[[32]byte]*coming // what is read and was not asked for yet
	bytes  int64                // of what is coming
	reads  sync.WaitGroup
}

type coming struct {
	size int64
	done chan struct{} // closed when the rest is there
	data []byte
	err  error
}

// How much is read ahead on one connection, and how far a client may skip without having gone elsewhere.
const (
	aheadBytes  = 32 << 20
	aheadChunks = 8
	aheadSkip   = 64
)

// add takes an index whose chunks may be asked for.
func (a *ahead) add(x *format.Index, chunks format.ChunkList) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range x.Digests {
		c, ok := chunks.Find(d)
		if !ok {
			continue
		}
		if _, ok := a.place[d]; !ok {
			a.place[d] = len(a.order)
		}
		a.order = append(a.order, c)
	}
}

// take returns a chunk of an index that was added, and what was read of it, which is nil if nothing was. It begins to
// read what comes next.
func (a *ahead) take(digest [32]byte) (c format.Chunk, found *coming, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first, ok := a.place[digest]
	if !ok {
		return c, nil, false
	}
	a.move(digest, first)
	if found = a.coming[digest]; found != nil {
		a.drop(digest)
	}
	for i := a.at + 1; i < min(len(a.order), a.at+1+aheadSkip) && len(a.coming) < aheadChunks; i++ {
		next := a.order[i]
		if a.coming[next.Digest] != nil || next.Digest == digest {
			continue
		}
		if a.bytes+int64(next.Stored) > aheadBytes || a.ctx.Err() != nil {
			break
		}
		a.begin(next)
	}
	return a.order[first], found, true
}

// move finds out where the client is. If it went elsewhere, what was read in vain is dropped. The caller has a.mu.
func (a *ahead) move(digest [32]byte, first int) {
	for i := a.at; i < min(len(a.order), a.at+aheadSkip); i++ {
		if a.order[i].Digest == digest {
			a.at = i
			return
		}
	}
	a.at = first
	for d := range a.coming {
		if d != digest {
			a.drop(d)
		}
	}
}

func (a *ahead) drop(digest [32]byte) {
	a.bytes -= a.coming[digest].size
	delete(a.coming, digest)
}

// begin reads a chunk. The caller has a.mu.
func (a *ahead) begin(c format.Chunk) {
	k := &coming{size: int64(c.Stored), done: make(chan struct{})}
	a.coming[c.Digest] = k
	a.bytes += k.size
	a.reads.Go(func() {
		defer close(k.done)
		k.data, k.err = a.read(a.ctx, c)
	})
}
