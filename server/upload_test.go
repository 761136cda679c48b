package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/bytestream"
	"google.golang.org/grpc/codes"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// received returns how many bytes uploads have brought.
func (r *rig) received() float64 {
	m := &r.server.metrics.received
	return testutil.ToFloat64(m.identity) + testutil.ToFloat64(m.zstd)
}

// TestResume goes on with an upload that broke off, from every kind of offset.
func TestResume(t *testing.T) {
	for _, tt := range []struct {
		name   string
		offset int
		step   int
		want   codes.Code
	}{
		{"at the committed size", 400, 250, codes.OK},
		{"before it: the overlap is skipped", 150, 100, codes.OK},
		{"from the start", 0, 300, codes.OK},
		{"with a message that ends within the overlap", 100, 50, codes.OK},
		{"in one message", 400, 600, codes.OK},
		{"from the start in one message", 0, 1000, codes.OK},
		{"beyond it: a gap", 401, 100, codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			data := pattern(1000, 1)
			name := r.broken("u", data, 400)
			committed, err := r.writeFrom(name, data, tt.offset, tt.step)
			wantStatus(t, err, tt.want)
			if tt.want != codes.OK {
				wantStatus(t, err, tt.want, "write_offset: 401", "which is 400")
				r.waitFor(name, 400) // and it can still be gone on with
				committed, err = r.writeFrom(name, data, 400, 600)
			}
			if err != nil || committed != 1000 {
				t.Fatalf("got %d, %v, want 1000", committed, err)
			}
			if back, err := r.download(resource{digest: digest.SHA256.Of(data)}.String(), 0, 0); err != nil || !bytes.Equal(back, data) {
				t.Errorf("got %d bytes back, %v", len(back), err)
			}
			r.until("nothing is kept", func() bool { n, _ := r.server.uploads.kept(); return n == 0 })
		})
	}
}

// writeFrom writes data from an offset on in messages of step bytes.
func (r *rig) writeFrom(name string, data []byte, offset, step int) (int64, error) {
	stream, err := r.bs.Write(r.ctx)
	if err != nil {
		return 0, err
	}
	for ; offset < len(data); offset += step {
		end := min(offset+step, len(data))
		if stream.Send(&bytestream.WriteRequest{ResourceName: name, WriteOffset: int64(offset), Data: data[offset:end], FinishWrite: end == len(data)}) != nil {
			break
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetCommittedSize(), err
}

// TestResumeFinish checks an upload that broke off between its last byte and finish_write.
func TestResumeFinish(t *testing.T) {
	r := newRig(t)
	data := pattern(1000, 1)
	name := r.broken("u", data, 1000)
	stream, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&bytestream.WriteRequest{ResourceName: name, WriteOffset: 1000, FinishWrite: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := stream.CloseAndRecv(); err != nil || got.GetCommittedSize() != 1000 {
		t.Errorf("got %v, %v, want 1000", got, err)
	}
}

// TestResumeOtherDigest checks that the UUID alone is no name: clients may use it for several blobs.
func TestResumeOtherDigest(t *testing.T) {
	r := newRig(t)
	one, two := pattern(1000, 1), pattern(1000, 2)
	first := r.broken("u", one, 400)
	second := r.broken("u", two, 300)
	for _, tt := range []struct {
		name string
		data []byte
		at   int
	}{{second, two, 300}, {first, one, 400}} {
		if got, err := r.writeFrom(tt.name, tt.data, tt.at, 100); err != nil || got != 1000 {
			t.Errorf("%s: got %d, %v, want 1000", tt.name, got, err)
		}
	}
}

// TestTakeOver checks that the newest stream of a name goes on with the upload, and that the older
// one is told to try again.
func TestTakeOver(t *testing.T) {
	r := newRig(t)
	data := pattern(1000, 1)
	name := resource{upload: "u", digest: digest.SHA256.Of(data)}.String()
	old, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Send(&bytestream.WriteRequest{ResourceName: name, Data: data[:400]}); err != nil {
		t.Fatal(err)
	}
	r.waitFor(name, 400)
	young, err := r.bs.Write(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := young.Send(&bytestream.WriteRequest{ResourceName: name, WriteOffset: 400, Data: data[400:700]}); err != nil {
		t.Fatal(err)
	}
	r.waitFor(name, 700)
	if err := old.Send(&bytestream.WriteRequest{WriteOffset: 400, Data: data[400:], FinishWrite: true}); err != nil {
		t.Fatal(err)
	}
	_, err = old.CloseAndRecv()
	wantStatus(t, err, codes.Aborted, "another stream")
	if err := young.Send(&bytestream.WriteRequest{WriteOffset: 700, Data: data[700:], FinishWrite: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := young.CloseAndRecv(); err != nil || got.GetCommittedSize() != 1000 {
		t.Errorf("got %v, %v, want 1000", got, err)
	}
}

// TestConcurrentUploads has many clients write one blob under their own names: each is told success,
// and rightly so.
func TestConcurrentUploads(t *testing.T) {
	r := newRig(t)
	data := pattern(3<<20, 1)
	d := digest.SHA256.Of(data)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			got, err := r.write(resource{upload: fmt.Sprint(i), digest: d}.String(), data, 256<<10)
			if err != nil || got != d.Size || !r.holds(d) {
				t.Errorf("client %d: got %d, %v, want %d and the blob there", i, got, err, d.Size)
			}
		})
	}
	all.Wait()
}

// TestSameNameConcurrently has streams fight over one name: in the end the blob is there, and nobody
// is told so who shouldn't be.
func TestSameNameConcurrently(t *testing.T) {
	r := newRig(t)
	data := pattern(1<<20, 1)
	d := digest.SHA256.Of(data)
	name := resource{upload: "u", digest: d}.String()
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for wait := time.Millisecond; ; wait *= 2 { // as clients do; without it they take over from each other for ever
				got, err := r.write(name, data, 64<<10)
				if err == nil {
					if got != d.Size || !r.holds(d) {
						t.Errorf("stream %d: got %d and the blob there %v", i, got, r.holds(d))
					}
					return
				}
				if !retryable(err) {
					t.Errorf("stream %d: got %v, want a code after which clients try again", i, err)
					return
				}
				time.Sleep(rand.N(wait))
			}
		})
	}
	all.Wait()
	r.until("the table is empty", func() bool {
		us := r.server.uploads
		us.mu.Lock()
		defer us.mu.Unlock()
		return len(us.byName) == 0
	})
}

func retryable(err error) bool {
	return codeOf(err) == codes.Aborted || codeOf(err) == codes.Unavailable
}

// TestCompressedStartsAgain checks that a broken compressed upload leaves nothing.
func TestCompressedStartsAgain(t *testing.T) {
	r := newRig(t)
	data := pattern(1000, 1)
	name := resource{upload: "u", compressed: true, digest: digest.SHA256.Of(data)}.String()
	ctx, cancel := context.WithCancel(r.ctx)
	stream, err := r.bs.Write(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&bytestream.WriteRequest{ResourceName: name, Data: data[:500]}); err != nil {
		t.Fatal(err)
	}
	r.until("the message has arrived", func() bool { return r.received() > 0 })
	cancel()
	r.waitFor(name, 0)
	if n, _ := r.server.uploads.kept(); n != 0 {
		t.Errorf("kept: got %d, want none", n)
	}
}

// A table of uploads under test, with its store and fake time.
type tableRig struct {
	t     *testing.T
	store *model.Store
	us    *uploads
	left  []*upload
}

// add puts an upload of size bytes into the table, of which half were received before it broke off.
func (r *tableRig) add(name string, size int) {
	r.t.Helper()
	data := pattern(size, 1)
	u, claim := r.us.claim(name, digest.SHA256.Of(data))
	if _, err := u.begin(context.Background(), r.store, claim); err != nil {
		r.t.Fatal(err)
	}
	if _, err := u.write(claim, 0, data[:size/2]); err != nil {
		r.t.Fatal(err)
	}
	r.us.release(u, claim)
	r.left = append(r.left, u)
}

// names returns the names that are still known, and checks that all other uploads were closed.
func (r *tableRig) names() []string {
	r.us.mu.Lock()
	defer r.us.mu.Unlock()
	var names []string
	for _, u := range r.left {
		if r.us.byName[u.name] == u {
			names = append(names, u.name)
		} else if !u.isClosed() {
			r.t.Errorf("%s: out of the table, but its writer is open", u.name)
		}
	}
	return names
}

func (u *upload) isClosed() bool {
	u.lock()
	defer u.unlock()
	return u.gone && u.writer == nil
}

func TestUploadLimits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits limits
		sizes  []int
		want   []string
	}{
		{"all fit", limits{3, 1000, time.Minute}, []int{100, 200, 300}, []string{"0", "1", "2"}},
		{"too many: the oldest goes", limits{2, 1000, time.Minute}, []int{100, 200, 300}, []string{"1", "2"}},
		{"too many bytes: the oldest go", limits{9, 1000, time.Minute}, []int{600, 300, 500, 200}, []string{"1", "2", "3"}},
		{"the newest stays whatever its size", limits{9, 1000, time.Minute}, []int{100, 5000}, []string{"1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &tableRig{t: t, store: model.New(time.Hour), us: newUploads(tt.limits)}
			for i, size := range tt.sizes {
				r.add(fmt.Sprint(i), size)
			}
			if got := r.names(); !slices.Equal(got, tt.want) {
				t.Errorf("kept: got %v, want %v", got, tt.want)
			}
			r.us.close()
			if got := r.names(); len(got) != 0 {
				t.Errorf("after close: got %v, want none", got)
			}
			r.add("late", 100)
			if got := r.names(); len(got) != 0 {
				t.Errorf("after close, another: got %v, want none", got)
			}
			if n, bytes := r.us.kept(); n != 0 || bytes != 0 {
				t.Errorf("after close: got %d uploads of %d bytes, want none", n, bytes)
			}
		})
	}
}

func TestUploadExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &tableRig{t: t, store: model.New(time.Hour), us: newUploads(uploadLimits)}
		r.add("early", 100)
		time.Sleep(time.Minute)
		r.add("late", 100)
		// A stream that comes back and breaks off again starts the time anew.
		u, claim := r.us.claim("early", r.left[0].digest)
		time.Sleep(uploadLimits.time)
		synctest.Wait()
		if got, want := r.names(), []string{"early"}; !slices.Equal(got, want) {
			t.Errorf("with a stream on one: got %v, want %v", got, want)
		}
		r.us.release(u, claim)
		time.Sleep(uploadLimits.time - time.Second)
		synctest.Wait()
		if got, want := r.names(), []string{"early"}; !slices.Equal(got, want) {
			t.Errorf("before its time is over: got %v, want %v", got, want)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := r.names(); len(got) != 0 {
			t.Errorf("in the end: got %v, want none", got)
		}
	})
}

// TestUploadWithoutBytes checks that a stream that brought nothing leaves nothing.
func TestUploadWithoutBytes(t *testing.T) {
	r := &tableRig{t: t, store: model.New(time.Hour), us: newUploads(uploadLimits)}
	r.add("u", 1)
	if got := r.names(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// abortingStore takes the room of an upload away after its first write.
type abortingStore struct{ *model.Store }

func (s abortingStore) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	w, err := s.Store.Create(ctx, d)
	return &abortingWriter{Writer: w, d: d}, err
}

type abortingWriter struct {
	blob.Writer
	d       digest.Digest
	written bool
}

func (w *abortingWriter) Write(p []byte) (int, error) {
	if w.written {
		return 0, &blob.Error{Op: "write", Digest: w.d, Err: blob.ErrAborted}
	}
	w.written = true
	return w.Writer.Write(p)
}

// TestAborted checks that an upload whose room the store took away is forgotten, so that the client
// starts again at 0.
func TestAborted(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Store = abortingStore{o.Store.(*model.Store)} })
	data := pattern(1000, 1)
	name := resource{upload: "u", digest: digest.SHA256.Of(data)}.String()
	_, err := r.write(name, data, 400)
	wantStatus(t, err, codes.Aborted, "try again")
	r.waitFor(name, 0)
	if got, err := r.write(name, data, 1000); err != nil || got != 1000 {
		t.Errorf("the next attempt: got %d, %v, want 1000", got, err)
	}
}

// TestFinishedMeanwhile checks that a stream which claims an upload just before it ends asks again.
func TestFinishedMeanwhile(t *testing.T) {
	us := newUploads(uploadLimits)
	store := model.New(time.Hour)
	data := pattern(100, 1)
	first, claim := us.claim("u", digest.SHA256.Of(data))
	if _, err := first.begin(t.Context(), store, claim); err != nil {
		t.Fatal(err)
	}
	if _, err := first.write(claim, 0, data); err != nil {
		t.Fatal(err)
	}
	if err := first.commit(claim); err != nil {
		t.Fatal(err)
	}
	second, claim2 := us.claim("u", digest.SHA256.Of(data))
	if _, err := second.begin(t.Context(), store, claim2); !errors.Is(err, errFinished) {
		t.Errorf("got %v, want errFinished", err)
	}
	us.release(second, claim2)
	us.release(first, claim)
	if n := len(us.byName); n != 0 {
		t.Errorf("uploads in the table: got %d, want none", n)
	}
}
