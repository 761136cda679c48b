package s3

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/s3/bucket"
)

// sweepers is how many batches of deletes are under way at once.
const sweepers = 4

// remove deletes what a verdict names. The requests come to nothing if this process is stopped here for so long that
// another one may have finished the verdict.
func (c *collection) remove(ctx context.Context, p proposal) error {
	keys := make([]string, len(p.entries))
	for i, e := range p.entries {
		keys[i] = e.key
	}
	n, err := c.removeKeys(ctx, keys)
	c.report.Deleted += n
	c.counts.deleted.Add(int64(n))
	return err
}

func (c *collection) removeKeys(ctx context.Context, keys []string) (n int, err error) {
	var mu sync.Mutex
	var group sync.WaitGroup
	turn := make(chan struct{}, sweepers)
	for batch := range slices.Chunk(keys, bucket.MaxDelete) {
		issued := bucket.WithIssued(ctx, time.Now())
		if err := c.life.yes(); err != nil {
			group.Wait()
			return n, err
		}
		turn <- struct{}{}
		group.Go(func() {
			defer func() { <-turn }()
			left, err2 := c.bucket.Delete(issued, batch...)
			mu.Lock()
			defer mu.Unlock()
			n += len(batch) - len(left)
			err = errors.Join(err, err2)
		})
	}
	group.Wait()
	return n, err
}

// carryOut does what earlier collections left: it deletes what their verdicts name, closes those that are old enough,
// and removes superseded roots and documents that nothing names.
func (c *collection) carryOut(ctx context.Context, now census) error {
	for _, v := range slices.Clone(c.owner.Verdicts) {
		if v.Session != c.life.id && (slices.Contains(now.alive, v.Session) || now.ended[v.Session] != nil) {
			continue // whoever decided it may be at it
		}
		o, err := c.bucket.Head(ctx, v.Key)
		if err != nil {
			return err
		}
		p, err := c.readProposal(ctx, v.Key)
		if err != nil {
			return err
		}
		if err := c.remove(ctx, p); err != nil {
			return err
		}
		// Uploads of these keys that were given up before the verdict may have come until now, and not later.
		if now.date.Sub(o.Modified) < bucket.MaxAge {
			continue
		}
		c.owner.Verdicts = slices.DeleteFunc(c.owner.Verdicts, func(w verdict) bool { return w.Key == v.Key })
		if err := c.write(ctx); err != nil {
			return err
		}
	}
	if err := c.tidyDocuments(ctx); err != nil {
		return err
	}
	if err := c.tidyRoots(ctx); err != nil {
		return err
	}
	_, err := c.bucket.Sweep(ctx, blobs, now.date.Add(-24*time.Hour))
	return err
}

// tidyDocuments removes proposals, answers and verdicts that the register does not name: their collections are over.
func (c *collection) tidyDocuments(ctx context.Context) error {
	open := map[string]bool{c.owner.Proposal: true}
	for _, v := range c.owner.Verdicts {
		open[v.Key] = true
	}
	var gone []string
	for _, prefix := range []string{proposals, verdicts} {
		if _, err := bucket.All(ctx, c.bucket, prefix, func(page []bucket.Object) error {
			for _, o := range page {
				document, _, _ := strings.Cut(o.Key, ".")
				if !open[document] && epochOf(o.Key) < c.owner.Epoch {
					gone = append(gone, o.Key)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	_, err := c.removeKeys(ctx, gone)
	return err
}

// tidyRoots removes root objects that others superseded, and those that say that a root was released when no older one
// can come any more.
func (c *collection) tidyRoots(ctx context.Context) error {
	var gone []string
	var last bucket.Object
	alone := true // last is the only object of its root
	date, err := time.Time{}, error(nil)
	var released []bucket.Object
	end := func() {
		if alone && last.Key != "" {
			released = append(released, last)
		}
	}
	date, err = bucket.All(ctx, c.bucket, roots, func(page []bucket.Object) error {
		for _, o := range page {
			which, _, ok := splitRoot(o.Key)
			if !ok {
				continue
			}
			if strings.HasPrefix(last.Key, which+".") {
				gone = append(gone, last.Key)
				alone = false
			} else {
				end()
				alone = true
			}
			last = o
		}
		return nil
	})
	if err != nil {
		return err
	}
	end()
	for _, o := range released {
		if o.Size > maxReleased || date.Sub(o.Modified) < bucket.MaxAge {
			continue
		}
		b, _, err := c.bucket.Get(ctx, o.Key, 0, -1)
		if err != nil {
			return err
		}
		if _, none, err := decodeRootObject(o.Key, b); err != nil {
			return err
		} else if none {
			gone = append(gone, o.Key)
		}
	}
	n, err := c.removeKeys(ctx, gone)
	c.report.DeletedRoots += n
	return err
}

// maxReleased is how large an object at most is that says that a root was released: its frame, and a name.
const maxReleased = headerSize + entrySize + 2048
