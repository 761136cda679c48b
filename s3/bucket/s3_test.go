package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/internal/versitygw"
	"github.com/sarsen-build/sarsen/s3/bucket"
)

func real(t *testing.T, change func(*bucket.Options)) *bucket.S3 {
	t.Helper()
	return open(t, versitygw.Start(t), change)
}

func open(t *testing.T, s *versitygw.Server, change func(*bucket.Options)) *bucket.S3 {
	t.Helper()
	o := bucket.Options{Endpoint: s.Endpoint, Bucket: s.Bucket, PathStyle: true, AccessKey: s.AccessKey, SecretKey: s.SecretKey, Prefix: "pre/"}
	if change != nil {
		change(&o)
	}
	b, err := bucket.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, b bucket.Bucket, key string, data []byte, when bucket.Condition) (bucket.Object, error) {
	t.Helper()
	return b.Put(t.Context(), key, bytes.NewReader(data), int64(len(data)), when)
}

// TestContract is what every Bucket does.
func TestContract(t *testing.T) {
	t.Run("memory", func(t *testing.T) { contract(t, &bucket.Memory{}) })
	t.Run("versitygw", func(t *testing.T) { contract(t, real(t, nil)) })
	t.Run("versitygw in parts", func(t *testing.T) {
		contract(t, real(t, func(o *bucket.Options) { o.PartSize = bucket.MinPart }))
	})
}

func contract(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	large := make([]byte, 12<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	for _, data := range [][]byte{{}, []byte("x"), large} {
		o, err := put(t, b, "k/a+b c~%41", data, bucket.Condition{})
		if err != nil {
			t.Fatalf("Put of %d bytes = %v", len(data), err)
		}
		got, at, err := b.Get(ctx, "k/a+b c~%41", 0, -1)
		if err != nil || !bytes.Equal(got, data) || at.ETag != o.ETag || at.Size != int64(len(data)) {
			t.Errorf("Get = %d bytes, %+v, %v, want %d with %s", len(got), at, err, len(data), o.ETag)
		}
		head, err := b.Head(ctx, "k/a+b c~%41")
		if err != nil || head.ETag != o.ETag || head.Size != int64(len(data)) {
			t.Errorf("Head = %+v, %v", head, err)
		}
	}
	for _, r := range [][2]int64{{0, 1}, {5, 100}, {int64(len(large)) - 3, 10}, {100, -1}, {int64(len(large)), 5}} {
		got, at, err := b.Get(ctx, "k/a+b c~%41", r[0], r[1])
		want := large[r[0]:]
		if r[1] >= 0 && r[1] < int64(len(want)) {
			want = want[:r[1]]
		}
		if err != nil || !bytes.Equal(got, want) || at.Size != int64(len(large)) {
			t.Errorf("Get of %v = %d bytes of %d, %v, want %d", r, len(got), at.Size, err, len(want))
		}
	}
	if _, _, err := b.Get(ctx, "none", 0, -1); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("Get of what is not there = %v", err)
	}
	if _, err := b.Head(ctx, "none"); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("Head of what is not there = %v", err)
	}
	conditions(t, b, []byte("1"))
	conditions(t, b, large)
	listing(t, b)
}

// conditions: a Put on a condition that is not met does nothing.
func conditions(t *testing.T, b bucket.Bucket, data []byte) {
	ctx := t.Context()
	key := fmt.Sprint("cond/", len(data))
	if _, err := put(t, b, key, data, bucket.Condition{ETag: `"0123456789abcdef0123456789abcdef"`}); !errors.Is(err, bucket.ErrCondition) {
		t.Errorf("%d bytes, If-Match of what is not there = %v, want ErrCondition", len(data), err)
	}
	first, err := put(t, b, key, data, bucket.Condition{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	other := append([]byte("2"), data...)
	if _, err := put(t, b, key, other, bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrCondition) {
		t.Errorf("%d bytes, If-None-Match of what is there = %v, want ErrCondition", len(data), err)
	}
	second, err := put(t, b, key, other, bucket.Condition{ETag: first.ETag})
	if err != nil {
		t.Errorf("%d bytes, If-Match = %v", len(data), err)
	}
	if _, err := put(t, b, key, data, bucket.Condition{ETag: first.ETag}); !errors.Is(err, bucket.ErrCondition) {
		t.Errorf("%d bytes, If-Match of an older one = %v, want ErrCondition", len(data), err)
	}
	if got, o, err := b.Get(ctx, key, 0, -1); err != nil || !bytes.Equal(got, other) || o.ETag != second.ETag {
		t.Errorf("%d bytes, after all: %d bytes, %v", len(data), len(got), err)
	}
}

func listing(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	var want []string
	var group sync.WaitGroup
	for i := range 1003 {
		key := fmt.Sprintf("list/%04d.x-%d", i, i%3)
		want = append(want, key)
		group.Go(func() {
			if _, err := b.Put(ctx, key, bytes.NewReader([]byte("x")), 1, bucket.Condition{}); err != nil {
				t.Error(err)
			}
		})
		if i%16 == 0 {
			group.Wait()
		}
	}
	group.Wait()
	var got []string
	date, err := bucket.All(ctx, b, "list/", func(page []bucket.Object) error {
		for _, o := range page {
			got = append(got, o.Key)
			if o.Size != 1 || o.ETag == "" || time.Since(o.Modified).Abs() > time.Hour {
				t.Errorf("listed %+v", o)
			}
		}
		return nil
	})
	if err != nil || time.Since(date).Abs() > time.Minute || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("All = %d objects at %v, %v, want %d", len(got), date, err, len(want))
	}
	if p, err := b.List(ctx, "list/", want[1000]); err != nil || len(p.Objects) != 2 || p.More {
		t.Errorf("List after all but two = %+v, %v", p, err)
	}
	left, err := b.Delete(ctx, append(want[:998:998], "list/none")...)
	if err != nil || len(left) != 0 {
		t.Errorf("Delete = %v, %v", left, err)
	}
	if left, err := b.Delete(ctx, want[998]); err != nil || len(left) != 0 {
		t.Errorf("Delete of one = %v, %v", left, err)
	}
	if p, err := b.List(ctx, "list/", ""); err != nil || len(p.Objects) != 4 {
		t.Errorf("after Delete: %d objects, %v, want 4", len(p.Objects), err)
	}
}

// TestIssued: a request that was issued long ago is refused.
func TestIssued(t *testing.T) {
	b := real(t, func(o *bucket.Options) { o.Attempts = 1 })
	for age, want := range map[time.Duration]bool{time.Minute: true, bucket.MaxAge: false} {
		ctx := bucket.WithIssued(t.Context(), time.Now().Add(-age))
		_, err := b.Put(ctx, "k", bytes.NewReader([]byte("x")), 1, bucket.Condition{})
		if (err == nil) != want || !want && !errors.Is(err, bucket.ErrClock) && !errors.Is(err, bucket.ErrCredentials) {
			t.Errorf("Put issued %v ago = %v", age, err)
		}
	}
}

// TestSaysWhy: what is wrong with a configuration is said.
func TestSaysWhy(t *testing.T) {
	server := versitygw.Start(t)
	for _, c := range []struct {
		name   string
		change func(*bucket.Options)
		want   error
	}{
		{"all is well", func(*bucket.Options) {}, nil},
		{"bucket", func(o *bucket.Options) { o.Bucket = "another" }, bucket.ErrNoBucket},
		{"key", func(o *bucket.Options) { o.AccessKey = "another" }, bucket.ErrCredentials},
		{"secret", func(o *bucket.Options) { o.SecretKey = "another" }, bucket.ErrCredentials},
	} {
		err := open(t, server, func(o *bucket.Options) { o.Attempts = 1; c.change(o) }).Probe(t.Context())
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Probe = %v, want %v", c.name, err, c.want)
		}
	}
}

// A faulty transport does to the k-th request what it is told.
type faulty struct {
	next http.RoundTripper
	n    atomic.Int64
	do   func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error)
}

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	return f.do(f.n.Add(1), r, f.next)
}

func answer(r *http.Request, status int, code string) *http.Response {
	body := fmt.Sprintf("<Error><Code>%s</Code><Message>m</Message></Error>", code)
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{}, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader([]byte(body)))}
}

// TestTransport: whatever the network does once, the client tries again; a condition is then judged anew.
func TestTransport(t *testing.T) {
	server := versitygw.Start(t)
	lost := io.ErrUnexpectedEOF
	faults := map[string]func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error){
		"error before effect": func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if n == 1 {
				return nil, lost
			}
			return next.RoundTrip(r)
		},
		"503": func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if n == 1 {
				return answer(r, 503, "SlowDown"), nil
			}
			return next.RoundTrip(r)
		},
		"500 after effect": func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
			res, err := next.RoundTrip(r)
			if n == 1 && err == nil {
				res.Body.Close()
				return answer(r, 500, "InternalError"), nil
			}
			return res, err
		},
		"truncated": func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
			res, err := next.RoundTrip(r)
			if n == 1 && err == nil && r.Method == http.MethodGet {
				res.Body = struct {
					io.Reader
					io.Closer
				}{io.LimitReader(res.Body, 5), res.Body}
			}
			return res, err
		},
		"flipped": func(n int64, r *http.Request, next http.RoundTripper) (*http.Response, error) {
			res, err := next.RoundTrip(r)
			if n == 1 && err == nil && r.Method == http.MethodGet {
				body, _ := io.ReadAll(res.Body)
				body[len(body)/2] ^= 1
				res.Body = io.NopCloser(bytes.NewReader(body))
			}
			return res, err
		},
	}
	for name, do := range faults {
		t.Run(name, func(t *testing.T) {
			for _, get := range []bool{false, true} {
				f := &faulty{next: http.DefaultTransport, do: do}
				good := open(t, server, nil)
				b := open(t, server, func(o *bucket.Options) { o.Transport = f })
				data := []byte("some bytes that are whole")
				if get {
					if _, err := put(t, good, name, data, bucket.Condition{}); err != nil {
						t.Fatal(err)
					}
				} else if _, err := put(t, b, name, data, bucket.Condition{}); err != nil {
					t.Errorf("Put = %v", err)
				}
				if got, _, err := b.Get(context.Background(), name, 0, -1); err != nil || !bytes.Equal(got, data) {
					t.Errorf("Get = %q, %v", got, err)
				}
			}
		})
	}
}

// TestPatience: what never goes well ends with an error that says so.
func TestPatience(t *testing.T) {
	server := versitygw.Start(t)
	f := &faulty{next: http.DefaultTransport, do: func(_ int64, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return answer(r, 503, "SlowDown"), nil
	}}
	b := open(t, server, func(o *bucket.Options) { o.Transport, o.Attempts = f, 2 })
	if _, err := put(t, b, "k", []byte("x"), bucket.Condition{}); !errors.Is(err, bucket.ErrBusy) {
		t.Errorf("Put = %v, want ErrBusy", err)
	}
	if n := f.n.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}
