package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sarsen-build/sarsen/action"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/server"
	"github.com/sarsen-build/sarsen/upstream"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		r := newRig(t, upstream.Options{})
		return storetest.Fixture{
			Store: r.store,
			Lease: time.Hour,
			Wire:  true,
			// A batch, a stream, and ranges at once.
			Sizes: []int{1, 1000, 2<<20 + 1},
			Evict: r.behind.Evict,
			Leaks: func() error {
				// The server closes what it reads after the client has gone.
				for range 1000 {
					if r.behind.Pins() == 0 {
						return nil
					}
					time.Sleep(time.Millisecond)
				}
				return fmt.Errorf("%d pins are held", r.behind.Pins())
			},
			Close: func() {},
		}
	})
}

func TestMissingInPortions(t *testing.T) {
	r := newRig(t, upstream.Options{})
	var ds, want digest.Set
	for i := range 60_000 {
		data := fmt.Append(nil, i)
		d := digest.Functions[i%2].Of(data)
		ds.Add(d)
		if i%1000 != 7 {
			want.Add(d)
		} else if err := blob.Put(t.Context(), r.behind, d, data); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.store.Missing(t.Context(), ds)
	if err != nil {
		t.Fatal(err)
	}
	if got.Len() != want.Len() {
		t.Fatalf("%d are missing, want %d", got.Len(), want.Len())
	}
	for i, d := range got.List() {
		if d != want.List()[i] {
			t.Fatalf("missing[%d] = %v, want %v", i, d, want.List()[i])
		}
	}
	if n := r.calls.of("FindMissingBlobs"); n != 4 {
		t.Errorf("%d calls, want 2 for each function", n)
	}
}

func TestBatchesStayBelowTheLimit(t *testing.T) {
	r := newRig(t, upstream.Options{})
	var ds []digest.Digest
	var data [][]byte
	for i := range 100 {
		one := storetest.Bytes(uint64(i), 100_000)
		data, ds = append(data, one), append(ds, digest.SHA256.Of(one))
	}
	for i, err := range r.store.PutAll(t.Context(), ds, data) {
		if err != nil {
			t.Fatalf("PutAll[%d] = %v", i, err)
		}
	}
	got, errs := r.store.GetAll(t.Context(), ds)
	for i := range ds {
		if errs[i] != nil || !bytes.Equal(got[i], data[i]) {
			t.Fatalf("GetAll[%d] = %d bytes, %v", i, len(got[i]), errs[i])
		}
	}
	if u, g := r.calls.of("BatchUpdateBlobs"), r.calls.of("BatchReadBlobs"); u != 3 || g != 3 {
		t.Errorf("10 MB went in %d and came in %d calls, want 3 and 3", u, g)
	}
	if n := r.calls.of("GetCapabilities"); n != 1 {
		t.Errorf("the capabilities were asked for %d times, want once", n)
	}
}

func TestSequentialReadIsOneStream(t *testing.T) {
	r := newRig(t, upstream.Options{})
	d, want := r.putNew(1, 5<<20)
	b, err := r.store.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if n := r.calls.of("Read"); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
	part := make([]byte, 100)
	if n, err := b.ReadAt(part, 3<<20); n != 100 || err != nil || !bytes.Equal(part, want[3<<20:][:100]) {
		t.Errorf("a range: %d bytes, %v", n, err)
	}
	// The whole can be read again, by many at once.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("read again %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

// A writerAt notes which bytes were written.
type writerAt struct {
	mu   sync.Mutex
	data []byte
	n    int
}

func (w *writerAt) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += len(p)
	return copy(w.data[off:], p), nil
}

func TestCopy(t *testing.T) {
	r := newRig(t, upstream.Options{})
	for i, c := range []struct{ size, streams int }{{0, 0}, {10, 1}, {5 << 20, 1}, {8 << 20, 2}, {17<<20 + 1, 5}} {
		d, want := r.putNew(uint64(i), c.size)
		before := r.calls.of("Read")
		to := &writerAt{data: make([]byte, c.size)}
		if err := r.store.Copy(t.Context(), d, to); err != nil || !bytes.Equal(to.data, want) || to.n != c.size {
			t.Errorf("%d bytes: %v, %d written", c.size, err, to.n)
		}
		if got := r.calls.of("Read") - before; got != c.streams {
			t.Errorf("%d bytes came in %d streams, want %d", c.size, got, c.streams)
		}
	}
	absent := digest.SHA256.Of([]byte("absent"))
	for _, size := range []int64{absent.Size, 20 << 20} {
		absent.Size = size
		if err := r.store.Copy(t.Context(), absent, &writerAt{}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Copy of %d absent bytes = %v, want ErrNotFound", size, err)
		}
	}
}

// A write that fails ends the copy, and no other write comes after its return.
func TestCopyToWhatFails(t *testing.T) {
	r := newRig(t, upstream.Options{})
	d, _ := r.putNew(1, 20<<20)
	full := errors.New("no room")
	if err := r.store.Copy(t.Context(), d, failing{full}); !errors.Is(err, full) {
		t.Errorf("Copy = %v, want %v", err, full)
	}
}

type failing struct{ err error }

func (f failing) WriteAt([]byte, int64) (int, error) { return 0, f.err }

func TestRetries(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Aborted} {
		r := newRig(t, upstream.Options{})
		r.calls.fail = func(_ string, nth int) error {
			if nth < 2 {
				return status.Error(code, "try again")
			}
			return nil
		}
		small, large := storetest.Bytes(1, 100), storetest.Bytes(2, 9<<20)
		ds, data := []digest.Digest{digest.SHA256.Of(small), digest.SHA256.Of(large)}, [][]byte{small, large}
		for i, err := range r.store.PutAll(t.Context(), ds, data) {
			if err != nil {
				t.Errorf("%v: PutAll[%d] = %v", code, i, err)
			}
		}
		got, errs := r.store.GetAll(t.Context(), ds)
		for i := range ds {
			if errs[i] != nil || !bytes.Equal(got[i], data[i]) {
				t.Errorf("%v: GetAll[%d] = %d bytes, %v", code, i, len(got[i]), errs[i])
			}
		}
		if missing, err := r.store.Missing(t.Context(), digest.SetOf(ds...)); err != nil || missing.Len() > 0 {
			t.Errorf("%v: Missing = %v, %v", code, missing.List(), err)
		}
	}
}

// Other codes, and a server that stays away, are told to the caller.
func TestNoRetries(t *testing.T) {
	for _, c := range []struct {
		code  codes.Code
		retry time.Duration
		is    error
	}{
		{codes.Internal, 0, nil},
		{codes.PermissionDenied, 0, nil},
		{codes.Unavailable, -1, nil},
		{codes.DataLoss, 0, blob.ErrCorrupt},
		{codes.NotFound, 0, blob.ErrNotFound},
	} {
		r := newRig(t, upstream.Options{Retry: c.retry})
		r.calls.fail = func(name string, nth int) error {
			if name == "GetCapabilities" {
				return nil
			}
			return status.Error(c.code, "no")
		}
		d := digest.SHA256.Of([]byte("x"))
		_, errs := r.store.GetAll(t.Context(), []digest.Digest{d})
		if got := status.Code(errs[0]); got != c.code || c.is != nil && !errors.Is(errs[0], c.is) {
			t.Errorf("%v: %v (%v)", c.code, errs[0], got)
		}
		if n := r.calls.of("BatchReadBlobs"); n != 1 {
			t.Errorf("%v: %d calls, want 1", c.code, n)
		}
	}
}

// A download whose connection is lost again and again goes on where it was.
func TestDownloadResumes(t *testing.T) {
	r := newRig(t, upstream.Options{})
	r.calls.broken = func(string, int) int { return 3 } // the third message and all after it are lost
	d, want := r.putNew(1, 4<<20)
	got, errs := r.store.GetAll(t.Context(), []digest.Digest{d})
	if errs[0] != nil || !bytes.Equal(got[0], want) {
		t.Errorf("%d bytes, %v", len(got[0]), errs[0])
	}
	if n := r.calls.of("Read"); n < 2 {
		t.Errorf("%d streams: nothing was broken", n)
	}
}

// An upload of which the stream breaks can be tried again, and says so.
func TestUploadBreaks(t *testing.T) {
	r := newRig(t, upstream.Options{})
	r.calls.broken = func(name string, nth int) int { return 1 - min(nth, 1) }
	data := storetest.Bytes(1, 3<<20)
	d := digest.SHA256.Of(data)
	if err := blob.Put(t.Context(), r.store, d, data); !errors.Is(err, blob.ErrAborted) {
		t.Errorf("Put over a lost connection = %v, want ErrAborted", err)
	}
	if err := blob.Put(t.Context(), r.store, d, data); err != nil {
		t.Errorf("Put again = %v", err)
	}
}

func TestCancelled(t *testing.T) {
	r := newRig(t, upstream.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	r.calls.fail = func(name string, nth int) error {
		if name == "BatchReadBlobs" && nth == 1 {
			cancel()
		}
		return nil
	}
	var ds []digest.Digest
	for i := range 60 {
		d, _ := r.putNew(uint64(i), 1<<20)
		ds = append(ds, d)
	}
	data, errs := r.store.GetAll(ctx, ds)
	failed := 0
	for i := range ds {
		if (data[i] == nil) == (errs[i] == nil) {
			t.Fatalf("item %d has %d bytes and error %v", i, len(data[i]), errs[i])
		}
		if errs[i] != nil {
			failed++
			if !errors.Is(errs[i], context.Canceled) {
				t.Errorf("item %d: %v, want Canceled", i, errs[i])
			}
		}
	}
	if failed == 0 {
		t.Error("all came though the call was cancelled")
	}
}

func TestUnknownSizeIsRefused(t *testing.T) {
	r := newRig(t, upstream.Options{})
	d, _ := r.putNew(1, 10)
	d.Size = digest.AnySize
	_, err := r.store.Missing(t.Context(), digest.SetOf(d))
	_, openErr := r.store.Open(t.Context(), d)
	_, errs := r.store.GetAll(t.Context(), []digest.Digest{d})
	_, createErr := r.store.Create(t.Context(), d)
	for _, err := range []error{err, openErr, errs[0], createErr} {
		if !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%v, want ErrInvalid", err)
		}
	}
}

// A server that is away for a moment is waited for.
func TestRestartedServer(t *testing.T) {
	data := storetest.Bytes(1, 100)
	d := digest.SHA256.Of(data)
	behind := model.New(time.Hour)
	l := listen(t)
	s := server.New(server.Options{Store: behind, Actions: action.New(behind, behind)})
	go s.Serve(l)
	conn := dial(t, l.Addr().String(), grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1}, MinConnectTimeout: time.Second}))
	store := upstream.New(conn, "", upstream.Options{})
	if err := blob.Put(t.Context(), store, d, data); err != nil {
		t.Fatal(err)
	}
	s.Stop(t.Context())
	again := server.New(server.Options{Store: behind, Actions: action.New(behind, behind)})
	t.Cleanup(func() { again.Stop(context.Background()) })
	time.AfterFunc(100*time.Millisecond, func() {
		l, err := net.Listen("tcp", l.Addr().String())
		if err != nil {
			t.Errorf("listen again: %v", err)
			return
		}
		again.Serve(l)
	})
	if got, err := blob.Get(t.Context(), store, d); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}
