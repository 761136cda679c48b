// Package gocache is a build cache for the go command: what GOCACHEPROG starts.
//
// The go command writes requests and bodies as JSON on standard input and reads answers on standard output
// (go doc cmd/go/internal/cacheprog). What it puts is kept in a local directory, which all go commands of a
// user share, and sent to a Remote Execution API server in the background. What it asks for comes from the
// directory or, verified, from the server.
//
// An entry at the server is an action result with one output file, under the digest of a text that names the
// Go action. So it is complete or absent. The output's blob has the hash by which Go itself calls it.
//
// # Invariants
//
//   - No build fails for the cache. A server that is away, slow or full, and files that are damaged or gone,
//     are misses. A directory that can't be written is replaced by a temporary one for the process's life.
//   - WholeEntry: a hit's file has exactly the bytes that were put. A file is verified before it gets its
//     name, and again when it may have changed since (seal.go).
//   - OpenHolds: a file that was named to a go command stays until that process closes. The trimmer
//     (trim.go) spares what was used since the oldest process that lives began.
//   - Bounded: the directory (trim.go), the uploads that wait, each lookup and the wait at the end.
//
// # Concurrency
//
// Package files was not used: it gives its directory to one process, and forgets it when the machine starts. Here
// any number of processes share one. Whoever looks up or publishes holds a shared lock of the file lock
// for that moment, and who trims has it exclusively; nobody holds it while waiting for the network or
// writing a body, and nobody waits long for it.
//
// In a process, one goroutine reads requests and bodies. Lookups run in goroutines of their own; one
// goroutine uploads.
//
// # Crashes
//
// Names appear by rename when the bytes are written. A kill leaves parts, which the next trimmer removes.
// Nothing is synced: after the machine stops, each file is hashed before its first use.
package gocache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// Options say where a cache keeps its entries.
type Options struct {
	// Dir is the local directory, which is made if need be.
	Dir string
	// GoCache is Go's own cache: files that are named to the go command seem to lie there (directory.go). None if "".
	GoCache string
	// MaxSize is how many bytes of disk the directory is trimmed to.
	MaxSize int64
	// Conn leads to the server, whose instance is Instance. Without it, there is the directory alone.
	Conn     grpc.ClientConnInterface
	Instance string
	// ReadOnly uploads nothing.
	ReadOnly bool
	// Timeout is how long the server may take for an answer, and for the next bytes of a blob: 3 s if 0.
	Timeout time.Duration
	// Flush is how long Serve waits at the end for uploads: 30 s if 0.
	Flush time.Duration
	Log   *slog.Logger
}

// Stats are what a Cache did.
type Stats struct {
	Local, Remote, Misses int64 // gets
	Puts                  int64
	Uploaded, Dropped     int64 // puts that the server has, and those that it won't get
}

// A Cache serves one go command.
type Cache struct {
	o      Options
	near   *directory // or nil, if it could not be opened
	far    *remote    // or nil
	counts struct{ local, remote, misses, puts atomic.Int64 }

	spareOnce sync.Once
	spare     atomic.Pointer[directory] // replaces near where that fails
}

// Open opens the cache. It needs no server to be there, nor that the directory can be written.
func Open(o Options) *Cache {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout <= 0 {
		o.Timeout = 3 * time.Second
	}
	if o.Flush <= 0 {
		o.Flush = 30 * time.Second
	}
	c := &Cache{o: o}
	var err error
	if c.near, err = openDirectory(o.Dir, o.GoCache); err != nil {
		o.Log.Warn("the directory can't be used", "dir", o.Dir, "error", err)
	}
	if o.Conn != nil {
		c.far = newRemote(o)
	}
	return c
}

// Stats returns what the cache did so far.
func (c *Cache) Stats() Stats {
	s := Stats{
		Local: c.counts.local.Load(), Remote: c.counts.remote.Load(),
		Misses: c.counts.misses.Load(), Puts: c.counts.puts.Load(),
	}
	if c.far != nil {
		s.Uploaded, s.Dropped = c.far.uploaded.Load(), c.far.dropped.Load()
	}
	return s
}

// places returns the directories that there are, the one to prefer first.
func (c *Cache) places() []*directory {
	var ds []*directory
	if c.near != nil {
		ds = append(ds, c.near)
	}
	if s := c.spare.Load(); s != nil {
		ds = append(ds, s)
	}
	return ds
}

// substitute returns the temporary directory, which it makes the first time.
func (c *Cache) substitute() (*directory, error) {
	var err error
	c.spareOnce.Do(func() {
		var d *directory
		if d, err = openTemporary(c.o.GoCache); err == nil {
			c.spare.Store(d)
		}
	})
	if d := c.spare.Load(); d != nil {
		return d, nil
	}
	return nil, errors.Join(errors.New("no directory can be written"), err)
}

// get returns the entry of an action, or false.
func (c *Cache) get(ctx context.Context, action id) (entry, string, bool) {
	for _, d := range c.places() {
		if e, name, ok := d.get(action); ok {
			c.counts.local.Add(1)
			return e, name, true
		}
	}
	if c.far != nil {
		if e, name, ok := c.fetch(ctx, action); ok {
			c.counts.remote.Add(1)
			return e, name, true
		}
	}
	c.counts.misses.Add(1)
	return entry{}, "", false
}

// fetch brings an entry from the server into a directory.
func (c *Cache) fetch(ctx context.Context, action id) (e entry, name string, ok bool) {
	found, ok := c.far.find(ctx, action)
	if !ok {
		return e, "", false
	}
	p, err := c.begin()
	if err != nil {
		return e, "", false
	}
	defer func() { p.discard() }()
	if err = c.far.copy(ctx, found, p.file); p.dir.failed(err) {
		if p, err = c.move(p, 0); err == nil {
			err = c.far.copy(ctx, found, p.file)
		}
	}
	if err != nil {
		return e, "", false
	}
	e = entry{action: action, output: found.output, content: found.output, size: found.size, time: found.time}
	if p, name, err = c.publish(p, e); err != nil {
		return e, "", false
	}
	return e, name, true
}

// put keeps body, of size bytes, as the output of an action, and returns the name of its file.
func (c *Cache) put(action, output id, body io.Reader, size int64) (string, error) {
	c.counts.puts.Add(1)
	p, content, err := c.write(body, size)
	defer func() { p.discard() }()
	if err != nil {
		return "", err
	}
	e := entry{action: action, output: output, content: content, size: size, time: time.Now()}
	p, name, err := c.publish(p, e)
	if err != nil {
		return "", err
	}
	// The server knows blobs by their SHA-256 only. Go calls outputs so too.
	if c.far != nil && output == content {
		c.far.enqueue(upload{entry: e, file: name})
	}
	return name, nil
}

// publish names what p holds. Where that can't be, the temporary directory takes it.
func (c *Cache) publish(p *part, e entry) (*part, string, error) {
	name, err := p.dir.publish(p, e)
	if err == nil {
		return p, name, nil
	}
	p.dir.failed(err)
	c.o.Log.Warn("an entry can't be kept", "dir", p.dir.name, "error", err)
	q, moved := c.move(p, e.size)
	if moved != nil {
		return p, "", errors.Join(err, moved)
	}
	name, err = q.dir.publish(q, e)
	return q, name, err
}

// close ends the cache: uploads that wait get their time, then the directory is let go of. It returns what
// remains to be done when nobody waits any more.
func (c *Cache) close(flush bool) (trim func()) {
	if c.far != nil {
		wait := c.o.Flush
		if !flush {
			wait = 0
		}
		c.far.close(wait)
	}
	return func() {
		if c.near != nil {
			if err := c.near.close(c.o.MaxSize); err != nil {
				c.o.Log.Warn("the directory can't be trimmed", "dir", c.o.Dir, "error", err)
			}
		}
		if d := c.spare.Load(); d != nil {
			d.remove()
		}
	}
}
