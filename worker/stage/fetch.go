package stage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/mutant"
	"github.com/sarsen-build/sarsen/internal/sim"
	"github.com/sarsen-build/sarsen/internal/vfs"
)

const (
	// smallBlob is the largest blob that is fetched in a batch.
	smallBlob = 1 << 20
	// attempts is how often a blob is asked for that failed in another way than by being absent.
	attempts = 3
	// pause is how long the first of them waits; each further one waits four times as long.
	pause = 50 * time.Millisecond
	// requests is how many batches and large blobs one call fetches at once.
	requests = 64
)

// A fetch gets the blobs that one Stage call needs, and links them where they belong.
type fetch struct {
	ctx    context.Context
	fail   context.CancelCauseFunc
	stager *Stager
	top    vfs.Dir
	wg     sync.WaitGroup
	slots  chan struct{}

	mu      sync.Mutex
	wants   map[digest.Key]*want
	small   []*want // that no batch has yet
	bytes   int64   // of them
	missing digest.Set
	stats   Stats
}

// A want is a blob that is needed.
type want struct {
	digest digest.Digest
	places []place // where it is to be linked; under the fetch's mutex
}

// A place is a name in the tree.
type place struct {
	path       string // below the root
	executable bool
}

var errMissing = errors.New("inputs are missing")

func newFetch(ctx context.Context, fail context.CancelCauseFunc, s *Stager, top vfs.Dir) *fetch {
	return &fetch{
		ctx: ctx, fail: fail, stager: s, top: top,
		slots: make(chan struct{}, requests),
		wants: map[digest.Key]*want{},
	}
}

// want asks for d at a place.
func (f *fetch) want(d digest.Digest, at place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.wants[d.Key()]; w != nil {
		w.places = append(w.places, at)
		return
	}
	w := &want{digest: d, places: []place{at}}
	f.wants[d.Key()] = w
	if d.Size > smallBlob {
		f.wg.Go(func() { f.run([]*want{w}) })
		return
	}
	if f.bytes+d.Size > batchBytes || len(f.small) == batchBlobs {
		f.send()
	}
	f.small = append(f.small, w)
	f.bytes += d.Size
}

// flush sends the last batch.
func (f *fetch) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.send()
}

// send begins to fetch a batch. The caller holds the mutex.
func (f *fetch) send() {
	ws := f.small
	f.small, f.bytes = nil, 0
	if len(ws) > 0 {
		f.wg.Go(func() { f.run(ws) })
	}
}

// wait returns when nothing is fetched any more.
func (f *fetch) wait() { f.wg.Wait() }

// lost returns what the source lacks.
func (f *fetch) lost() []digest.Digest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.missing.List()
}

func (f *fetch) count(s *Stats) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Fetched, s.FetchedBytes, s.Awaited, s.Private = f.stats.Fetched, f.stats.FetchedBytes, f.stats.Awaited, f.stats.Private
}

// run fetches ws, or waits for others who do. It holds a slot only while it fetches.
func (f *fetch) run(ws []*want) {
	for len(ws) > 0 && f.ctx.Err() == nil {
		sim.Point("stage: files looked up")
		var mine, others []*want
		var theirs []<-chan struct{}
		for _, w := range ws {
			if flight := f.stager.blobs.claim(w.digest.Key()); flight != nil {
				others, theirs = append(others, w), append(theirs, flight)
			} else {
				mine = append(mine, w)
			}
		}
		again, err := f.fetchMine(mine)
		if err != nil {
			f.fail(err)
			return
		}
		for i, w := range others {
			if await(f.ctx, theirs[i]) != nil {
				return
			}
			if f.present(w.digest) && f.settle(w, nil) {
				f.mu.Lock()
				f.stats.Awaited++
				f.mu.Unlock()
			} else {
				again = append(again, w)
			}
		}
		ws = again
	}
}

// present reports whether the store has d, and leases it.
func (f *fetch) present(d digest.Digest) bool {
	missing, err := f.stager.o.Files.Missing(f.ctx, digest.SetOf(d))
	return err == nil && missing.Len() == 0
}

// fetchMine fetches what this call has claimed, and lets go of it. again is what was in the store, but could
// not be linked.
func (f *fetch) fetchMine(ws []*want) (again []*want, err error) {
	if len(ws) == 0 {
		return nil, nil
	}
	defer func() {
		for _, w := range ws {
			f.stager.blobs.land(w.digest.Key())
		}
	}()
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-f.ctx.Done():
		return nil, context.Cause(f.ctx)
	}
	var ask []*want
	var bytes int64
	for _, w := range ws {
		// Another call may have been through just before.
		if !mutant.NoSecondLook && f.present(w.digest) && f.settle(w, nil) {
			continue
		}
		ask = append(ask, w)
		bytes += w.digest.Size
	}
	if len(ask) == 0 {
		return nil, nil
	}
	if len(ask) == 1 && ask[0].digest.Size > smallBlob {
		return nil, f.fetchLarge(ask[0])
	}
	n, err := f.stager.budget.take(f.ctx, bytes)
	if err != nil {
		return nil, err
	}
	defer f.stager.budget.giveBack(n)
	return nil, f.fetchSmall(ask)
}

// fetchSmall fetches a batch, and one by one what failed in it, up to the first that fails for good: all others of a
// dead source would take as long again.
func (f *fetch) fetchSmall(ws []*want) error {
	ds := make([]digest.Digest, len(ws))
	for i, w := range ws {
		ds[i] = w.digest
	}
	data, errs := f.stager.o.Source.GetAll(f.ctx, ds)
	for i, w := range ws {
		if errs[i] != nil && !errors.Is(errs[i], blob.ErrNotFound) {
			data[i], errs[i] = f.again(w.digest, errs[i])
			if errs[i] != nil && !errors.Is(errs[i], blob.ErrNotFound) {
				return errs[i]
			}
		}
	}
	return f.arrived(ws, ds, data, errs)
}

// again asks for one blob after an error.
func (f *fetch) again(d digest.Digest, err error) ([]byte, error) {
	wait := pause
	for range attempts - 1 {
		if !f.sleep(wait) {
			return nil, err
		}
		wait *= 4
		data, errs := f.stager.o.Source.GetAll(f.ctx, []digest.Digest{d})
		if err = errs[0]; err == nil || errors.Is(err, blob.ErrNotFound) {
			return data[0], err
		}
	}
	return nil, err
}

// arrived stores and links what a batch brought.
func (f *fetch) arrived(ws []*want, ds []digest.Digest, data [][]byte, errs []error) error {
	have := 0
	for i, w := range ws {
		switch {
		case errors.Is(errs[i], blob.ErrNotFound):
			f.lose(w.digest)
		case errs[i] != nil:
			return errs[i]
		default:
			ws[have], ds[have], data[have] = w, ds[i], data[i]
			have++
		}
	}
	ws, ds, data = ws[:have], ds[:have], data[:have]
	for i, err := range f.stager.o.Files.PutAll(f.ctx, ds, data) {
		if err != nil && !wantsBytes(err) {
			return err // ErrMismatch too: the source gave other bytes
		}
		f.mu.Lock()
		f.stats.Fetched++
		f.stats.FetchedBytes += ds[i].Size
		f.mu.Unlock()
		if !f.settle(ws[i], data[i]) {
			return f.ctx.Err()
		}
	}
	return nil
}

// lose notes that the source lacks d, and ends the whole call: there will be no tree.
func (f *fetch) lose(d digest.Digest) {
	f.mu.Lock()
	f.missing.Add(d)
	f.mu.Unlock()
	f.fail(errMissing)
}
