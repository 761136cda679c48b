package pbs

import (
	"context"

	"github.com/sarsen-build/sarsen/digest"
)

// A collected is what a collection counted, under the names of the original. Nothing is left to collect: what no root
// holds is the store's to evict, at once or when it needs room.
type collected struct {
	UPID          string `json:"upid,omitempty"`
	IndexFiles    int64  `json:"index-file-count"`
	IndexBytes    int64  `json:"index-data-bytes"` // of all archives, as if nothing were shared
	DiskBytes     int64  `json:"disk-bytes"`       // of what is held, each once
	DiskChunks    int64  `json:"disk-chunks"`
	RemovedBytes  int64  `json:"removed-bytes"`
	RemovedChunks int64  `json:"removed-chunks"`
	PendingBytes  int64  `json:"pending-bytes"`
	PendingChunks int64  `json:"pending-chunks"`
	RemovedBad    int64  `json:"removed-bad"`
	StillBad      int64  `json:"still-bad"`
}

func (d *datastore) collectedLast() collected {
	if c := d.lastGC.Load(); c != nil {
		return *c
	}
	return collected{}
}

func (q *request) gcStatus(d *datastore) (any, error) { return d.collectedLast(), nil }

// gc counts what is held.
func (q *request) gc(d *datastore) (any, error) {
	if !q.account.may(d.Name, "", Prune) {
		return nil, forbidden("prune")
	}
	return q.server.begin("garbage_collection", d.Name, q.account.Name, func(ctx context.Context, t *task) error {
		c, err := d.count(ctx)
		if err != nil {
			return err
		}
		c.UPID = t.id
		d.lastGC.Store(&c)
		t.logf("%d index files refer to %d bytes", c.IndexFiles, c.IndexBytes)
		t.logf("%d chunks of %d bytes are held", c.DiskChunks, c.DiskBytes)
		t.logf("what no snapshot holds is removed when the store needs room")
		return nil
	}), nil
}

func (d *datastore) count(ctx context.Context) (c collected, err error) {
	all, err := d.namespaces(ctx, "", maxDepth)
	if err != nil {
		return c, err
	}
	seen := map[digest.Key]struct{}{}
	for _, ns := range all {
		err := d.each(ctx, ns, "", "", func(s *snapshot) error {
			for _, f := range s.Files {
				if isIndex(f.Name) {
					c.IndexFiles++
					c.IndexBytes += int64(f.Size)
				}
			}
			chunks, err := d.chunks(ctx, s)
			if err != nil {
				return err
			}
			for i := range chunks.Len() {
				b := blobOf(chunks.At(i))
				if _, ok := seen[b.Key()]; !ok {
					seen[b.Key()] = struct{}{}
					c.DiskChunks++
					c.DiskBytes += b.Size
				}
			}
			return nil
		})
		if err != nil {
			return c, err
		}
	}
	return c, nil
}
