package backup_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sarsen-build/sarsen/backup"
	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/internal/zstd"
)

// A pausing reader calls do before its last bytes.
type pausing struct {
	io.Reader
	do func()
}

func (p *pausing) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b[:min(len(b), 1000)])
	if p.do != nil {
		p.do()
		p.do = nil
	}
	return n, err
}

// TestQuotaDeletedMeanwhile: a file that is deleted while it comes once more counts when it is there again.
func TestQuotaDeletedMeanwhile(t *testing.T) {
	r := newRig(t, restricted)
	data := storetest.Bytes(1, 6000)
	other := storetest.Bytes(2, 6000)
	path := func(data []byte) string { return "/restic/laptop/data/" + name(data) }
	r.want(200, "POST", path(data), data, basic("secret-2")...)
	again := func(status int, do func()) {
		t.Helper()
		req := httptest.NewRequest("POST", path(data), &pausing{bytes.NewReader(data), do})
		req.SetBasicAuth("me", "secret-2")
		req.ContentLength = int64(len(data))
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, req); w.Code != status {
			t.Errorf("POST while it is deleted: got %d %s, want %d", w.Code, w.Body, status)
		}
	}
	again(200, func() { r.want(200, "DELETE", path(data), nil, basic("secret-2")...) })
	r.want(507, "POST", path(other), other, basic("secret-2")...)
	again(507, func() {
		r.want(200, "DELETE", path(data), nil, basic("secret-2")...)
		r.want(200, "POST", path(other), other, basic("secret-2")...)
	})
	r.want(404, "GET", path(data), nil, basic("secret-2")...)
}

// A slow store does something else before the end of a Release.
type slow struct {
	*model.Store
	do func()
}

func (s *slow) Release(ctx context.Context, name string) error {
	err := s.Store.Release(ctx, name)
	if s.do != nil {
		s.do()
	}
	return err
}

// TestQuotaCountedMeanwhile: what is deleted while somebody counts is not taken off twice.
func TestQuotaCountedMeanwhile(t *testing.T) {
	s := &slow{Store: model.New(time.Hour)}
	access := backup.Restrict(map[string]backup.Rule{"r": {Quota: 10000}}, nil)
	r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s, Access: access})}
	first, small, large := storetest.Bytes(1, 6000), storetest.Bytes(2, 1000), storetest.Bytes(3, 9500)
	r.want(200, "POST", "/restic/r/data/"+name(first), first)
	r.Handler = backup.New(backup.Options{Store: s, Keeper: s, Access: access}) // which has not counted yet
	s.do = func() { r.want(200, "POST", "/restic/r/data/"+name(small), small) }
	r.want(200, "DELETE", "/restic/r/data/"+name(first), nil)
	r.want(507, "POST", "/restic/r/data/"+name(large), large)
}

// TestQuotaOfDamage: a chunk that is damaged takes nothing until it is healed, in this process and the next.
func TestQuotaOfDamage(t *testing.T) {
	s := &holed{Store: model.New(time.Hour)}
	access := backup.Restrict(nil, map[string]backup.Rule{"s": {Quota: 10000}})
	r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s, Access: access})}
	plain := sameFolder(2)
	one, two := zstd.Encode(plain[0]), zstd.Encode(plain[1])
	path := func(i int) string { return chunkPath("s", sha512.Sum512_256(plain[i])) }
	r.want(200, "PUT", path(0), one)
	s.lacks = digest.SHA256.Of(one)
	r.want(200, "PUT", path(1), two)
	s.lacks = digest.Digest{}
	r.want(200, "PUT", path(0), one)
	left := 10000 - len(one) - len(two)
	r.want(507, "PUT", "/casync/s/large.caibx", storetest.Bytes(3, left+1))
	r.want(200, "PUT", "/casync/s/large.caibx", storetest.Bytes(3, left))
	r.want(200, "PUT", path(0), one) // though the quota is full, since it is there
	r.want(200, "PUT", "/casync/s/large.caibx", storetest.Bytes(3, left))
	r.want(200, "DELETE", path(0), nil)
	r.want(507, "PUT", "/casync/s/more.caibx", storetest.Bytes(4, len(one)+1))
	r.want(200, "PUT", "/casync/s/more.caibx", storetest.Bytes(4, len(one)))
}

// TestHealedByOthers: a chunk that was damaged, and whose bytes somebody else stored since, is kept once it comes again, also
// compressed otherwise.
func TestHealedByOthers(t *testing.T) {
	s := &holed{Store: model.New(time.Hour)}
	r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s})}
	plain := sameFolder(2)
	one := zstd.Encode(plain[0])
	path := chunkPath("s", sha512.Sum512_256(plain[0]))
	r.want(200, "PUT", path, one)
	s.lacks = digest.SHA256.Of(one)
	r.want(200, "PUT", chunkPath("s", sha512.Sum512_256(plain[1])), zstd.Encode(plain[1])) // which the root then holds alone
	s.lacks = digest.Digest{}
	r.want(200, "PUT", path, append(zstd.Encode(plain[0][:1]), zstd.Encode(plain[0][1:])...))
	if root, err := blob.KeptRoot(t.Context(), s, "casync/s/chunks/0000"); err != nil || root.Count != 2 {
		t.Errorf("KeptRoot = %+v, %v, want both chunks", root, err)
	}
}

// TestDeletedAfterFailure: what could not be stored is let go when the client deletes it, though it is not there.
func TestDeletedAfterFailure(t *testing.T) {
	s := &slow{Store: model.New(time.Hour)}
	released := 0
	s.do = func() { released++ }
	r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s})}
	if r.want(404, "DELETE", "/restic/r/locks/"+name([]byte("lock")), nil); released != 1 {
		t.Errorf("Release was called %d times, want once", released)
	}
}

// A busy store can't open a blob at the moment.
type busy struct {
	*model.Store
	err error
}

func (b *busy) Open(ctx context.Context, d digest.Digest) (blob.Reader, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.Store.Open(ctx, d)
}

// TestBusyStore: a chunk that can't be opened at the moment, because the bucket is away, is kept on.
func TestBusyStore(t *testing.T) {
	s := &busy{Store: model.New(time.Nanosecond)}
	r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s})}
	plain := sameFolder(3)
	path := func(i int) string { return chunkPath("s", sha512.Sum512_256(plain[i])) }
	r.want(200, "PUT", path(0), zstd.Encode(plain[0]))
	r.want(200, "PUT", path(1), zstd.Encode(plain[1]))
	for _, s.err = range []error{blob.ErrUnavailable, errors.New("the network")} {
		if a, _ := r.do("PUT", path(2), zstd.Encode(plain[2])); a.StatusCode < 500 {
			t.Errorf("PUT while nothing can be opened: got %d", a.StatusCode)
		}
		if a, _ := r.do("DELETE", path(1), nil); a.StatusCode < 500 {
			t.Errorf("DELETE while nothing can be opened: got %d", a.StatusCode)
		}
	}
	s.err = nil
	s.Evict()
	r.want(200, "GET", path(0), nil)
	r.want(200, "GET", path(1), nil)
}

// TestConfigHealed: a configuration that turned out to be damaged is healed by one that is the same.
func TestConfigHealed(t *testing.T) {
	s := &holed{Store: model.New(time.Hour)}
	stored := 0
	r := &rig{t, s.Store, backup.New(backup.Options{Store: counting{s, &stored}, Keeper: s})}
	config := storetest.Bytes(1, 155)
	r.want(200, "POST", "/restic/r/config", config)
	s.lacks = digest.SHA256.Of(config)
	r.want(404, "GET", "/restic/r/config", nil)
	r.want(403, "POST", "/restic/r/config", config[1:])
	r.want(200, "POST", "/restic/r/config", config)
	if stored != 2 {
		t.Errorf("the configuration was stored %d times, want 2", stored)
	}
}

// counting counts uploads.
type counting struct {
	blob.Store
	n *int
}

func (c counting) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	*c.n++
	return c.Store.Create(ctx, d)
}

// An interrupted store does something else before it stores the first blob.
type interrupted struct {
	blob.Store
	do func()
}

func (s *interrupted) Create(ctx context.Context, d digest.Digest) (blob.Writer, error) {
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
	return s.Store.Create(ctx, d)
}

// TestConfigTwice: of two configurations that come at once, and of which each is the first when it comes, one is taken.
func TestConfigTwice(t *testing.T) {
	s := model.New(time.Hour)
	store := &interrupted{Store: s}
	r := &rig{t, s, backup.New(backup.Options{Store: store, Keeper: s})}
	store.do = func() { r.want(200, "POST", "/restic/r/config", []byte("faster")) }
	r.want(403, "POST", "/restic/r/config", []byte("slower"))
	if got := r.want(200, "GET", "/restic/r/config", nil); got != "faster" {
		t.Errorf("config: got %q, want the one that was taken", got)
	}
}

// A stuck store keeps nothing until it may go on.
type stuck struct {
	*model.Store
	on chan struct{}
}

func (s stuck) Keep(ctx context.Context, name string, value []byte, blobs digest.Set) error {
	<-s.on
	return s.Store.Keep(ctx, name, value, blobs)
}

// TestGivenUpWaiting: who gives up waiting for another change of the same root is let go.
func TestGivenUpWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stuck{model.New(time.Hour), make(chan struct{})}
		r := &rig{t, s.Store, backup.New(backup.Options{Store: s, Keeper: s})}
		data := storetest.Bytes(1, 500)
		path := "/restic/r/data/" + name(data)
		var first sync.WaitGroup
		first.Go(func() { r.want(200, "POST", path, data) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", path, bytes.NewReader(data))); w.Code != 503 {
			t.Errorf("POST of who gave up: got %d, want 503", w.Code)
		}
		close(s.on)
		first.Wait()
	})
}

// A dripping reader gives a byte a second.
type dripping struct{}

func (dripping) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	p[0] = 0
	return 1, nil
}

// TestDrippingClients: clients that send a byte now and then do not keep others from storing chunks, and who gives up waiting
// for them is let go.
func TestDrippingClients(t *testing.T) {
	defer func() { // pooled decoders that were made in the bubble can't be used outside of it: two collections empty a sync.Pool
		runtime.GC()
		runtime.GC()
	}()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var ended sync.WaitGroup
		for i := range 16 {
			ended.Go(func() {
				req := httptest.NewRequest("PUT", chunkPath("s", [32]byte{byte(i)}), dripping{})
				req.ContentLength = 1 << 20
				r.ServeHTTP(httptest.NewRecorder(), req)
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "PUT", chunkPath("s", [32]byte{}), bytes.NewReader(nil))); w.Code != 503 {
			t.Errorf("PUT of who gave up: got %d, want 503", w.Code)
		}
		plain := storetest.Bytes(1, 600)
		r.want(200, "PUT", chunkPath("s", sha512.Sum512_256(plain)), zstd.Encode(plain))
		ended.Wait()
	})
}
