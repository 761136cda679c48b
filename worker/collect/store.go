package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
)

// gather puts items into batches until no more come, and has them stored.
func (l *line) gather() {
	defer close(l.stored)
	var (
		wg      sync.WaitGroup
		pending []*item
		bytes   int
		open    int
		seen    = map[digest.Digest]bool{}
	)
	defer wg.Wait()
	flush := func() {
		batch := pending
		pending, bytes, open = nil, 0, 0
		l.storing <- struct{}{}
		wg.Go(func() {
			defer func() { <-l.storing }()
			if err := l.store(batch); !mutant.UploadIgnored {
				l.fail(err)
			}
			for _, i := range batch {
				l.drop(i)
			}
		})
	}
	for i := range l.items {
		if seen[i.digest] {
			l.drop(i)
			continue
		}
		seen[i.digest] = true
		pending = append(pending, i)
		if bytes += len(i.data); i.file != nil {
			open++
		}
		if len(pending) == batchBlobs || bytes >= batchBytes || open == batchOpen {
			flush()
		}
	}
	if len(pending) > 0 {
		flush()
	}
}

// store stores what is missing of a batch. Blobs that may be large are streamed one after the other;
// other batches are stored meanwhile.
func (l *line) store(batch []*item) error {
	if err := l.err(); err != nil {
		return err
	}
	var ds digest.Set
	for _, i := range batch {
		ds.Add(i.digest)
	}
	missing, err := l.to.Missing(l.ctx, ds)
	if err != nil {
		return fmt.Errorf("ask which outputs are missing: %w", err)
	}
	var small, large []*item
	for _, i := range batch {
		switch {
		case !missing.Has(i.digest):
		case i.file == nil && len(i.data) <= smallFile:
			small = append(small, i)
		default:
			large = append(large, i)
		}
	}
	if err := l.putAll(small); err != nil {
		return err
	}
	for _, i := range large {
		err := again(l.ctx, func() error { return l.put(i) })
		if errors.Is(err, blob.ErrMismatch) && i.file != nil {
			return refuse(i.at, "changed while it was stored")
		}
		if err != nil {
			return storeError(i, err)
		}
	}
	return nil
}

func storeError(i *item, err error) error {
	if i.at == "" {
		return fmt.Errorf("store an output directory: %w", err)
	}
	return fmt.Errorf("store output %q: %w", i.at, err)
}

// putAll stores small blobs in one go, and those that the store gave up again.
func (l *line) putAll(batch []*item) error {
	return again(l.ctx, func() error {
		if len(batch) == 0 {
			return nil
		}
		ds, data := make([]digest.Digest, len(batch)), make([][]byte, len(batch))
		for n, i := range batch {
			ds[n], data[n] = i.digest, i.data
		}
		var rest []*item
		var failed error
		for n, err := range l.to.PutAll(l.ctx, ds, data) {
			if err == nil {
				continue
			}
			rest = append(rest, batch[n])
			// What can't be tried again counts more.
			if failed == nil || errors.Is(failed, blob.ErrAborted) {
				failed = storeError(batch[n], err)
			}
		}
		batch = rest
		return failed
	})
}

// put streams one blob.
func (l *line) put(i *item) error {
	var from io.Reader = bytes.NewReader(i.data)
	if i.file != nil {
		from = io.NewSectionReader(i.file, 0, i.digest.Size)
	}
	return put(l.ctx, l.to, i.digest, from)
}

// put stores the bytes of from as d.
func put(ctx context.Context, to blob.Store, d digest.Digest, from io.Reader) error {
	w, err := to.Create(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	buffer := make([]byte, min(d.Size, readSize))
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := from.Read(buffer)
		if _, err := w.Write(buffer[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return w.Commit()
		}
		if err != nil {
			return err
		}
	}
}

// again calls do until it succeeds, fails with something else than an upload given up, or has failed
// often.
func again(ctx context.Context, do func() error) error {
	pause := 50 * time.Millisecond
	for try := 1; ; try++ {
		err := do()
		if err == nil || !errors.Is(err, blob.ErrAborted) || try == attempts || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause *= 4
	}
}
