package redis

import (
	"context"
	"errors"
	"io"

	"github.com/sarsen-build/sarsen/s3/bucket"
	"github.com/sarsen-build/sarsen/s3/naming"
)

// Bucket returns b for the store that Store is put around. What is put there is announced; what a call of that Store looks for or
// reads is asked of Redis first. All other calls are b's own: collections and checks see the bucket as it is.
func (c *Client) Bucket(b bucket.Bucket) bucket.Bucket { return &announcing{b, c} }

type announcing struct {
	bucket.Bucket
	client *Client
}

// Put implements bucket.Bucket. When it returns, the object was announced, or Redis is not well.
func (a *announcing) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
	o, err := a.Bucket.Put(ctx, key, body, size, when)
	if err != nil {
		return o, err
	}
	lookup, ok := lookupOf(key)
	if !ok {
		return o, nil
	}
	e := entry{name: key}
	if a.client.small(key) && size <= maxObject {
		object := make([]byte, size)
		if n, _ := body.ReadAt(object, 0); int64(n) == size {
			e = a.client.entryOf(key, object)
		}
	}
	wait(ctx, a.client.announce(lookup, e))
	return o, nil
}

// maxObject is how many bytes an object has at most that is looked at at all.
const maxObject = 4 << 20

// small reports whether an object may lie in Redis, as far as its name says.
func (c *Client) small(name string) bool {
	if isRecord(name) {
		return c.o.MaxRecord > 0
	}
	n := sizeOf(name)
	return n >= 0 && n <= c.o.MaxBlob
}

// entryOf returns the entry of an object that is small as far as its name says.
func (c *Client) entryOf(name string, object []byte) entry {
	if len(object) == 0 || isRecord(name) && int64(len(object)) > c.o.MaxRecord {
		return entry{name: name}
	}
	return entry{name, object}
}

// Get implements bucket.Bucket.
func (a *announcing) Get(ctx context.Context, key string, off, n int64) ([]byte, bucket.Object, error) {
	k := callOf(ctx)
	lookup, ok := lookupOf(key)
	if k == nil || !ok || off != 0 || n >= 0 || !a.client.small(key) {
		return a.Bucket.Get(ctx, key, off, n)
	}
	if object := k.take(ctx, lookup, key); object != nil {
		a.client.counts.served.Add(1)
		return object, bucket.Object{Key: key, Size: int64(len(object))}, nil
	}
	object, o, err := a.Bucket.Get(ctx, key, off, n)
	if err == nil {
		a.client.announce(lookup, a.client.entryOf(key, object)) // nobody waits for it
	}
	return object, o, err
}

// List implements bucket.Bucket. A look for one blob is answered with the object that was announced, if it is there.
func (a *announcing) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	k := callOf(ctx)
	if k == nil || after != "" || !naming.IsBlob(prefix) {
		return a.Bucket.List(ctx, prefix, after)
	}
	if e := k.entry(ctx, prefix); k.look(e.name) {
		o, err := a.Bucket.Head(ctx, e.name)
		if a.client.found(prefix, e.name, err) {
			k.list(e.name)
			return bucket.Page{Objects: []bucket.Object{o}}, nil
		}
	}
	return a.Bucket.List(ctx, prefix, after)
}

// found counts what came of looking for an object that was announced. One that is gone is announced no more.
func (c *Client) found(lookup, name string, err error) bool {
	if err == nil {
		c.counts.adopted.Add(1)
		return true
	}
	if errors.Is(err, bucket.ErrNotFound) {
		c.counts.stale.Add(1)
		c.forget(lookup, name)
	}
	return false
}
