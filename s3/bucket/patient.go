package bucket

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A patient client gives up a try whose answer does not begin in time, or whose body takes longer than its length asks
// for, so that the next try finds a connection that works. How long a body of unknown length may take, the request's own
// context says.
type patient struct {
	next  aws.HTTPClient
	limit time.Duration
}

// Do implements aws.HTTPClient.
func (p patient) Do(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
		return p.next.Do(r) // the server puts the parts together, which takes as long as it takes
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	late := time.AfterFunc(p.limit+transfer(r.ContentLength), func() { cancel(silence{}) })
	res, err := p.next.Do(r.WithContext(ctx))
	late.Stop()
	if err != nil {
		if _, ok := context.Cause(ctx).(silence); ok {
			err = silence{}
		}
		cancel(nil)
		return nil, err
	}
	e := ending{ReadCloser: res.Body, ctx: ctx, cancel: cancel}
	if res.ContentLength > 0 {
		e.late = time.AfterFunc(p.limit+transfer(res.ContentLength), func() { cancel(silence{}) })
	}
	res.Body = e
	return res, nil
}

// A silence says that no answer came.
type silence struct{}

func (silence) Error() string { return "the server does not answer" }

// Timeout reports that another try may do better.
func (silence) Timeout() bool { return true }

// An ending body ends its request's context when it is closed.
type ending struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	late   *time.Timer // nil if nobody knows when that is
}

// Read implements io.Reader.
func (e ending) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if silent, ok := context.Cause(e.ctx).(silence); ok && err != nil && err != io.EOF {
		err = silent
	}
	return n, err
}

// Close implements io.Closer.
func (e ending) Close() error {
	if e.late != nil {
		e.late.Stop()
	}
	defer e.cancel(nil)
	return e.ReadCloser.Close()
}

// tryLimit is the usual Options.TryLimit: a server may have to delete a thousand objects before it answers.
const tryLimit = 20 * time.Second

// timeout returns for how long all tries of a request with n bytes may take together.
func timeout(n int64) time.Duration { return time.Minute + 2*transfer(n) }

// transfer returns for how long n bytes may be on their way: as long as they take at 128 KiB/s.
func transfer(n int64) time.Duration { return time.Duration(max(n, 0)>>17) * time.Second }
