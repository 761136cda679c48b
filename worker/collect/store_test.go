package collect_test

//lint:file-ignore SA1019 clients of API 2.0 use the old fields

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/worker/collect"
)

// A watched store notes what is asked of it, and does as it is told in between.
type watched struct {
	*model.Store
	asked   func() error // called by each Missing
	put     func() error // called for each blob that is put in a batch, and for each Commit
	puts    atomic.Int64 // blobs that were put
	askings atomic.Int64
}

func (w *watched) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	w.askings.Add(1)
	if w.asked != nil {
		if err := w.asked(); err != nil {
			return digest.Set{}, err
		}
	}
	return w.Store.Missing(ctx, ds)
}

func (w *watched) PutAll(ctx context.Context, ds []digest.Digest, data [][]byte) []error {
	errs := make([]error, len(ds))
	for i := range ds {
		if w.put != nil {
			if errs[i] = w.put(); errs[i] != nil {
				continue
			}
		}
		w.puts.Add(1)
		errs[i] = blob.Put(ctx, w.Store, ds[i], data[i])
	}
	return errs
}

func (w *watched) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	w.puts.Add(1)
	inner, err := w.Store.Create(ctx, d)
	return watchedWriter{inner, w}, err
}

type watchedWriter struct {
	blob.Writer
	store *watched
}

func (w watchedWriter) Commit() error {
	if w.store.put != nil {
		if err := w.store.put(); err != nil {
			return err
		}
	}
	return w.Writer.Commit()
}

func (r *rig) collectTo(w *watched, names ...string) (*repb.ActionResult, error) {
	w.Store = r.store
	return collect.Collect(r.t.Context(), r.root, &repb.Command{OutputPaths: names}, digest.SHA256, w, collect.Options{})
}

func (r *rig) write(name string, data []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), data, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// What is there is asked for and not sent.
func TestOnlyWhatIsMissingIsStored(t *testing.T) {
	r := newRig(t, "d/a same", "d/b same", "d/c other")
	r.write("d/large", storetest.Bytes(1, 1<<20))
	first, second := new(watched), new(watched)
	got, err := r.collectTo(first, "d")
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.collectTo(second, "d")
	if err != nil {
		t.Fatal(err)
	}
	want(t, again, got)
	if first.puts.Load() != 4 || second.puts.Load() != 0 {
		t.Errorf("%d blobs were stored, and then %d; want 4 and none", first.puts.Load(), second.puts.Load())
	}
	if n := first.askings.Load(); n != 1 {
		t.Errorf("it was asked %d times, want once for so little", n)
	}
}

// A large file is read once to hash it and once to send it. Between them it is given other bytes.
func TestChangedBetweenHashAndStore(t *testing.T) {
	r := newRig(t)
	r.write("f", storetest.Bytes(1, 1<<20))
	w := &watched{asked: func() error {
		r.write("f", storetest.Bytes(2, 1<<20))
		return nil
	}}
	_, err := r.collectTo(w, "f")
	wantError(t, err, collect.ErrRefused, `"f"`, "changed")
}

func TestAbortedUploadsAreTriedAgain(t *testing.T) {
	for _, c := range []struct {
		aborts int64
		is     error
	}{{0, nil}, {3, nil}, {1000, blob.ErrAborted}} {
		for _, size := range []int{10, 1 << 20} {
			r := newRig(t)
			r.write("f", storetest.Bytes(1, size))
			var tries atomic.Int64
			w := &watched{put: func() error {
				if tries.Add(1) <= c.aborts {
					return fmt.Errorf("put: %w", blob.ErrAborted)
				}
				return nil
			}}
			got, err := r.collectTo(w, "f")
			if !errors.Is(err, c.is) {
				t.Errorf("%d bytes, aborted %d times: %v, want %v", size, c.aborts, err, c.is)
			}
			if err == nil {
				r.complete(got)
			}
		}
	}
}

// A store that fails fails the collection, with the output's name, and at once.
func TestStoreFails(t *testing.T) {
	full := fmt.Errorf("put: %w", blob.ErrFull)
	for _, size := range []int{10, 1 << 20} {
		r := newRig(t)
		r.write("f", storetest.Bytes(1, size))
		_, err := r.collectTo(&watched{put: func() error { return full }}, "f")
		wantError(t, err, blob.ErrFull, `"f"`)
	}
	r := newRig(t, "d/1 1", "d/2 2")
	gone := errors.New("the network is gone")
	if got, err := r.collectTo(&watched{asked: func() error { return gone }}, "d"); got != nil || !errors.Is(err, gone) {
		t.Errorf("got %v, %v, want %v", got, err, gone)
	}
}

// A collection that is cancelled while it stores ends with why, whatever waits for what.
func TestCancelled(t *testing.T) {
	r := newRig(t)
	for i := range 50 {
		r.write(fmt.Sprint("f", i), storetest.Bytes(uint64(i), 200_000))
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{Store: r.store, asked: func() error {
		cancel()
		return nil
	}}
	_, err := collect.Collect(ctx, r.root, &repb.Command{OutputDirectories: []string{""}}, digest.SHA256, w, collect.Options{Memory: 1, Parallel: 1})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// A file that changes after it was opened is refused, though nobody else would notice: what was read of it
// is what is stored. The store takes its time until memory is used up and the last file has been opened.
func TestChangedAfterOpen(t *testing.T) {
	r := newRig(t)
	var names []string
	for i := range 18 {
		names = append(names, fmt.Sprintf("f%02d", i))
		r.write(names[i], storetest.Bytes(uint64(i), 250_000))
	}
	last := filepath.Join(r.dir, "f17")
	var first sync.Once
	w := &watched{Store: r.store, asked: func() (err error) {
		first.Do(func() {
			for !isOpen(t, last) {
				time.Sleep(time.Millisecond)
			}
			err = os.Chtimes(last, time.Unix(1, 0), time.Unix(1, 0))
		})
		return err
	}}
	_, err := collect.Collect(t.Context(), r.root, &repb.Command{OutputPaths: names}, digest.SHA256, w, collect.Options{Memory: 1, Parallel: 1})
	wantError(t, err, collect.ErrRefused, `"f17"`, "changed while it was read")
}

// isOpen reports whether this process has the file open.
func isOpen(t *testing.T, name string) bool {
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Error(err)
		return true
	}
	for _, d := range descriptors {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", d.Name())); err == nil && to == name {
			return true
		}
	}
	return false
}
