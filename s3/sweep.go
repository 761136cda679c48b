package s3

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// sweepers is how many batches of deletes are under way at once.
const sweepers = 4

// remove deletes what a verdict names. The requests come to nothing if this process is stopped here for so long that
// another one may have finished the verdict. It returns how many of them are gone, those included that went before.
func (c *collection) remove(ctx context.Context, p proposal) (int, error) {
	keys := make([]string, len(p.lines))
	for i, l := range p.lines {
		keys[i] = l.key
	}
	return c.removeKeys(ctx, keys)
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
// and removes documents that nothing names, and uploads that nobody will end.
func (c *collection) carryOut(ctx context.Context, now census) error {
	for _, v := range slices.Clone(c.register.Verdicts) {
		if v.Session != c.life.id && (slices.Contains(now.alive, v.Session) || now.ended[v.Session] != nil) {
			continue // whoever decided it may be at it
		}
		o, err := c.bucket.Head(ctx, v.Key)
		if err != nil {
			return err
		}
		p, err := c.readProposal(ctx, v.Key)
		if errors.Is(err, blob.ErrCorrupt) {
			// Its session is gone, or was done with it long ago, so no delete can come any more. What is left of its keys is
			// found again.
			if v.Session == c.life.id && now.date.Sub(o.Modified) < 24*time.Hour {
				continue
			}
			p, err = proposal{}, nil
		}
		if err != nil {
			return err
		}
		if _, err := c.remove(ctx, p); err != nil {
			if len(c.register.Verdicts) >= maxVerdicts {
				return err
			}
			// One object that can't be removed, as a lock may have it, is no reason to remove no other.
			c.log.Warn("not all that may go could be removed; the next collection tries again", "verdict", v.Key, "error", err)
			continue
		}
		// Uploads of these keys that were given up before the verdict may have come until now, and not later.
		if now.date.Sub(o.Modified) < bucket.MaxAge {
			continue
		}
		c.register.Verdicts = slices.DeleteFunc(c.register.Verdicts, func(w verdict) bool { return w.Key == v.Key })
		if err := c.write(ctx); err != nil {
			return err
		}
	}
	if err := c.tidyDocuments(ctx); err != nil {
		return err
	}
	if _, err := c.bucket.Sweep(ctx, blobs, now.date.Add(-24*time.Hour)); err != nil {
		// The credentials may not allow it; what it costs is room.
		c.log.Warn("uploads that were given up could not be ended", "error", err)
	}
	return nil
}

// maxVerdicts is with how many verdicts that can't be carried out there is no other one: every server remembers their keys.
const maxVerdicts = 64

// tidyDocuments removes proposals, answers and verdicts that the register does not name: their collections are over.
func (c *collection) tidyDocuments(ctx context.Context) error {
	open := map[string]bool{c.register.Proposal: true}
	for _, v := range c.register.Verdicts {
		open[v.Key] = true
	}
	var gone []string
	for _, prefix := range []string{proposals, verdicts} {
		if _, err := bucket.All(ctx, c.bucket, prefix, func(page []bucket.Object) error {
			for _, o := range page {
				document, _, _ := strings.Cut(o.Key, ".") // which the answers have
				if !open[document] && epochOf(o.Key) < c.register.Epoch {
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
func (c *collection) tidyRoots(ctx context.Context, m *marks) error {
	var gone []string
	var alone []bucket.Object // the only ones of their roots
	var superseded []bucket.Object
	date, err := c.eachRoot(ctx, roots, func(objects []bucket.Object) {
		newest := objects[len(objects)-1]
		if len(objects) == 1 {
			alone = append(alone, newest)
		}
		if m.spoiled(newest.Key) {
			return
		}
		superseded = append(superseded, objects[:len(objects)-1]...)
	})
	if err != nil {
		return err
	}
	for _, o := range superseded {
		// While somebody who has not seen it may still create its name, it has to be there.
		if date.Sub(o.Modified) >= bucket.MaxAge || mutant.SupersededEarly {
			gone = append(gone, o.Key)
		}
	}
	for _, o := range alone {
		released, err := c.releasedLongAgo(ctx, o, date)
		if err != nil {
			return err
		}
		if released {
			gone = append(gone, o.Key)
		}
	}
	n, err := c.removeKeys(ctx, gone)
	c.report.DeletedRoots += n
	return err
}

// releasedLongAgo reports whether an object says that its root was released, and is so old that whoever wanted to write
// an older one can't any more.
func (c *collection) releasedLongAgo(ctx context.Context, o bucket.Object, now time.Time) (bool, error) {
	if _, _, chain, _ := splitRoot(o.Key); chain == firstChain || o.Size > maxReleased || now.Sub(o.Modified) < bucket.MaxAge {
		return false, nil
	}
	b, _, err := c.bucket.Get(ctx, o.Key, 0, -1)
	if err != nil {
		return false, err
	}
	_, released, err := decodeRootObject(o.Key, b)
	return err == nil && released, nil
}

// maxReleased is how large an object at most is that says that a root was released: its frame, and a name.
const maxReleased = headerSize + rowSize + 2048
