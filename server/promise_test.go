package server

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/genproto/googleapis/bytestream"

	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
)

// leasingStore counts how often each blob was leased by Missing.
type leasingStore struct {
	*model.Store

	mu    sync.Mutex
	asked map[digest.Digest]int
}

func (s *leasingStore) Missing(ctx context.Context, ds digest.Set) (digest.Set, error) {
	s.mu.Lock()
	for _, d := range ds.List() {
		s.asked[d]++
	}
	s.mu.Unlock()
	return s.Store.Missing(ctx, ds)
}

func (s *leasingStore) count(d digest.Digest) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[d]
}

// TestYesLeases checks that every yes comes from a leasing call made for that very request, the third
// time as well as the first: nothing remembers that a blob is there.
func TestYesLeases(t *testing.T) {
	store := &leasingStore{asked: map[digest.Digest]int{}}
	r := newRig(t, func(o *Options) {
		store.Store = o.Store.(*model.Store)
		o.Store = store
	})
	data := pattern(1000, 1)
	d := digest.SHA256.Of(data)
	r.put(digest.SHA256, data)
	for _, tt := range []struct {
		name string
		yes  func() error
	}{
		{"FindMissingBlobs", func() error {
			_, err := r.cas.FindMissingBlobs(r.ctx, &repb.FindMissingBlobsRequest{BlobDigests: []*repb.Digest{onWire(d)}})
			return err
		}},
		{"Write", func() error {
			_, err := r.write(resource{upload: "u", digest: d}.String(), data, 100)
			return err
		}},
		{"Write compressed", func() error {
			_, err := r.write(resource{upload: "u", compressed: true, digest: d}.String(), data, 100)
			return err
		}},
		{"QueryWriteStatus", func() error {
			_, err := r.bs.QueryWriteStatus(r.ctx, &bytestream.QueryWriteStatusRequest{ResourceName: resource{upload: "u", digest: d}.String()})
			return err
		}},
	} {
		for i := range 3 {
			before := store.count(d)
			if err := tt.yes(); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if got, want := store.count(d), before+1; got != want {
				t.Errorf("%s, time %d: got %d leases, want %d", tt.name, i, got, want)
			}
		}
	}
}

// TestEvictedBlob checks that a blob which went is missing again, and can be uploaded again, by every
// call that has seen it before.
func TestEvictedBlob(t *testing.T) {
	withoutLease := model.New(0)
	r := newRig(t, func(o *Options) { o.Store = withoutLease })
	data := pattern(1000, 1)
	d := digest.SHA256.Of(data)
	name := resource{upload: "u", digest: d}.String()
	for range 3 {
		missing, err := r.cas.FindMissingBlobs(r.ctx, &repb.FindMissingBlobsRequest{BlobDigests: []*repb.Digest{onWire(d)}})
		if err != nil || len(missing.GetMissingBlobDigests()) != 1 {
			t.Errorf("FindMissingBlobs: got %v, %v, want it missing", missing, err)
		}
		status, err := r.bs.QueryWriteStatus(r.ctx, &bytestream.QueryWriteStatusRequest{ResourceName: name})
		if err != nil || status.GetComplete() || status.GetCommittedSize() != 0 {
			t.Errorf("QueryWriteStatus: got %v, %v, want 0 bytes", status, err)
		}
		if got, err := r.write(name, data, 100); err != nil || got != 1000 {
			t.Errorf("Write: got %d, %v, want 1000", got, err)
		}
		if back, err := r.download(resource{digest: d}.String(), 0, 0); err != nil || !bytes.Equal(back, data) {
			t.Errorf("Read: got %d bytes, %v", len(back), err)
		}
		withoutLease.Evict()
	}
}

// TestLog checks that a request is a line when debugging, and none else.
func TestLog(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 2} {
		var out lines
		r := newRig(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})) })
		if _, err := r.caps.GetCapabilities(r.ctx, &repb.GetCapabilitiesRequest{}); err != nil {
			t.Fatal(err)
		}
		r.download(resource{digest: digest.SHA256.Of([]byte("absent"))}.String(), 0, 0)
		r.until("the lines are written", func() bool { return out.count() >= want })
		if got := out.count(); got != want {
			t.Errorf("at %v: got %d lines, want %d:\n%s", level, got, want, out.String())
		}
		if want > 0 && !strings.Contains(out.String(), "method=ByteStream/Read code=NotFound") {
			t.Errorf("got %s, want method and code", out.String())
		}
	}
}

// lines is a buffer for a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count() int { return strings.Count(l.String(), "\n") }
