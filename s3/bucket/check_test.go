package bucket_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/s3/bucket"
)

func TestCheck(t *testing.T) {
	memory := &bucket.Memory{}
	for name, b := range map[string]bucket.Bucket{"memory": memory, "versitygw": real(t, nil).WithPartSize(bucket.MinPart)} {
		found, err := bucket.Check(t.Context(), b, "check/")
		if err != nil || len(found) < 8 {
			t.Errorf("%s: Check = %v, %v", name, found, err)
		}
		for _, f := range found {
			if f.Err != nil {
				t.Errorf("%s: %s: %v", name, f.What, f.Err)
			}
		}
		if p, err := b.List(t.Context(), "check/", ""); err != nil || len(p.Objects) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, p.Objects, err)
		}
	}
}

// A bent bucket does one verb in a way of its own.
type bent struct {
	*bucket.Memory
	get    func(key string, off, n int64) ([]byte, bucket.Object, error)
	put    func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error)
	delete func(keys []string) ([]string, error)
	list   func(prefix string) (bucket.Page, error)
	sweep  error
}

func (b bent) Get(ctx context.Context, key string, off, n int64) ([]byte, bucket.Object, error) {
	if b.get != nil {
		return b.get(key, off, n)
	}
	return b.Memory.Get(ctx, key, off, n)
}

func (b bent) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
	if b.put != nil {
		return b.put(ctx, key, body, size, when)
	}
	return b.Memory.Put(ctx, key, body, size, when)
}

func (b bent) Delete(ctx context.Context, keys ...string) ([]string, error) {
	if b.delete != nil {
		return b.delete(keys)
	}
	return b.Memory.Delete(ctx, keys...)
}

func (b bent) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	if b.list != nil {
		return b.list(prefix)
	}
	return b.Memory.List(ctx, prefix, after)
}

func (b bent) Sweep(context.Context, string, time.Time) (int, error) { return 0, b.sweep }

// TestCheckFinds: what a bucket does not do is found, and nothing else is.
func TestCheckFinds(t *testing.T) {
	ctx := t.Context()
	for _, test := range []struct {
		name string
		bend func(m *bucket.Memory, b *bent)
		want []string // words of the findings
	}{
		{"the listing is a request late", func(m *bucket.Memory, b *bent) {
			last := map[string]bucket.Page{}
			b.list = func(prefix string) (bucket.Page, error) {
				p, err := m.List(ctx, prefix, "")
				was := last[prefix]
				last[prefix] = p
				if was.Date.IsZero() {
					was.Date = p.Date
				}
				return was, err
			}
		}, []string{"listed right after", "deleted at once"}},
		{"reads are of the first write", func(m *bucket.Memory, b *bent) {
			b.put = func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				if strings.HasSuffix(key, "/again") && m.Value(key) != nil {
					return bucket.Object{}, nil
				}
				return m.Put(ctx, key, body, size, when)
			}
		}, []string{"as it was written last"}},
		{"If-None-Match is ignored", func(m *bucket.Memory, b *bent) {
			b.put = func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				when.Absent = false
				return m.Put(ctx, key, body, size, when)
			}
		}, []string{"If-None-Match"}},
		{"If-Match is ignored", func(m *bucket.Memory, b *bent) {
			b.put = func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				when.ETag = ""
				return m.Put(ctx, key, body, size, when)
			}
		}, []string{"If-Match: of writes", "If-Match refuses when"}},
		{"If-Match is ignored where nothing is", func(m *bucket.Memory, b *bent) {
			b.put = func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				if m.Value(key) == nil {
					when.ETag = ""
				}
				return m.Put(ctx, key, body, size, when)
			}
		}, []string{"If-Match refuses when"}},
		{"ranges are ignored", func(m *bucket.Memory, b *bent) {
			b.get = func(key string, _, _ int64) ([]byte, bucket.Object, error) { return m.Get(ctx, key, 0, -1) }
		}, []string{"parts of an object"}},
		{"the last part is lost", func(m *bucket.Memory, b *bent) {
			b.put = func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				return m.Put(ctx, key, body, min(size, bucket.MinPart), when)
			}
		}, []string{"a large object"}},
		{"a request's age is not looked at", func(m *bucket.Memory, b *bent) {
			b.put = func(_ context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				return m.Put(ctx, key, body, size, when)
			}
		}, []string{"too old"}},
		{"no thousand keys", func(m *bucket.Memory, b *bent) {
			b.delete = func(keys []string) ([]string, error) {
				if len(keys) >= bucket.MaxDelete {
					return keys, errors.New("MalformedXML")
				}
				return m.Delete(ctx, keys...)
			}
		}, []string{"deleted at once"}},
		{"damage is not noticed", func(m *bucket.Memory, b *bent) {
			b.put = func(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
				if _, err := io.ReadAll(io.NewSectionReader(body, 0, size)); err != nil { // as who makes the checksum does
					return bucket.Object{}, err
				}
				return m.Put(ctx, key, body, size, when)
			}
		}, []string{"damaged on the way"}},
		{"uploads are not listed", func(_ *bucket.Memory, b *bent) { b.sweep = errors.New("NotImplemented") }, []string{"nobody ended"}},
		{"no Date", func(m *bucket.Memory, b *bent) {
			b.list = func(prefix string) (bucket.Page, error) {
				p, err := m.List(ctx, prefix, "")
				p.Date = time.Time{}
				return p, err
			}
		}, []string{"what time it is", "clock"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bent{Memory: &bucket.Memory{}}
			test.bend(b.Memory, &b)
			found, err := bucket.Check(ctx, b, "")
			if err != nil {
				t.Fatal(err)
			}
			want := test.want
			for _, f := range found {
				if f.Err == nil {
					continue
				}
				if len(want) == 0 || !strings.Contains(f.What, want[0]) || strings.Contains(f.Err.Error(), "%!") {
					t.Fatalf("found %q: %v, want next %q", f.What, f.Err, want)
				}
				want = want[1:]
			}
			if len(want) > 0 {
				t.Errorf("not found: %q", want)
			}
		})
	}
	if _, err := bucket.Check(ctx, &bucket.Memory{Fault: func(string, string) bucket.Fault { return bucket.Refuse }}, ""); err == nil {
		t.Error("Check of a bucket that refuses = nil")
	}
}

// TestCheckForbids: what data would be lost without forbids the bucket; three things may be missing.
func TestCheckForbids(t *testing.T) {
	found, err := bucket.Check(t.Context(), &bucket.Memory{}, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		if !f.Must {
			got = append(got, f.What)
		}
	}
	want := []string{
		"bytes that were damaged on the way are refused", "uploads that nobody ended can be found",
		"the server's clock and this machine's agree within a minute",
	}
	if !slices.Equal(got, want) {
		t.Errorf("may be missing: %q, want %q", got, want)
	}
}
