package bucket_test

import (
	"context"
	"errors"
	"io"
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

// A lax bucket ignores conditions, as some servers do.
type lax struct{ *bucket.Memory }

func (l lax) Put(ctx context.Context, key string, body io.ReaderAt, size int64, _ bucket.Condition) (bucket.Object, error) {
	return l.Memory.Put(ctx, key, body, size, bucket.Condition{})
}

// An eager bucket lists what was there a request ago.
type eager struct {
	*bucket.Memory
	last *bucket.Page
}

func (e eager) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	p, err := e.Memory.List(ctx, prefix, after)
	*e.last, p = p, *e.last
	return p, err
}

// A blind bucket does not look at a request's age.
type blind struct{ *bucket.Memory }

func (b blind) Put(_ context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
	return b.Memory.Put(context.Background(), key, body, size, when)
}

// A small bucket loses the last part of what has several.
type small struct{ *bucket.Memory }

func (s small) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
	return s.Memory.Put(ctx, key, body, min(size, bucket.MinPart), when)
}

// A bucket of few takes no thousand keys at once.
type few struct{ *bucket.Memory }

func (f few) Delete(ctx context.Context, keys ...string) ([]string, error) {
	if len(keys) >= bucket.MaxDelete {
		return keys, errors.New("MalformedXML")
	}
	return f.Memory.Delete(ctx, keys...)
}

// TestCheckFinds: what a bucket does not do is found.
func TestCheckFinds(t *testing.T) {
	for name, b := range map[string]bucket.Bucket{
		"conditions": lax{&bucket.Memory{}},
		"listing":    eager{&bucket.Memory{}, &bucket.Page{}},
		"age":        blind{&bucket.Memory{}},
		"time":       timeless{&bucket.Memory{}},
		"parts":      small{&bucket.Memory{}},
		"batches":    few{&bucket.Memory{}},
	} {
		found, err := bucket.Check(t.Context(), b, "")
		bad := 0
		for _, f := range found {
			if f.Err != nil && f.Must {
				bad++
			}
			if f.Err != nil && strings.Contains(f.Err.Error(), "%!") {
				t.Errorf("%s: %s: %v", name, f.What, f.Err)
			}
		}
		if err != nil || bad == 0 {
			t.Errorf("%s: Check = %v, %v, want a finding", name, found, err)
		}
	}
	if _, err := bucket.Check(t.Context(), &bucket.Memory{Fault: func(string, string) bucket.Fault { return bucket.Refuse }}, ""); err == nil {
		t.Error("Check of a bucket that refuses = nil")
	}
}

// A deaf bucket compares no checksum: what comes is written.
type deaf struct{ *bucket.Memory }

func (d deaf) Put(ctx context.Context, key string, body io.ReaderAt, size int64, when bucket.Condition) (bucket.Object, error) {
	_, err := io.ReadAll(io.NewSectionReader(body, 0, size)) // as who makes the checksum does
	if err != nil {
		return bucket.Object{}, err
	}
	return d.Memory.Put(ctx, key, body, size, when)
}

// TestCheckChecksum: that a bucket takes bytes that were damaged on the way is found, and forbids nothing.
func TestCheckChecksum(t *testing.T) {
	found, err := bucket.Check(t.Context(), deaf{&bucket.Memory{}}, "")
	var got []bucket.Finding
	for _, f := range found {
		if f.Err != nil {
			got = append(got, f)
		}
	}
	if err != nil || len(got) != 1 || got[0].Must || !strings.Contains(got[0].What, "damaged on the way") {
		t.Errorf("Check = %v, %v, want that damage on the way is not noticed", got, err)
	}
}

// A timeless bucket does not say what time it is.
type timeless struct{ *bucket.Memory }

func (b timeless) List(ctx context.Context, prefix, after string) (bucket.Page, error) {
	p, err := b.Memory.List(ctx, prefix, after)
	p.Date = time.Time{}
	return p, err
}
