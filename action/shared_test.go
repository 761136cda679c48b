package action

import (
	"errors"
	"testing"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/internal/model"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// TestSharedResults: what one server's action cache has, another one's on the same bucket and Redis has, complete. If
// Redis or the bucket lost any of it, it is absent.
func TestSharedResults(t *testing.T) {
	node := redisserver.Start(t)
	b := &bucket.Memory{}
	server := func() *redis.Store {
		client, err := redis.New(redis.Options{Addresses: []string{node.Address}})
		if err != nil {
			t.Fatal(err)
		}
		store, err := s3.Open(t.Context(), client.Bucket(b), s3.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
			client.Close()
		})
		return client.Store(store)
	}
	here := server()
	named := map[string]*repb.Digest{}
	(&builder{t, model.New(time.Hour), named}).result() // for the names
	lacks, loses, other := map[string]*redis.Store{}, map[string]*redis.Store{}, server()
	for name := range named { // before there is anything to list
		lacks[name], loses[name] = server(), server()
	}
	maker := &builder{t, here, map[string]*repb.Digest{}}
	want := maker.result()
	if err := New(here, here).Put(t.Context(), anAction, want); err != nil {
		t.Fatal(err)
	}
	got, err := New(other, other).Get(t.Context(), anAction)
	if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("another server's Get = %v, difference %s", err, diff)
	}
	for name, d := range maker.named {
		entry := "sarsen:c/" + d.GetHash()[:2] + "/sha256-" + d.GetHash()
		had := node.Do("GET", entry)
		node.Do("DEL", entry)
		if got, err := New(lacks[name], lacks[name]).Get(t.Context(), anAction); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("without the entry of %s: Get = %v, %v, want ErrNotFound", name, got, err)
		}
		node.Do("SET", entry, had)
		got, err := New(lacks[name], lacks[name]).Get(t.Context(), anAction)
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("the entry of %s is back: Get = %v, difference %s", name, err, diff)
		}
	}
	for name, d := range maker.named {
		for _, object := range b.Keys("c/" + d.GetHash()[:2] + "/sha256-" + d.GetHash()) {
			if _, err := b.Delete(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := New(loses[name], loses[name]).Get(t.Context(), anAction); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("without the object of %s: Get = %v, %v, want ErrNotFound", name, got, err)
		}
	}
}
