package httpcache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sarsen-build/sarsen/digest"
)

func TestFsck(t *testing.T) {
	type line struct {
		N int `json:"n"`
	}
	f := newFixture(t, func(o *Options) {
		o.Fsck = func(ctx context.Context, say func(any)) error {
			say(line{1})
			say(line{2})
			return nil
		}
	})
	got := f.do("POST", "/fsck", nil).must(t, 200)
	if want := "{\"n\":1}\n{\"n\":2}\n"; got.body != want {
		t.Errorf("body: got %q, want %q", got.body, want)
	}
	got.wantHeader(t, "Content-Type", "application/x-ndjson")
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
		f.do(method, "/fsck", nil).must(t, 405).wantHeader(t, "Allow", "POST")
	}
	f.do("POST", "/status", nil).must(t, 405)
	f.do("POST", casPath(digest.SHA256.Of([]byte("x"))), nil).must(t, 405)
	// A web page of somebody else's can make a browser send a POST.
	f.do("POST", "/fsck", nil, "Sec-Fetch-Site", "cross-site").must(t, 403)
}

// TestGC: a collection is asked for in the same way, with what it is to do in the query.
func TestGC(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Collect = func(_ context.Context, how url.Values, say func(any)) error {
			say(how)
			return errors.New("the bucket is away")
		}
	})
	got := f.do("POST", "/gc?all=true", nil).must(t, 200)
	if want := "{\"all\":[\"true\"]}\n{\"error\":\"the bucket is away\"}\n"; got.body != want {
		t.Errorf("got %q, want %q", got.body, want)
	}
	f.do("GET", "/gc", nil).must(t, 405).wantHeader(t, "Allow", "POST")
	f.do("POST", "/gc", nil, "Sec-Fetch-Site", "cross-site").must(t, 403)
	newFixture(t, nil).do("POST", "/gc", nil).must(t, 404)
}

func TestFsckFails(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Fsck = func(context.Context, func(any)) error { return errors.New("the disk \"x\" is gone") }
	})
	got := f.do("POST", "/fsck", nil).must(t, 200)
	if want := "{\"error\":\"the disk \\\"x\\\" is gone\"}\n"; got.body != want {
		t.Errorf("body: got %q, want %q", got.body, want)
	}
	newFixture(t, nil).do("POST", "/fsck", nil).must(t, 404)
}

// One check runs at a time, what it says comes at once, and it ends when its client goes.
func TestFsckIsOneAndEndsWithItsClient(t *testing.T) {
	ended := make(chan error, 1)
	f := newFixture(t, func(o *Options) {
		o.Fsck = func(ctx context.Context, say func(any)) error {
			say("begun")
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", f.server.URL+"/fsck", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	begun := make([]byte, len("\"begun\"\n"))
	if _, err := io.ReadFull(resp.Body, begun); err != nil || !strings.HasPrefix(string(begun), `"begun"`) {
		t.Fatalf("got %q, %v", begun, err)
	}
	f.do("POST", "/fsck", nil).must(t, 409, "running already")
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the check ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the check goes on without its client")
	}
}
