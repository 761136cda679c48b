package redis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/blob"
	"github.com/sarsen-build/sarsen/digest"
	"github.com/sarsen-build/sarsen/internal/redisserver"
	"github.com/sarsen-build/sarsen/internal/storetest"
	"github.com/sarsen-build/sarsen/redis"
	"github.com/sarsen-build/sarsen/s3"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

// A server is what one `sarsen serve` has of a bucket and a Redis.
type server struct {
	*redis.Store
	inner  *s3.Store
	client *redis.Client
	bucket *counted
}

// counted counts the requests for blobs and records.
type counted struct {
	bucket.Bucket
	gets, heads, lists chan struct{}
	meanwhile          func() // is done when Head has looked, and before it says so; or nil
}

func count(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (c *counted) Get(ctx context.Context, key string, off, n int64) ([]byte, bucket.Object, error) {
	if key[0] == 'a' || key[0] == 'c' {
		count(c.gets)
	}
	return c.Bucket.Get(ctx, key, off, n)
}

func (c *counted) Head(ctx context.Context, key string) (bucket.Object, error) {
	count(c.heads)
	o, err := c.Bucket.Head(ctx, key)
	if c.meanwhile != nil {
		c.meanwhile()
	}
	return o, err
}

func (c *counted) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	if strings.HasPrefix(prefix, "a/") || strings.HasPrefix(prefix, "c/") {
		count(c.lists)
	}
	return c.Bucket.List(ctx, prefix, after)
}

// took returns how many requests there were since it was called last.
func (c *counted) took() (gets, heads, lists int) {
	drain := func(c chan struct{}) (n int) {
		for {
			select {
			case <-c:
				n++
			default:
				return n
			}
		}
	}
	return drain(c.gets), drain(c.heads), drain(c.lists)
}

func join(t *testing.T, b bucket.Bucket, o redis.Options, lookup bool) *server {
	t.Helper()
	return joinWith(t, b, o, s3.Options{Lookup: lookup})
}

func joinWith(t *testing.T, b bucket.Bucket, o redis.Options, inner s3.Options) *server {
	t.Helper()
	client, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{b, make(chan struct{}, 1<<20), make(chan struct{}, 1<<20), make(chan struct{}, 1<<20), nil}
	store, err := s3.Open(t.Context(), client.Bucket(c), inner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		client.Close()
	})
	c.took()
	return &server{client.Store(store), store, client, c}
}

func at(nodes ...*redisserver.Server) (o redis.Options) {
	for _, n := range nodes {
		o.Addresses = append(o.Addresses, n.Address)
	}
	return o
}

// check reads a blob in both ways.
func check(s blob.Batcher, d digest.Digest, want []byte) error {
	return errors.Join(checkOpen(s, d, want), checkAll(s, d, want))
}

func checkOpen(s blob.Batcher, d digest.Digest, want []byte) error {
	got, err := blob.Get(context.Background(), s, d)
	if err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("Open gives other bytes, or none: %d, want %d: %v", len(got), len(want), err)
	}
	return nil
}

func checkAll(s blob.Batcher, d digest.Digest, want []byte) error {
	all, errs := s.GetAll(context.Background(), []digest.Digest{d})
	if errs[0] != nil || !bytes.Equal(all[0], want) {
		return fmt.Errorf("GetAll gives other bytes, or none: %d, want %d: %v", len(all[0]), len(want), errs[0])
	}
	return nil
}

func some(seed, n, size int) (ds []digest.Digest, data [][]byte) {
	for i := range n {
		data = append(data, storetest.Bytes(uint64(seed*100000+i), size))
		ds = append(ds, digest.SHA256.Of(data[i]))
	}
	return ds, data
}

func putAll(t *testing.T, s blob.Batcher, ds []digest.Digest, data [][]byte) {
	t.Helper()
	for i, err := range s.PutAll(t.Context(), ds, data) {
		if err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
}

// TestStore runs the contract of every store, with Redis there, and with none.
func TestStore(t *testing.T) {
	node := redisserver.Start(t)
	away := redisserver.Start(t)
	away.Stop()
	for name, o := range map[string]redis.Options{"there": at(node), "away": at(away)} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				o.Prefix = t.Name() + ":"
				s := join(t, &bucket.Memory{}, o, true)
				return storetest.Fixture{
					Store: s, Lease: 3 * time.Hour, Sizes: []int{1, 5000, 9000, 3 << 20}, Evict: func() {}, Leaks: func() error { return nil }, Close: func() {},
				}
			})
		})
	}
}

// TestShared: what one server wrote, another one has at once, though it never lists.
func TestShared(t *testing.T) {
	one := redisserver.Start(t)
	three := redisserver.Cluster(t)
	for name, o := range map[string]redis.Options{"standalone": at(one), "cluster": at(three[0])} {
		for _, lookup := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lookup %v", name, lookup), func(t *testing.T) {
				o.Prefix = t.Name() + ":"
				b := &bucket.Memory{}
				here, there := join(t, b, o, lookup), join(t, b, o, lookup)
				shared(t, here, there)
			})
		}
	}
}

func shared(t *testing.T, here, there *server) {
	ctx := t.Context()
	small, smallData := some(1, 300, 500)
	large, largeData := some(2, 3, 100_000)
	putAll(t, here, append(small, large...), append(smallData, largeData...))
	if missing, err := there.Missing(ctx, digest.SetOf(append(small[:100:100], large[0])...)); err != nil || missing.Len() > 0 {
		t.Errorf("Missing in the other server = %d, %v, want none", missing.Len(), err)
	}
	if gets, heads, lists := there.bucket.took(); gets != 0 || heads != 101 || lists != 0 {
		t.Errorf("that took %d reads, %d looks, %d listings; want 101 looks", gets, heads, lists)
	}
	data, errs := there.GetAll(ctx, small)
	for i, err := range errs {
		if err != nil || !bytes.Equal(data[i], smallData[i]) {
			t.Fatalf("GetAll of blob %d: %v", i, err)
		}
	}
	if gets, heads, lists := there.bucket.took(); gets != 0 || heads != 200 || lists != 0 {
		t.Errorf("GetAll took %d reads, %d looks, %d listings; want a look for each that was new", gets, heads, lists)
	}
	for i, d := range large {
		if err := check(there, d, largeData[i]); err != nil {
			t.Errorf("large blob %d: %v", i, err)
		}
	}
	for _, value := range []string{"old", "new"} {
		if err := here.Put(ctx, [32]byte{7}, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if r, err := there.Get(ctx, [32]byte{7}); err != nil || string(r.Value) != value {
			t.Errorf("the other server has %q, %v, want %q", r.Value, err, value)
		}
	}
	there.bucket.took()
	if _, err := there.Get(ctx, [32]byte{7}); err != nil {
		t.Error(err)
	}
	if gets, heads, lists := there.bucket.took(); gets+heads+lists != 0 {
		t.Errorf("a record that is known took %d reads, %d looks, %d listings", gets, heads, lists)
	}
	if err := there.Put(ctx, [32]byte{7}, []byte("newest")); err != nil {
		t.Fatal(err)
	}
	if r, err := here.Get(ctx, [32]byte{7}); err != nil || string(r.Value) != "newest" {
		t.Errorf("the first server has %q, %v, want the newest", r.Value, err)
	}
	if _, err := there.Get(ctx, [32]byte{8}); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a record that nobody put = %v, want ErrNotFound", err)
	}
	if err := there.Keep(ctx, "root", nil, digest.SetOf(small...)); err != nil {
		t.Errorf("Keep what the other server wrote: %v", err)
	}
	if stats := there.client.Stats(); stats.Away || stats.Failed+stats.Refused+stats.Lost+stats.Corrupt > 0 {
		t.Errorf("stats %+v, want nothing wrong", stats)
	}
}

// TestRoundTrips: any number of keys up to 5,000 takes one pipeline.
func TestRoundTrips(t *testing.T) {
	b := &bucket.Memory{}
	o := at(redisserver.Start(t))
	here, there := join(t, b, o, false), join(t, b, o, false)
	ds, data := some(3, 600, 20)
	putAll(t, here, ds, data)
	for _, test := range []struct{ keys, want int64 }{{600, 1}, {12000, 3}} {
		var set digest.Set
		for i := range test.keys {
			if i < 600 {
				set.Add(ds[i])
			} else {
				set.Add(digest.SHA256.Of([]byte(fmt.Sprint("absent", i))))
			}
		}
		before := there.client.Stats()
		third := join(t, b, o, false) // knows nothing but what it lists
		if missing, err := third.Missing(t.Context(), set); err != nil || int64(missing.Len()) != test.keys-600 {
			t.Errorf("%d missing, %v, want %d", missing.Len(), err, test.keys-600)
		}
		if missing, err := there.Missing(t.Context(), set); err != nil || int64(missing.Len()) != test.keys-600 {
			t.Errorf("%d missing, %v, want %d", missing.Len(), err, test.keys-600)
		}
		if got := there.client.Stats().Pipelines - before.Pipelines; got != test.want {
			t.Errorf("Missing of %d keys took %d pipelines, want %d", test.keys, got, test.want)
		}
		before = there.client.Stats()
		there.GetAll(t.Context(), set.List())
		if got := there.client.Stats().Pipelines - before.Pipelines; got != test.want {
			t.Errorf("GetAll of %d keys took %d pipelines, want %d", test.keys, got, test.want)
		}
	}
}

// TestOlder: a server that knows an older record does not put it before the newer one.
func TestOlder(t *testing.T) {
	b := &bucket.Memory{}
	o := at(redisserver.Start(t))
	here, there, third := join(t, b, o, false), join(t, b, o, false), join(t, b, o, false)
	for _, value := range []string{"old", "newest"} {
		if err := here.Put(t.Context(), [32]byte{7}, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if r, err := there.Get(t.Context(), [32]byte{7}); err != nil || string(r.Value) != value {
			t.Errorf("the second server has %q, %v, want the newest", r.Value, err)
		}
	}
	// The old one was read on the way, and announced. What is put now is announced after that.
	if err := there.Put(t.Context(), [32]byte{8}, []byte("other")); err != nil {
		t.Fatal(err)
	}
	if r, err := third.Get(t.Context(), [32]byte{7}); err != nil || string(r.Value) != "newest" {
		t.Errorf("the third server has %q, %v, want the newest", r.Value, err)
	}
}

// TestSecondCopy: the copy of a blob that Redis names is about to be deleted. The other one is read.
func TestSecondCopy(t *testing.T) {
	node := redisserver.Start(t)
	ds, data := some(1, 1, 100)
	tries := 0
	var third *server
	b := &bucket.Memory{Before: func(op, key string) {
		if op != "delete" || !strings.HasPrefix(key, "c/") || third == nil {
			return
		}
		tries++
		node.Do("SET", "sarsen:c/"+ds[0].Hex()[:2]+"/sha256-"+ds[0].Hex(), key+"\n")
		for how, read := range map[string]func(blob.Batcher, digest.Digest, []byte) error{"Open": checkOpen, "GetAll": checkAll} {
			if err := read(third, ds[0], data[0]); err != nil {
				t.Errorf("%s: %v", how, err)
			}
		}
	}}
	inner := s3.Options{Lookup: true, Heartbeat: 2 * time.Second}
	here, there := joinWith(t, b, at(node), inner), joinWith(t, b, at(node), inner)
	third = joinWith(t, b, at(node), inner)
	putAll(t, here, ds, data)
	putAll(t, there, ds, data)
	if _, err := here.inner.Collect(t.Context(), s3.Policy{Patience: time.Minute}); err != nil {
		t.Errorf("Collect = %v", err)
	}
	if copies := b.Keys("c/"); len(copies) != 1 || tries == 0 {
		t.Errorf("%v after %d deletes, want one copy", copies, tries)
	}
}
